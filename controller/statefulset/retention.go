package statefulset

import (
	"errors"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/api/client"
)

var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

// staleClaim says whether a claim of the pod will be deleted together with a previous pod of this name, so that the next one must
// wait for that.
func (u *update) staleClaim(pod *corev1.Pod, ordinal int) (stale bool) {
	if retention(u.set).WhenScaled == appsv1.RetainPersistentVolumeClaimRetentionPolicyType {
		return false
	}
	_ = u.eachClaim(ordinal, func(claim *corev1.PersistentVolumeClaim) error {
		stale = stale || staleRef(claim, pod, podKind)
		return nil
	})
	return stale
}

// claimsRetained says whether the owners of a pod's claims are as the set's retention policy demands.
func (u *update) claimsRetained(pod *corev1.Pod, ordinal int) bool {
	return u.eachClaim(ordinal, func(claim *corev1.PersistentVolumeClaim) error {
		if !ownedAsWanted(claim, u.set, pod, ordinal) {
			return errors.New("it has other owners")
		}
		return nil
	}) == nil
}

// retainClaims sets the owners of a pod's claims as the set's retention policy demands.
func (u *update) retainClaims(pod *corev1.Pod, ordinal int) error {
	return u.eachClaim(ordinal, func(claim *corev1.PersistentVolumeClaim) error {
		conflict := foreignController(claim, u.set, pod)
		if conflict {
			u.warn("ConflictingController", "PersistentVolumeClaim %s has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim", claim.Name)
		}
		if ownedAsWanted(claim, u.set, pod, ordinal) {
			return nil
		}
		changed := claim.DeepCopy()
		changed.OwnerReferences = slices.DeleteFunc(changed.OwnerReferences, func(ref metav1.OwnerReference) bool {
			return refersTo(ref, u.set, gvk) || refersTo(ref, pod, podKind)
		})
		if !conflict {
			switch wantedOwner(u.set, ordinal) {
			case ownedBySet:
				changed.OwnerReferences = append(changed.OwnerReferences, *metav1.NewControllerRef(u.set, gvk))
			case ownedByPod:
				changed.OwnerReferences = append(changed.OwnerReferences, *metav1.NewControllerRef(pod, podKind))
			}
		}
		if _, err := client.Update(u.ctx, u.client, changed); err != nil {
			return fmt.Errorf("could not update claim %s for delete policy ownerRefs: %w", claim.Name, err)
		}
		return nil
	})
}

func retention(set *appsv1.StatefulSet) appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy {
	if set.Spec.PersistentVolumeClaimRetentionPolicy == nil {
		return appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{
			WhenDeleted: appsv1.RetainPersistentVolumeClaimRetentionPolicyType, WhenScaled: appsv1.RetainPersistentVolumeClaimRetentionPolicyType,
		}
	}
	return *set.Spec.PersistentVolumeClaimRetentionPolicy
}

type claimOwner int

const (
	unowned claimOwner = iota
	ownedBySet
	ownedByPod
)

// wantedOwner returns the object with which a claim is to be deleted: its pod, when the set is scaled down, or the set.
func wantedOwner(set *appsv1.StatefulSet, ordinal int) claimOwner {
	policy := retention(set)
	switch {
	case policy.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType && !inRange(set, ordinal):
		return ownedByPod
	case policy.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType:
		return ownedBySet
	}
	return unowned
}

// ownedAsWanted says whether a claim's owners need no change. A claim with references to a previous set or pod of the same name is
// the garbage collector's, and one that another controller manages is not touched.
func ownedAsWanted(claim *corev1.PersistentVolumeClaim, set *appsv1.StatefulSet, pod *corev1.Pod, ordinal int) bool {
	bySet, bySetAsController := refTo(claim, set)
	byPod, byPodAsController := refTo(claim, pod)
	switch {
	case staleRef(claim, set, gvk) || staleRef(claim, pod, podKind):
		return true
	case foreignController(claim, set, pod):
		return !bySet && !byPod
	case bySet != bySetAsController || byPod != byPodAsController:
		return false
	}
	want := wantedOwner(set, ordinal)
	return bySet == (want == ownedBySet) && byPod == (want == ownedByPod)
}

// foreignController says whether something other than the set and the pod controls a claim that the retention policy concerns.
func foreignController(claim *corev1.PersistentVolumeClaim, set *appsv1.StatefulSet, pod *corev1.Pod) bool {
	policy := retention(set)
	const retain = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	if policy.WhenScaled == retain && policy.WhenDeleted == retain {
		return false
	}
	return slices.ContainsFunc(claim.OwnerReferences, func(ref metav1.OwnerReference) bool {
		switch {
		case refersTo(ref, set, gvk):
			return ref.UID != set.UID
		case refersTo(ref, pod, podKind):
			return ref.UID != pod.UID
		}
		return ref.Controller != nil && *ref.Controller
	})
}

// refersTo says whether a reference names an object, which may be of another UID.
func refersTo(ref metav1.OwnerReference, obj client.Object, kind schema.GroupVersionKind) bool {
	return ref.APIVersion == kind.GroupVersion().String() && ref.Kind == kind.Kind && ref.Name == obj.GetName()
}

// refTo says whether obj refers to an owner, and whether as its controller.
func refTo(obj, owner client.Object) (owned, controlled bool) {
	for _, ref := range obj.GetOwnerReferences() {
		if ref.UID == owner.GetUID() {
			return true, ref.Controller != nil && *ref.Controller
		}
	}
	return false, false
}

// staleRef says whether a claim refers to another object of an object's name.
func staleRef(claim *corev1.PersistentVolumeClaim, obj client.Object, kind schema.GroupVersionKind) bool {
	return slices.ContainsFunc(claim.OwnerReferences, func(ref metav1.OwnerReference) bool { return refersTo(ref, obj, kind) && ref.UID != obj.GetUID() })
}
