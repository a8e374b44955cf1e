package persistentvolume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	storage "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// claimName returns the name of the claim that a pod's volume is, or "".
func claimName(pod *corev1.Pod, volume *corev1.Volume) string {
	switch {
	case volume.PersistentVolumeClaim != nil:
		return volume.PersistentVolumeClaim.ClaimName
	case volume.Ephemeral != nil:
		return ephemeral.VolumeClaimName(pod, volume)
	}
	return ""
}

func (r *reconciler) syncClaim(ctx context.Context, v client.View, key controller.Key) error {
	claim, ok := client.Get[*corev1.PersistentVolumeClaim](v, key.Namespace, key.Name)
	if !ok {
		return nil
	}
	claim, err := r.migrateClaim(ctx, claim)
	if err != nil {
		return err
	}
	switch {
	case bound(claim):
		return r.syncBound(ctx, v, claim)
	case claim.Spec.VolumeName != "":
		return r.syncNamed(ctx, v, claim)
	}
	return r.syncUnbound(ctx, v, claim)
}

// syncUnbound binds a claim to the best volume that there is, or asks for one to be made.
func (r *reconciler) syncUnbound(ctx context.Context, v client.View, claim *corev1.PersistentVolumeClaim) error {
	className := storage.GetPersistentVolumeClaimClass(claim)
	class, classExists := client.Get[*storagev1.StorageClass](v, "", className)
	delayed := false
	if classExists {
		if class.VolumeBindingMode == nil {
			return fmt.Errorf("VolumeBindingMode not set for StorageClass %q", className)
		}
		delayed = *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
	}
	volume, err := match(claim, volumes.Any(v, claimKey(claim.Namespace, claim.Name), classKey(className)), delayed)
	if err != nil {
		return fmt.Errorf("error finding PV for claim %q: %w", claim.Namespace+"/"+claim.Name, err)
	}
	if volume != nil {
		return r.bind(ctx, volume, claim)
	}
	if assigned, err := r.assignDefaultClass(ctx, v, claim); assigned || err != nil {
		return err
	}
	if given, err := r.giveUpMissingNode(ctx, v, claim); given || err != nil {
		return err
	}
	switch {
	case delayed && !storage.IsDelayBindingProvisioning(claim):
		r.tellDelay(v, claim)
	case className != "":
		return r.provision(ctx, claim, class, className)
	default:
		r.recorder.Event(claim, corev1.EventTypeNormal, "FailedBinding", "no persistent volumes available for this claim and no storage class is set")
	}
	_, err = r.setClaimPhase(ctx, claim, corev1.ClaimPending, nil)
	return err
}

// giveUpMissingNode makes the scheduler choose again if the node that it chose for a claim is gone. External provisioners do the same, but
// one that runs on that node does not.
func (r *reconciler) giveUpMissingNode(ctx context.Context, v client.View, claim *corev1.PersistentVolumeClaim) (given bool, err error) {
	name := claim.Annotations[storage.AnnSelectedNode]
	if name == "" {
		return false, nil
	}
	if _, ok := client.Get[*corev1.Node](v, "", name); ok {
		return false, nil
	}
	changed := claim.DeepCopy()
	delete(changed.Annotations, storage.AnnSelectedNode)
	if _, err := client.Update(ctx, r.client, changed); err != nil {
		return false, err
	}
	r.recorder.Eventf(claim, corev1.EventTypeWarning, "ProvisioningFailed", "Failed to get target node: node %q not found", name)
	return true, nil
}

// match returns the smallest of the volumes that satisfies a claim, among those with the fewest access modes; or the one that is
// reserved for the claim.
func match(claim *corev1.PersistentVolumeClaim, candidates []*corev1.PersistentVolume, delayed bool) (*corev1.PersistentVolume, error) {
	byModes := map[int][]*corev1.PersistentVolume{}
	for _, volume := range candidates {
		if storage.CheckAccessModes(claim, volume) {
			n := len(volume.Spec.AccessModes)
			byModes[n] = append(byModes[n], volume)
		}
	}
	for n := range int(maxAccessModes) + 1 {
		if len(byModes[n]) == 0 {
			continue
		}
		if found, err := storage.FindMatchingVolume(claim, byModes[n], nil, nil, delayed, true); found != nil || err != nil {
			return found, err
		}
	}
	return nil, nil
}

