package admission

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/component-helpers/storage/ephemeral"
	csitranslation "k8s.io/csi-translation-lib"
	"k8s.io/klog/v2"

	"github.com/kontiki/kontiki/api/objects"
)

var translator = csitranslation.New()

// podAsksForAudience says whether a pod's node needs tokens for an audience: for a projected volume, or for the driver of a CSI volume.
// If it is not found, and something could not be looked up, the error says what.
func podAsksForAudience(a *objects.Attributes, pod *corev1.Pod, audience string) (bool, error) {
	var problem error
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if volume.Projected != nil {
			for _, source := range volume.Projected.Sources {
				if source.ServiceAccountToken != nil && source.ServiceAccountToken.Audience == audience {
					return true, nil
				}
			}
		}
		found, err := driverAsksForAudience(a, pod, volume, audience)
		if found {
			return true, nil
		}
		if err != nil {
			problem = a.Forbid("error validating audience %q: %w", audience, err)
		}
	}
	return false, problem
}

func driverAsksForAudience(a *objects.Attributes, pod *corev1.Pod, volume *corev1.Volume, audience string) (bool, error) {
	name, err := driverOf(a, pod, volume)
	if err != nil || name == "" {
		return false, err
	}
	driver, err := stored[*storagev1.CSIDriver](a, "", name)
	if err != nil {
		return false, err
	}
	for _, request := range driver.Spec.TokenRequests {
		if request.Audience == audience {
			return true, nil
		}
	}
	return false, nil
}

// driverOf returns the CSI driver of a volume, "" if it has none.
func driverOf(a *objects.Attributes, pod *corev1.Pod, volume *corev1.Volume) (string, error) {
	claim := ""
	switch {
	case volume.Ephemeral != nil && volume.Ephemeral.VolumeClaimTemplate != nil:
		claim = ephemeral.VolumeClaimName(pod, volume)
	case volume.PersistentVolumeClaim != nil:
		claim = volume.PersistentVolumeClaim.ClaimName
	case volume.CSI != nil:
		return volume.CSI.Driver, nil
	case translator.IsInlineMigratable(volume):
		pv, err := translator.TranslateInTreeInlineVolumeToCSI(klog.Background(), volume, pod.Namespace)
		if err != nil || pv == nil || pv.Spec.CSI == nil {
			return "", err
		}
		return pv.Spec.CSI.Driver, nil
	default:
		return "", nil
	}
	pvc, err := stored[*corev1.PersistentVolumeClaim](a, pod.Namespace, claim)
	if err != nil {
		return "", err
	}
	pv, err := stored[*corev1.PersistentVolume](a, "", pvc.Spec.VolumeName)
	if err != nil {
		return "", err
	}
	if pv.Spec.CSI == nil && translator.IsPVMigratable(pv) {
		if pv, err = translator.TranslateInTreePVToCSI(klog.Background(), pv.DeepCopy()); err != nil || pv == nil {
			return "", err
		}
	}
	if pv.Spec.CSI == nil {
		return "", nil
	}
	return pv.Spec.CSI.Driver, nil
}
