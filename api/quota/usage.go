package quota

import (
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	resourcehelper "k8s.io/component-helpers/resource"
	storagehelpers "k8s.io/component-helpers/storage/volume"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper"

	"github.com/kontiki/kontiki/internal/kv"
)

// Usage is what objects use, by resource, in thousandths.
type Usage map[corev1.ResourceName]int64

// evaluator measures the objects of a resource.
type evaluator struct {
	resource schema.GroupResource
	// names are the resources that a quota may limit of every object, such as pods and count/pods.
	names []corev1.ResourceName
	// measures says whether it measures a resource that is not among names.
	measures func(name corev1.ResourceName) bool
	// usage returns what an object uses, beside one of each of the names that every object counts for; nil means nothing.
	usage func(obj runtime.Object) Usage
	// counts are the names of which every object uses one.
	counts []corev1.ResourceName
	// changes means that updates may change the usage.
	changes bool
	// scope says whether an object is in a scope.
	scope func(obj runtime.Object, selector corev1.ScopedResourceSelectorRequirement) bool
}

var (
	podsResource     = corev1.Resource("pods")
	servicesResource = corev1.Resource("services")
	claimsResource   = corev1.Resource("persistentvolumeclaims")
	quotasResource   = corev1.Resource("resourcequotas")

	deviceClaimsResource = resourceapi.Resource("resourceclaims")
)

// ignored resources are not counted.
var ignored = []schema.GroupResource{corev1.Resource("events"), eventsv1.Resource("events"), corev1.Resource("bindings")}

// aliases are the names without "count/" that upstream has for some resources.
var aliases = map[schema.GroupResource]corev1.ResourceName{
	corev1.Resource("configmaps"):             corev1.ResourceConfigMaps,
	corev1.Resource("resourcequotas"):         corev1.ResourceQuotas,
	corev1.Resource("replicationcontrollers"): corev1.ResourceReplicationControllers,
	corev1.Resource("secrets"):                corev1.ResourceSecrets,
}

// evaluatorFor returns the evaluator of a resource.
func evaluatorFor(r schema.GroupResource) *evaluator {
	switch r {
	case podsResource:
		return &pods
	case servicesResource:
		return &services
	case claimsResource:
		return &claims
	case deviceClaimsResource:
		return &deviceClaims
	}
	e := &evaluator{resource: r, counts: []corev1.ResourceName{countName(r)}}
	if alias, ok := aliases[r]; ok {
		e.counts = append(e.counts, alias)
	}
	return e
}

// countName returns the name for the number of objects of a resource.
func countName(r schema.GroupResource) corev1.ResourceName {
	return corev1.ResourceName("count/" + r.String())
}

// matches says whether the evaluator measures a resource of a quota.
func (e *evaluator) matches(name corev1.ResourceName) bool {
	return slices.Contains(e.counts, name) || slices.Contains(e.names, name) || e.measures != nil && e.measures(name)
}

// of returns what an object uses; nil uses nothing.
func (e *evaluator) of(obj runtime.Object) Usage {
	u := Usage{}
	if obj == nil {
		return u
	}
	if e.usage != nil {
		u = e.usage(obj)
	}
	for _, name := range e.counts {
		u[name] = 1000
	}
	return u
}

// tracks says whether an object is in all scopes of a quota.
func (e *evaluator) tracks(q *corev1.ResourceQuota, obj runtime.Object) bool {
	if obj == nil {
		return false
	}
	in := func(s corev1.ScopedResourceSelectorRequirement) bool { return e.scope != nil && e.scope(obj, s) }
	for _, scope := range q.Spec.Scopes {
		if !in(corev1.ScopedResourceSelectorRequirement{ScopeName: scope, Operator: corev1.ScopeSelectorOpExists}) {
			return false
		}
	}
	if q.Spec.ScopeSelector != nil {
		for _, s := range q.Spec.ScopeSelector.MatchExpressions {
			if !in(s) {
				return false
			}
		}
	}
	return true
}

// milli returns a quantity in thousandths, rounded up.
func milli(q resource.Quantity) int64 {
	if most := resource.NewQuantity(math.MaxInt64/1000, resource.DecimalSI); q.Cmp(*most) >= 0 {
		return math.MaxInt64
	}
	return q.MilliValue()
}

// quantity returns thousandths as a quantity.
func quantity(n int64, format resource.Format) resource.Quantity {
	if n%1000 == 0 {
		return *resource.NewQuantity(n/1000, format)
	}
	return *resource.NewMilliQuantity(n, format)
}

func (u Usage) add(name corev1.ResourceName, n int64) { u[name] = kv.AddSaturated(u[name], n) }

// services counts services, and the node ports and load balancers that they ask for.
var services = evaluator{
	resource: servicesResource, changes: true,
	counts: []corev1.ResourceName{countName(servicesResource), corev1.ResourceServices},
	names:  []corev1.ResourceName{corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers},
	usage: func(obj runtime.Object) Usage {
		service, u := obj.(*corev1.Service), Usage{}
		switch service.Spec.Type {
		case corev1.ServiceTypeNodePort:
			u[corev1.ResourceServicesNodePorts] = int64(len(service.Spec.Ports)) * 1000
		case corev1.ServiceTypeLoadBalancer:
			u[corev1.ResourceServicesLoadBalancers] = 1000
			for _, p := range service.Spec.Ports {
				if p.NodePort != 0 || service.Spec.AllocateLoadBalancerNodePorts == nil || *service.Spec.AllocateLoadBalancerNodePorts {
					u[corev1.ResourceServicesNodePorts] += 1000
				}
			}
		}
		return u
	},
}