// maxAccessModes is how many different access modes there are.
const maxAccessModes = 4

// assignDefaultClass gives a claim that names no class the default class, if one was made since the claim was.
func (r *reconciler) assignDefaultClass(ctx context.Context, v client.View, claim *corev1.PersistentVolumeClaim) (assigned bool, err error) {
	if storage.PersistentVolumeClaimHasClass(claim) {
		return false, nil
	}
	class := defaultClass(v)
	if class == nil {
		return false, nil
	}
	changed := claim.DeepCopy()
	changed.Spec.StorageClassName = &class.Name
	_, err = client.Update(ctx, r.client, changed)
	return err == nil, err
}

// defaultClass returns the newest class that is marked as the default, as admission chooses it.
func defaultClass(v client.View) (chosen *storagev1.StorageClass) {
	client.Each(v, "", func(class *storagev1.StorageClass) bool {
		if class.Annotations["storageclass.kubernetes.io/is-default-class"] != "true" && class.Annotations["storageclass.beta.kubernetes.io/is-default-class"] != "true" {
			return true
		}
		if chosen == nil || chosen.CreationTimestamp.Before(&class.CreationTimestamp) || chosen.CreationTimestamp.Equal(&class.CreationTimestamp) && class.Name < chosen.Name {
			chosen = class
		}
		return true
	})
	return chosen
}

// tellDelay says what a claim that is not bound at once waits for.
func (r *reconciler) tellDelay(v client.View, claim *corev1.PersistentVolumeClaim) {
	var names []string
	for _, pod := range waitingPods.Any(v, claimKey(claim.Namespace, claim.Name)) {
		if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			names = append(names, pod.Name)
		}
	}
	switch len(names) {
	case 0:
		r.recorder.Event(claim, corev1.EventTypeNormal, "WaitForFirstConsumer", "waiting for first consumer to be created before binding")
	case 1:
		r.recorder.Eventf(claim, corev1.EventTypeNormal, "WaitForPodScheduled", "waiting for pod %s to be scheduled", names[0])
	default:
		r.recorder.Eventf(claim, corev1.EventTypeNormal, "WaitForPodScheduled", "waiting for pods %s to be scheduled", strings.Join(names, ","))
	}
}

// syncNamed binds a claim to the volume that it names.
func (r *reconciler) syncNamed(ctx context.Context, v client.View, claim *corev1.PersistentVolumeClaim) error {
	volume, ok := client.Get[*corev1.PersistentVolume](v, "", claim.Spec.VolumeName)
	switch {
	case !ok: // it may come
	case volume.Spec.ClaimRef == nil:
		err := satisfies(volume, claim)
		if err == nil {
			return r.bind(ctx, volume, claim)
		}
		r.recorder.Eventf(claim, corev1.EventTypeWarning, "VolumeMismatch", "Cannot bind to requested volume %q: %s", volume.Name, err)
	case storage.IsVolumeBoundToClaim(volume, claim):
		return r.bind(ctx, volume, claim)
	default:
		r.recorder.Eventf(claim, corev1.EventTypeWarning, "FailedBinding", "volume %q already bound to a different claim.", volume.Name)
	}
	_, err := r.setClaimPhase(ctx, claim, corev1.ClaimPending, nil)
	return err
}

