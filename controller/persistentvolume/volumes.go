package persistentvolume

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storage "k8s.io/component-helpers/storage/volume"
	csitranslation "k8s.io/csi-translation-lib"

	"github.com/kontiki/kontiki/api/client"
)

// translator knows the CSI drivers that have replaced the provisioners of old kinds of volumes.
var translator = csitranslation.New()

func (r *reconciler) syncVolume(ctx context.Context, v client.View, name string) error {
	volume, ok := client.Get[*corev1.PersistentVolume](v, "", name)
	if !ok {
		return nil
	}
	volume, err := r.migrateVolume(ctx, volume)
	if err != nil {
		return err
	}
	ref := volume.Spec.ClaimRef
	if ref == nil || ref.UID == "" { // free, or reserved for a claim that is not bound to it yet
		_, err := r.setVolumePhase(ctx, volume, corev1.VolumeAvailable, "")
		return err
	}
	claim, ok := client.Get[*corev1.PersistentVolumeClaim](v, ref.Namespace, ref.Name)
	switch {
	case !ok || claim.UID != ref.UID:
		return r.reclaim(ctx, volume)
	case claim.Spec.VolumeName == "":
		if storage.CheckVolumeModeMismatches(&claim.Spec, &volume.Spec) {
			r.recorder.Eventf(volume, corev1.EventTypeWarning, "VolumeMismatch", "Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", claim.Name)
			r.recorder.Eventf(claim, corev1.EventTypeWarning, "VolumeMismatch", "Cannot bind PersistentVolume %q to requested PersistentVolumeClaim due to incompatible volumeMode.", volume.Name)
		}
		return nil // the claim, which is reconciled for every change of the volume, completes the binding
	case claim.Spec.VolumeName == volume.Name:
		_, err := r.setVolumePhase(ctx, volume, corev1.VolumeBound, "")
		return err
	case metav1.HasAnnotation(volume.ObjectMeta, storage.AnnDynamicallyProvisioned) && volume.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return r.reclaim(ctx, volume) // it was made for this claim, which has another one
	}
	return r.unbind(ctx, volume)
}

// setVolumePhase stores a volume's phase if it differs.
func (r *reconciler) setVolumePhase(ctx context.Context, volume *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) (*corev1.PersistentVolume, error) {
	if volume.Status.Phase == phase {
		return volume, nil
	}
	changed := volume.DeepCopy()
	changed.Status.Phase, changed.Status.Message = phase, message
	return client.UpdateStatus(ctx, r.client, changed)
}

// bind sets what is missing of the binding of a volume to a claim.
func (r *reconciler) bind(ctx context.Context, volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	next, changed, err := storage.GetBindVolumeToClaim(volume, claim)
	if err != nil {
		return err
	}
	if changed {
		if volume, err = client.Update(ctx, r.client, next); err != nil {
			return err
		}
	}
	if volume, err = r.setVolumePhase(ctx, volume, corev1.VolumeBound, ""); err != nil {
		return err
	}
	if claim.Spec.VolumeName != volume.Name || !bound(claim) {
		next := claim.DeepCopy()
		if next.Spec.VolumeName != volume.Name {
			next.Spec.VolumeName = volume.Name
			if !metav1.HasAnnotation(next.ObjectMeta, storage.AnnBoundByController) {
				metav1.SetMetaDataAnnotation(&next.ObjectMeta, storage.AnnBoundByController, "yes")
			}
		}
		metav1.SetMetaDataAnnotation(&next.ObjectMeta, storage.AnnBindCompleted, "yes")
		if claim, err = client.Update(ctx, r.client, next); err != nil {
			return err
		}
	}
	_, err = r.setClaimPhase(ctx, claim, corev1.ClaimBound, volume)
	return err
}

// unbind makes a volume available again whose claim is bound to another one. It stays reserved if a user reserved it.
func (r *reconciler) unbind(ctx context.Context, volume *corev1.PersistentVolume) error {
	next := volume.DeepCopy()
	if metav1.HasAnnotation(volume.ObjectMeta, storage.AnnBoundByController) {
		next.Spec.ClaimRef = nil
		delete(next.Annotations, storage.AnnBoundByController)
	} else {
		next.Spec.ClaimRef.UID = ""
	}
	next, err := client.Update(ctx, r.client, next)
	if err != nil {
		return err
	}
	_, err = r.setVolumePhase(ctx, next, corev1.VolumeAvailable, "")
	return err
}

// reclaim handles a volume whose claim has been deleted, by its policy. A failure stays visible.
func (r *reconciler) reclaim(ctx context.Context, volume *corev1.PersistentVolume) (err error) {
	if volume.Status.Phase != corev1.VolumeFailed {
		if volume, err = r.setVolumePhase(ctx, volume, corev1.VolumeReleased, ""); err != nil {
			return err
		}
	}
	switch volume.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimRetain:
		return nil
	case corev1.PersistentVolumeReclaimRecycle:
		return r.fail(ctx, volume, "VolumeFailedRecycle", "No recycler plugin found for the volume!")
	case corev1.PersistentVolumeReclaimDelete:
		if why := undeletable(volume); why != "" {
			return r.fail(ctx, volume, "VolumeFailedDelete", why)
		}
		return nil // the provisioner deletes volumes that are Released
	}
	return r.fail(ctx, volume, "VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy")
}

// undeletable says why nobody deletes a volume; it is empty if a provisioner does.
func undeletable(volume *corev1.PersistentVolume) string {
	if volume.Annotations[storage.AnnMigratedTo] != "" {
		return ""
	}
	if by := volume.Annotations[storage.AnnDynamicallyProvisioned]; by != "" {
		if strings.HasPrefix(by, "kubernetes.io/") && !translator.IsMigratableIntreePluginByName(by) {
			return "no volume plugin matched name: " + by
		}
		return ""
	}
	if volume.Spec.CSI != nil || translator.IsPVMigratable(volume) {
		return ""
	}
	return fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched", volume.Name)
}

func (r *reconciler) fail(ctx context.Context, volume *corev1.PersistentVolume, reason, message string) error {
	if volume.Status.Phase == corev1.VolumeFailed {
		return nil
	}
	failed, err := r.setVolumePhase(ctx, volume, corev1.VolumeFailed, message)
	if err == nil {
		r.recorder.Event(failed, corev1.EventTypeWarning, reason, message)
	}
	return err
}

// preResize is the annotation with a volume's size before it was expanded, as long as its file system was not.
const preResize = "volume.alpha.kubernetes.io/pre-resize-capacity"

// setCapacity gives a claim's status the capacity of its volume.
func setCapacity(st *corev1.PersistentVolumeClaimStatus, volume *corev1.PersistentVolume) error {
	size, ok := volume.Spec.Capacity[corev1.ResourceStorage]
	if !ok {
		return fmt.Errorf("PersistentVolume %q is without a storage capacity", volume.Name)
	}
	if text, ok := volume.Annotations[preResize]; ok {
		if before, err := resource.ParseQuantity(text); err == nil {
			size = before
		}
		if st.Capacity == nil {
			st.Capacity = corev1.ResourceList{}
		}
		st.Capacity[corev1.ResourceStorage] = size
		return nil
	}
	if now, ok := st.Capacity[corev1.ResourceStorage]; !ok || now.Cmp(size) != 0 {
		st.Capacity = volume.Spec.Capacity
	}
	return nil
}
