package builtin

import (
	"context"
	"fmt"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/api/resourceclaimspec"
	"k8s.io/kubernetes/pkg/apis/resource"
	"k8s.io/kubernetes/pkg/apis/resource/validation"
	"k8s.io/kubernetes/pkg/registry/resource/deviceclass"
	"k8s.io/kubernetes/pkg/registry/resource/devicetaintrule"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/registry"
)

// The resources of dynamic resource allocation (KEP-4381). Fields of upstream's features that are off by default are dropped. Who may
// ask for administrative access, and who may change which part of a claim's status, is decided in admission.

const resourceGroup = "resource.k8s.io"

func deviceClasses() *registry.Resource {
	return follow(&registry.Resource{Group: resourceGroup, Kind: "DeviceClass", Resource: "deviceclasses", ReturnDeleted: true}, deviceclass.Strategy, nil)
}

func deviceTaintRules() *registry.Resource {
	return follow(&registry.Resource{
		Group: resourceGroup, Kind: "DeviceTaintRule", Resource: "devicetaintrules", ReturnDeleted: true,
	}, devicetaintrule.Strategy, devicetaintrule.StatusStrategy)
}

func resourceClaims() *registry.Resource {
	return &registry.Resource{
		Group: resourceGroup, Kind: "ResourceClaim", Resource: "resourceclaims", Namespaced: true, ReturnDeleted: true,
		PrepareCreate: preparer(func(c *resource.ResourceClaim) {
			c.Status = resource.ResourceClaimStatus{}
			resourceclaimspec.DropDisabledFields(&c.Spec, nil)
		}),
		Validate: checker(validation.ValidateResourceClaim),
		Strategy: registry.Strategy{
			PrepareUpdate: updater(func(c, old *resource.ResourceClaim) {
				c.Status = old.Status
				resourceclaimspec.DropDisabledFields(&c.Spec, &old.Spec)
			}),
			ValidateUpdate: changer(validation.ValidateResourceClaimUpdate),
			ResetFields:    []string{"status"},
		},
		Status: &registry.Strategy{
			PrepareUpdate: updater(func(c, old *resource.ResourceClaim) {
				c.Spec = old.Spec
				metav1.ResetObjectMetaForStatus(&c.ObjectMeta, &old.ObjectMeta)
				if c.Status.Allocation != nil {
					for i := range c.Status.Allocation.Devices.Results {
						c.Status.Allocation.Devices.Results[i].SkipNodeOperations = nil
					}
				}
				dropDeallocated(c, old)
			}),
			ValidateUpdate: changer(validation.ValidateResourceClaimStatusUpdate),
			ResetFields:    []string{"metadata", "spec"},
		},
		AllowUnconditionalUpdate: true,
	}
}

// device identifies an allocated device, or a share of one.
type device struct{ driver, pool, name, share string }

func allocated(c *resource.ResourceClaim) map[device]bool {
	out := map[device]bool{}
	if c.Status.Allocation == nil {
		return out
	}
	for _, r := range c.Status.Allocation.Devices.Results {
		out[device{r.Driver, r.Pool, r.Device, string(ptr.Deref(r.ShareID, ""))}] = true
	}
	return out
}

// dropDeallocated removes the status of devices that were allocated and are not any more, so that clients that do not know the field
// need not do it.
func dropDeallocated(c, old *resource.ResourceClaim) {
	before, now := allocated(old), allocated(c)
	c.Status.Devices = slices.DeleteFunc(c.Status.Devices, func(d resource.AllocatedDeviceStatus) bool {
		id := device{d.Driver, d.Pool, d.Device, ptr.Deref(d.ShareID, "")}
		return before[id] && !now[id]
	})
	if len(c.Status.Devices) == 0 {
		c.Status.Devices = nil
	}
}

func resourceClaimTemplates() *registry.Resource {
	return &registry.Resource{
		Group: resourceGroup, Kind: "ResourceClaimTemplate", Resource: "resourceclaimtemplates", Namespaced: true, ReturnDeleted: true,
		PrepareCreate: preparer(func(t *resource.ResourceClaimTemplate) { resourceclaimspec.DropDisabledFields(&t.Spec.Spec, nil) }),
		Validate:      checker(validation.ValidateResourceClaimTemplate),
		Strategy: registry.Strategy{
			PrepareUpdate: updater(func(t, old *resource.ResourceClaimTemplate) {
				resourceclaimspec.DropDisabledFields(&t.Spec.Spec, &old.Spec.Spec)
			}),
			ValidateUpdate: changer(func(t, old *resource.ResourceClaimTemplate) field.ErrorList {
				return append(validation.ValidateResourceClaimTemplate(t), validation.ValidateResourceClaimTemplateUpdate(t, old)...)
			}),
		},
		AllowUnconditionalUpdate: true,
	}
}

func resourceSlices() *registry.Resource {
	return &registry.Resource{
		Group: resourceGroup, Kind: "ResourceSlice", Resource: "resourceslices", ReturnDeleted: true, KeepDeleted: never,
		PrepareCreate: preparer(func(s *resource.ResourceSlice) {
			s.Generation = 1
			dropAlphaDeviceFields(s)
		}),
		Validate:   checker(validation.ValidateResourceSlice),
		WarnCreate: warner(func(_ context.Context, s *resource.ResourceSlice) []string { return driverWarnings(s) }),
		Strategy: registry.Strategy{
			PrepareUpdate: updater(func(s, old *resource.ResourceSlice) {
				dropAlphaDeviceFields(s)
				if !apiequality.Semantic.DeepEqual(old.Spec, s.Spec) {
					s.Generation = old.Generation + 1
				}
			}),
			ValidateUpdate: changer(validation.ValidateResourceSliceUpdate),
			WarnUpdate:     changeWarner(func(_ context.Context, s, _ *resource.ResourceSlice) []string { return driverWarnings(s) }),
		},
		AllowUnconditionalUpdate: true,
		Fields: func(obj registry.Object) fields.Set {
			s := obj.(*resourcev1.ResourceSlice)
			return fields.Set{
				resourcev1.ResourceSliceSelectorNodeName: ptr.Deref(s.Spec.NodeName, ""), resourcev1.ResourceSliceSelectorDriver: s.Spec.Driver,
				resourcev1.ResourceSliceSelectorPoolName: s.Spec.Pool.Name,
			}
		},
		FieldNames: []string{resourcev1.ResourceSliceSelectorNodeName, resourcev1.ResourceSliceSelectorDriver, resourcev1.ResourceSliceSelectorPoolName},
	}
}

func dropAlphaDeviceFields(s *resource.ResourceSlice) {
	s.Spec.PartitionTypeAttribute, s.Spec.SkipNodeOperations = nil, nil
	for i := range s.Spec.Devices {
		d := &s.Spec.Devices[i]
		d.NodeAllocatableResources = nil
		for j := range d.ConsumesCounters {
			d.ConsumesCounters[j].CompatibilityGroups = nil
		}
		for name, attribute := range d.Attributes {
			attribute.BoolValues, attribute.IntValues, attribute.StringValues, attribute.VersionValues = nil, nil, nil, nil
			d.Attributes[name] = attribute
		}
	}
}

func driverWarnings(s *resource.ResourceSlice) []string {
	if s.Spec.Driver == strings.ToLower(s.Spec.Driver) {
		return nil
	}
	return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", s.Spec.Driver)}
}