// satisfies says why a volume is not what a claim that names it requests.
func satisfies(volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	size, requested := volume.Spec.Capacity[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	switch {
	case volume.DeletionTimestamp != nil:
		return fmt.Errorf("the volume is marked for deletion %q", volume.Name)
	case size.Cmp(requested) < 0:
		return errors.New("requested PV is too small")
	case storage.GetPersistentVolumeClass(volume) != storage.GetPersistentVolumeClaimClass(claim):
		return errors.New("storageClassName does not match")
	case ptr.Deref(volume.Spec.VolumeAttributesClassName, "") != ptr.Deref(claim.Spec.VolumeAttributesClassName, ""):
		return errors.New("volumeAttributesClassName does not match")
	case storage.CheckVolumeModeMismatches(&claim.Spec, &volume.Spec):
		return errors.New("incompatible volumeMode")
	case !storage.CheckAccessModes(claim, volume):
		return errors.New("incompatible accessMode")
	}
	return nil
}

// syncBound repairs the binding of a claim, or says that it is lost.
func (r *reconciler) syncBound(ctx context.Context, v client.View, claim *corev1.PersistentVolumeClaim) error {
	lost := func(reason, message string) error {
		changed, err := r.setClaimPhase(ctx, claim, corev1.ClaimLost, nil)
		if changed && err == nil {
			r.recorder.Event(claim, corev1.EventTypeWarning, reason, message)
		}
		return err
	}
	if claim.Spec.VolumeName == "" {
		return lost("ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	}
	volume, ok := client.Get[*corev1.PersistentVolume](v, "", claim.Spec.VolumeName)
	switch {
	case !ok:
		return lost("ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case volume.Spec.ClaimRef == nil || volume.Spec.ClaimRef.UID == claim.UID:
		return r.bind(ctx, volume, claim)
	}
	return lost("ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

// provision asks the provisioner of a class for a volume.
func (r *reconciler) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, name string) error {
	if class == nil {
		r.recorder.Event(claim, corev1.EventTypeWarning, "ProvisioningFailed", apierrors.NewNotFound(storagev1.Resource("storageclass"), name).Error())
		return nil
	}
	provisioner := class.Provisioner
	if csi, err := translator.GetCSINameFromInTreeName(provisioner); err == nil {
		provisioner = csi
	} else if strings.HasPrefix(provisioner, "kubernetes.io/") {
		r.recorder.Eventf(claim, corev1.EventTypeWarning, "ProvisioningFailed", "no volume plugin matched name: %s", provisioner)
		return nil
	}
	if claim.Annotations[storage.AnnStorageProvisioner] != provisioner || claim.Annotations[storage.AnnBetaStorageProvisioner] != provisioner {
		changed := claim.DeepCopy()
		metav1.SetMetaDataAnnotation(&changed.ObjectMeta, storage.AnnBetaStorageProvisioner, provisioner)
		metav1.SetMetaDataAnnotation(&changed.ObjectMeta, storage.AnnStorageProvisioner, provisioner)
		if _, err := client.Update(ctx, r.client, changed); err != nil {
			if !apierrors.IsConflict(err) {
				r.recorder.Eventf(claim, corev1.EventTypeWarning, "ProvisioningFailed", "Error saving claim: %v", err)
			}
			return err
		}
	}
	r.recorder.Eventf(claim, corev1.EventTypeNormal, "ExternalProvisioning", "Waiting for a volume to be created either by the external provisioner '%s' "+
		"or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.", provisioner)
	return nil
}

// setClaimPhase stores a claim's phase, and what it has by its volume; volume is nil if it is not bound.
func (r *reconciler) setClaimPhase(ctx context.Context, claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, volume *corev1.PersistentVolume) (changed bool, err error) {
	next := claim.DeepCopy()
	st := &next.Status
	changed = st.Phase != phase
	if volume == nil {
		changed = changed || st.AccessModes != nil || st.Capacity != nil || st.CurrentVolumeAttributesClassName != nil
		st.AccessModes, st.Capacity, st.CurrentVolumeAttributesClassName = nil, nil, nil
	} else {
		if !slices.Equal(st.AccessModes, volume.Spec.AccessModes) {
			st.AccessModes, changed = volume.Spec.AccessModes, true
		}
		if st.Phase != phase { // later the capacity follows the resizing of the file system
			if err := setCapacity(st, volume); err != nil {
				return false, err
			}
		}
		if st.Phase == corev1.ClaimPending && phase == corev1.ClaimBound {
			st.CurrentVolumeAttributesClassName = volume.Spec.VolumeAttributesClassName
		}
	}
	if !changed {
		return false, nil
	}
	st.Phase = phase
	_, err = client.UpdateStatus(ctx, r.client, next)
	return true, err
}
