package builtin

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	pvutil "k8s.io/kubernetes/pkg/api/persistentvolume"
	claimutil "k8s.io/kubernetes/pkg/api/persistentvolumeclaim"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	volumevalidation "k8s.io/kubernetes/pkg/volume/validation"

	"github.com/kontiki/kontiki/api/registry"
)

// persistentVolumes has the rules of upstream's strategy, whose package reaches the storage of the serving stack.
func persistentVolumes() *registry.Resource {
	return &registry.Resource{
		Kind: "PersistentVolume", Resource: "persistentvolumes", ShortNames: []string{"pv"}, ReturnDeleted: true,
		PrepareCreate: preparer(func(pv *core.PersistentVolume) {
			now := metav1.Now()
			pv.Status = core.PersistentVolumeStatus{Phase: core.VolumePending, LastPhaseTransitionTime: &now}
			pvutil.DropDisabledSpecFields(&pv.Spec, nil)
		}),
		Validate: checker(func(pv *core.PersistentVolume) field.ErrorList {
			return validatePV(pv, validation.ValidationOptionsForPersistentVolume(pv, nil))
		}),
		WarnCreate: warner(func(_ context.Context, pv *core.PersistentVolume) []string {
			return pvutil.GetWarningsForPersistentVolume(pv)
		}),
		Strategy: registry.Strategy{
			PrepareUpdate: updater(func(pv, old *core.PersistentVolume) {
				pv.Status = old.Status
				pvutil.DropDisabledSpecFields(&pv.Spec, &old.Spec)
			}),
			ValidateUpdate: changer(func(pv, old *core.PersistentVolume) field.ErrorList {
				opts := validation.ValidationOptionsForPersistentVolume(pv, old)
				return append(validatePV(pv, opts), validation.ValidatePersistentVolumeUpdate(pv, old, opts)...)
			}),
			WarnUpdate: changeWarner(func(_ context.Context, pv, _ *core.PersistentVolume) []string {
				return pvutil.GetWarningsForPersistentVolume(pv)
			}),
			ResetFields: []string{"status"},
		},
		Status: &registry.Strategy{
			PrepareUpdate: updater(func(pv, old *core.PersistentVolume) {
				pv.Spec = old.Spec
				now, then := &pv.Status, &old.Status
				switch {
				case now.Phase == then.Phase && now.LastPhaseTransitionTime == nil:
					now.LastPhaseTransitionTime = then.LastPhaseTransitionTime
				case now.Phase != then.Phase && (now.LastPhaseTransitionTime == nil || now.LastPhaseTransitionTime.Equal(then.LastPhaseTransitionTime)):
					time := metav1.Now()
					now.LastPhaseTransitionTime = &time
				}
			}),
			ValidateUpdate: changer(validation.ValidatePersistentVolumeStatusUpdate),
			ResetFields:    []string{"spec"},
		},
		AllowUnconditionalUpdate: true,
		Fields:                   func(obj registry.Object) fields.Set { return fields.Set{"name": obj.GetName()} },
		FieldNames:               []string{"name"},
	}
}

func validatePV(pv *core.PersistentVolume, opts validation.PersistentVolumeSpecValidationOptions) field.ErrorList {
	return append(validation.ValidatePersistentVolume(pv, opts), volumevalidation.ValidatePersistentVolume(pv)...)
}

// persistentVolumeClaims has the rules of upstream's strategy, whose package reaches the storage of the serving stack.
func persistentVolumeClaims() *registry.Resource {
	return &registry.Resource{
		Kind: "PersistentVolumeClaim", Resource: "persistentvolumeclaims", ShortNames: []string{"pvc"}, Namespaced: true, ReturnDeleted: true,
		PrepareCreate: preparer(func(c *core.PersistentVolumeClaim) {
			c.Status = core.PersistentVolumeClaimStatus{Phase: core.ClaimPending} // as upstream, which defaults what it reads
			claimutil.DropDisabledFields(&c.Spec, nil)
			// A client may know only one of dataSource and dataSourceRef (KEP-1495).
			claimutil.EnforceDataSourceBackwardsCompatibility(&c.Spec, nil)
			claimutil.NormalizeDataSources(&c.Spec)
		}),
		Validate: checker(func(c *core.PersistentVolumeClaim) field.ErrorList {
			return validation.ValidatePersistentVolumeClaim(c, validation.ValidationOptionsForPersistentVolumeClaim(c, nil))
		}),
		WarnCreate: warner(func(_ context.Context, c *core.PersistentVolumeClaim) []string {
			return claimutil.GetWarningsForPersistentVolumeClaim(c)
		}),
		Strategy: registry.Strategy{
			PrepareUpdate: updater(func(c, old *core.PersistentVolumeClaim) {
				c.Status = old.Status
				claimutil.DropDisabledFields(&c.Spec, &old.Spec)
				claimutil.EnforceDataSourceBackwardsCompatibility(&c.Spec, &old.Spec)
				claimutil.NormalizeDataSources(&c.Spec)
				claimutil.NormalizeDataSources(&old.Spec)
			}),
			ValidateUpdate: changer(func(c, old *core.PersistentVolumeClaim) field.ErrorList {
				return validation.ValidatePersistentVolumeClaimUpdate(c, old, validation.ValidationOptionsForPersistentVolumeClaim(c, old))
			}),
			WarnUpdate: changeWarner(func(_ context.Context, c, _ *core.PersistentVolumeClaim) []string {
				return claimutil.GetWarningsForPersistentVolumeClaim(c)
			}),
			ResetFields: []string{"status"},
		},
		Status: &registry.Strategy{
			PrepareUpdate: updater(func(c, old *core.PersistentVolumeClaim) {
				c.Spec = old.Spec
				claimutil.DropDisabledFieldsFromStatus(c, old)
			}),
			ValidateUpdate: changer(func(c, old *core.PersistentVolumeClaim) field.ErrorList {
				return validation.ValidatePersistentVolumeClaimStatusUpdate(c, old, validation.ValidationOptionsForPersistentVolumeClaim(c, old))
			}),
			ResetFields: []string{"spec"},
		},
		AllowUnconditionalUpdate: true,
		Fields: func(obj registry.Object) fields.Set {
			return fields.Set{"name": obj.(*corev1.PersistentVolumeClaim).Name}
		},
		FieldNames: []string{"name"},
	}
}
