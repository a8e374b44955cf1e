package statefulset

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/client"
)

// useClaims makes a pod use its own claims in place of volumes of the same names.
func useClaims(set *appsv1.StatefulSet, pod *corev1.Pod, ordinal int) {
	var volumes []corev1.Volume
	isClaim := map[string]bool{}
	for _, template := range set.Spec.VolumeClaimTemplates {
		isClaim[template.Name] = true
		volumes = append(volumes, corev1.Volume{Name: template.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(set, template.Name, ordinal)},
		}})
	}
	for _, volume := range pod.Spec.Volumes {
		if !isClaim[volume.Name] {
			volumes = append(volumes, volume)
		}
	}
	pod.Spec.Volumes = volumes
}

// usesClaims says whether a pod uses all of its claims.
func usesClaims(set *appsv1.StatefulSet, pod *corev1.Pod, ordinal int) bool {
	for _, template := range set.Spec.VolumeClaimTemplates {
		if !slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
			return v.Name == template.Name && v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claimName(set, template.Name, ordinal)
		}) {
			return false
		}
	}
	return true
}

// eachClaim calls visit for the existing claims of an ordinal.
func (u *update) eachClaim(ordinal int, visit func(*corev1.PersistentVolumeClaim) error) error {
	v := u.client.View()
	for _, template := range u.set.Spec.VolumeClaimTemplates {
		if claim, ok := client.Get[*corev1.PersistentVolumeClaim](v, u.set.Namespace, claimName(u.set, template.Name, ordinal)); ok {
			if err := visit(claim); err != nil {
				return err
			}
		}
	}
	return nil
}

// createClaims creates the claims of a pod that do not exist. It fails if one is being deleted, as the pod must not begin to use it.
func (u *update) createClaims(pod *corev1.Pod, ordinal int) error {
	var failures []error
	v := u.client.View()
	for _, template := range u.set.Spec.VolumeClaimTemplates {
		name := claimName(u.set, template.Name, ordinal)
		if claim, ok := client.Get[*corev1.PersistentVolumeClaim](v, u.set.Namespace, name); ok {
			if claim.DeletionTimestamp != nil {
				failures = append(failures, fmt.Errorf("pvc %s is being deleted", name))
			}
			continue
		}
		claim := template.DeepCopy()
		claim.Namespace, claim.Name, claim.Status = u.set.Namespace, name, corev1.PersistentVolumeClaimStatus{}
		if claim.Labels == nil {
			claim.Labels = map[string]string{}
		}
		maps.Copy(claim.Labels, u.set.Spec.Selector.MatchLabels)
		_, err := client.Create(u.ctx, u.client, claim)
		if err != nil {
			failures = append(failures, fmt.Errorf("failed to create PVC %s: %w", name, err))
		}
		switch {
		case err == nil:
			u.tell("SuccessfulCreate", "Create Claim %s Pod %s in StatefulSet %s success", name, pod.Name, u.set.Name)
		case !apierrors.IsAlreadyExists(err) && endsWithNamespace(err) != nil:
			u.warn("FailedCreate", "Create Claim %s for Pod %s in StatefulSet %s failed error: %s", name, pod.Name, u.set.Name, err)
		}
	}
	return errors.Join(failures...)
}
