package devices

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// unmadeName is that of a claim for extended resources before it is created.
const unmadeName = "<extended-resources>"

// extendedClaim is the claim for the extended resources of a pod that classes of devices provide. The scheduler creates it when the pod
// is bound, since what it requests depends on the node: where a device plugin offers a resource, that is used.
type extendedClaim struct {
	*podClaim
	state *State
	pod   *framework.PodInfo
	// old says that the claim is left over from an attempt that failed.
	old bool
}

// isExtended says whether a resource can be provided by a class.
func isExtended(name corev1.ResourceName) bool {
	text := string(name)
	return strings.HasPrefix(text, resourcev1.ResourceDeviceClassPrefix) ||
		strings.Contains(text, "/") && !strings.Contains(text, corev1.ResourceDefaultNamespacePrefix) && !strings.HasPrefix(text, corev1.DefaultResourceRequestsPrefix)
}

// extendedOf returns the claim for a pod's extended resources; nil if no class provides any of them.
func (s *State) extendedOf(v client.View, p *framework.PodInfo) *extendedClaim {
	if !s.provides(p) {
		return nil
	}
	for _, c := range madeFor.Any(v, string(p.UID)) {
		return &extendedClaim{podClaim: &podClaim{claim: c, uid: c.UID}, state: s, pod: p, old: true}
	}
	owner := metav1.NewControllerRef(p.Pod, corev1.SchemeGroupVersion.WithKind("Pod"))
	owner.BlockOwnerDeletion = nil
	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{
		Namespace: p.Namespace, Name: unmadeName, GenerateName: p.Name + "-extended-resources-", UID: uuid.NewUUID(),
		Annotations: map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"}, OwnerReferences: []metav1.OwnerReference{*owner},
	}}
	return &extendedClaim{podClaim: &podClaim{claim: claim, uid: claim.UID}, state: s, pod: p}
}

// madeFor finds claims for extended resources by the UID of their pod.
var madeFor = client.NewIndex(func(c *resourcev1.ResourceClaim, add func(string)) {
	if ref := metav1.GetControllerOfNoCopy(c); ref != nil && ref.Kind == "Pod" && c.Annotations[resourcev1.ExtendedResourceClaimAnnotation] == "true" {
		add(string(ref.UID))
	}
})

// on finds out what a node must provide as devices.
func (e *extendedClaim) on(n *framework.NodeInfo, next *plan) *framework.Status {
	if e.old {
		return stale // PostFilter deletes it
	}
	needed := map[corev1.ResourceName]string{}
	for name := range e.pod.Requests.Scalar {
		if !isExtended(name) || n.Allocatable.Scalar[name] != 0 {
			continue
		}
		class := e.state.providers[name]
		if class == nil {
			return refuse("cannot fit resource")
		}
		needed[name] = class.Name
	}
	if len(needed) == 0 {
		return nil
	}
	claim := *e.claim
	claim.Spec.Devices.Requests, next.mappings = requestsFor(e.pod.Pod, needed)
	next.extended = &claim
	return nil
}

// requestsFor returns the requests for the extended resources of a pod's containers, by their classes, and what each container gets.
// Each container that runs as long as the pod has a request of its own. Those that run before use the devices of the ones that start
// after them, and share one request for as many as are missing.
func requestsFor(pod *corev1.Pod, classes map[corev1.ResourceName]string) ([]resourcev1.DeviceRequest, []corev1.ContainerExtendedResourceRequest) {
	containers := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	var requests []resourcev1.DeviceRequest
	var mappings []corev1.ContainerExtendedResourceRequest
	for _, resource := range slices.Sorted(maps.Keys(classes)) {
		own := make([]*resourcev1.DeviceRequest, len(containers))
		for i := range containers {
			if count := countOf(&containers[i], resource); count > 0 && !runsBefore(pod, i) {
				own[i] = newRequest(i, &containers[i], resource, classes[resource], count)
				mappings = append(mappings, mapping(&containers[i], resource, own[i].Name))
			}
		}
		var most *resourcev1.DeviceRequest
		var early []corev1.ContainerExtendedResourceRequest
		var sharing []int // of early
		for i := range containers {
			missing := countOf(&containers[i], resource)
			if missing == 0 || !runsBefore(pod, i) {
				continue
			}
			for _, later := range own[i:] {
				if later != nil && missing > 0 {
					missing -= later.Exactly.Count
					early = append(early, mapping(&containers[i], resource, later.Name))
				}
			}
			if missing > 0 {
				if most == nil || missing > most.Exactly.Count {
					most = newRequest(i, &containers[i], resource, classes[resource], missing)
				}
				sharing = append(sharing, len(early))
				early = append(early, mapping(&containers[i], resource, ""))
			}
		}
		for _, k := range sharing {
			early[k].RequestName = most.Name
		}
		if most != nil {
			requests = append(requests, *most)
		}
		for _, r := range own {
			if r != nil {
				requests = append(requests, *r)
			}
		}
		mappings = append(mappings, early...)
	}
	slices.SortFunc(requests, func(a, b resourcev1.DeviceRequest) int { return cmp.Compare(a.Name, b.Name) })
	return requests, mappings
}

// runsBefore says whether a container ends before those after it start: an init container that is no sidecar.
func runsBefore(pod *corev1.Pod, i int) bool {
	if i >= len(pod.Spec.InitContainers) {
		return false
	}
	policy := pod.Spec.InitContainers[i].RestartPolicy
	return policy == nil || *policy != corev1.ContainerRestartPolicyAlways
}

func countOf(c *corev1.Container, resource corev1.ResourceName) int64 {
	quantity := c.Resources.Requests[resource]
	count, ok := quantity.AsInt64()
	if !ok {
		return 0
	}
	return count
}

// newRequest returns a request with upstream's name for it: by the positions of the container and of the resource.
func newRequest(i int, c *corev1.Container, resource corev1.ResourceName, class string, count int64) *resourcev1.DeviceRequest {
	position := slices.Index(slices.Sorted(maps.Keys(c.Resources.Requests)), resource)
	return &resourcev1.DeviceRequest{
		Name:    fmt.Sprintf("container-%d-request-%d", i, position),
		Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: count},
	}
}

func mapping(c *corev1.Container, resource corev1.ResourceName, request string) corev1.ContainerExtendedResourceRequest {
	return corev1.ContainerExtendedResourceRequest{ContainerName: c.Name, ResourceName: string(resource), RequestName: request}
}

// expects notes under which UID a claim was pending before it was created.
func (s *State) expects(created, unmade types.UID) { s.made.Store(created, unmade) }
