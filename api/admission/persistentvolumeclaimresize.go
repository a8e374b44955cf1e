package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	storagehelpers "k8s.io/component-helpers/storage/volume"

	"github.com/kontiki/kontiki/api/objects"
)

// persistentVolumeClaimResize refuses the growth of claims whose storage class does not allow it.
func persistentVolumeClaimResize() objects.Step {
	return objects.Step{
		Name:    "PersistentVolumeClaimResize",
		Handles: handles(claims, objects.OpUpdate),
		Validate: func(_ context.Context, a *objects.Attributes) error {
			claim, old := a.Object.(*corev1.PersistentVolumeClaim), a.Old.(*corev1.PersistentVolumeClaim)
			size, was := claim.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
			if size.Cmp(was) <= 0 {
				return nil
			}
			if old.Status.Phase != corev1.ClaimBound {
				return a.Forbid("Only bound persistent volume claims can be expanded")
			}
			if name := storagehelpers.GetPersistentVolumeClaimClass(claim); name != "" && name == storagehelpers.GetPersistentVolumeClaimClass(old) {
				class, ok, err := objects.Stored[*storagev1.StorageClass](a, "", name)
				if err != nil {
					return err
				}
				if ok && class.AllowVolumeExpansion != nil && *class.AllowVolumeExpansion {
					return nil
				}
			}
			return a.Forbid("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
		},
	}
}