// classSuffix is between a storage class and a resource in the name of a quota's resource.
const classSuffix = ".storageclass.storage.k8s.io/"

// claims counts persistent volume claims and the storage that they request, also by storage class.
var claims = evaluator{
	resource: claimsResource, changes: true,
	counts: []corev1.ResourceName{countName(claimsResource), corev1.ResourcePersistentVolumeClaims},
	names:  []corev1.ResourceName{corev1.ResourceRequestsStorage},
	measures: func(name corev1.ResourceName) bool {
		return strings.HasSuffix(string(name), classSuffix+string(corev1.ResourceRequestsStorage)) ||
			strings.HasSuffix(string(name), classSuffix+string(corev1.ResourcePersistentVolumeClaims))
	},
	usage: func(obj runtime.Object) Usage {
		claim, u := obj.(*corev1.PersistentVolumeClaim), Usage{}
		class := storagehelpers.GetPersistentVolumeClaimClass(claim)
		if class != "" {
			u[corev1.ResourceName(class+classSuffix+string(corev1.ResourcePersistentVolumeClaims))] = 1000
		}
		request, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]
		if !ok {
			return u
		}
		if allocated, ok := claim.Status.AllocatedResources[corev1.ResourceStorage]; ok && allocated.Cmp(request) > 0 {
			request = allocated
		}
		request = request.DeepCopy()
		request.RoundUp(0)
		u[corev1.ResourceRequestsStorage] = milli(request)
		if class != "" {
			u[corev1.ResourceName(class+classSuffix+string(corev1.ResourceRequestsStorage))] = milli(request)
		}
		return u
	},
	scope: claimInScope,
}

// deviceClaims counts resource claims and, by class, the devices that they ask for; of alternatives the one with the most.
var deviceClaims = evaluator{
	resource: deviceClaimsResource,
	counts:   []corev1.ResourceName{countName(deviceClaimsResource)},
	measures: func(name corev1.ResourceName) bool {
		return strings.HasSuffix(string(name), corev1.ResourceClaimsPerClass)
	},
	usage: func(obj runtime.Object) Usage {
		u := Usage{}
		for _, request := range obj.(*resourceapi.ResourceClaim).Spec.Devices.Requests {
			most := Usage{}
			count := func(class string, mode resourceapi.DeviceAllocationMode, n int64) {
				if mode == resourceapi.DeviceAllocationModeAll {
					n = resourceapi.AllocationResultsMaxSize
				}
				name := corev1.ResourceName(class + corev1.ResourceClaimsPerClass)
				most[name] = max(most[name], min(n, math.MaxInt64/1000)*1000)
			}
			if r := request.Exactly; r != nil {
				count(r.DeviceClassName, r.AllocationMode, r.Count)
			}
			for _, r := range request.FirstAvailable {
				count(r.DeviceClassName, r.AllocationMode, r.Count)
			}
			for name, n := range most {
				u.add(name, n)
			}
		}
		return u
	},
}

// pods counts pods and what those use that have not ended.
var pods = evaluator{
	resource: podsResource, changes: true,
	counts: []corev1.ResourceName{countName(podsResource)},
	names: []corev1.ResourceName{corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
		corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
		corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage},
	measures: func(name corev1.ResourceName) bool {
		s := string(name)
		return strings.HasPrefix(s, corev1.ResourceHugePagesPrefix) || strings.HasPrefix(s, corev1.ResourceRequestsHugePagesPrefix) ||
			strings.HasPrefix(s, corev1.DefaultResourceRequestsPrefix) &&
				(!helper.IsNativeResource(name) || strings.HasPrefix(s, corev1.DefaultResourceRequestsPrefix+resourceapi.ResourceDeviceClassPrefix))
	},
	usage: func(obj runtime.Object) Usage {
		pod, u := obj.(*corev1.Pod), Usage{}
		if ended(pod) {
			return u
		}
		u[corev1.ResourcePods] = 1000
		options := resourcehelper.PodResourcesOptions{UseStatusResources: true}
		computeUsage(u, resourcehelper.PodRequests(pod, options), resourcehelper.PodLimits(pod, options))
		return u
	},
	scope: podInScope,
}

func ended(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
}

// computeUsage adds requests and limits under the names that quotas have for them.
func computeUsage(u Usage, requests, limits corev1.ResourceList) {
	for name, q := range requests {
		n, request := milli(q), corev1.ResourceName(corev1.DefaultResourceRequestsPrefix+string(name))
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage, helper.IsHugePageResourceName(name):
			u.add(name, n)
			u.add(request, n)
		case helper.IsExtendedResourceName(name), strings.HasPrefix(string(name), resourceapi.ResourceDeviceClassPrefix):
			u.add(request, n)
		}
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		if q, ok := limits[name]; ok {
			u.add("limits."+name, milli(q))
		}
	}
}
