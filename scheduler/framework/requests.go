package framework

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/kontiki/kontiki/internal/amount"
)

// Requests for scoring of containers without requests, so that such pods spread
// (k8s.io/kubernetes/pkg/scheduler/util/pod_resources.go).
var scoredRequests = corev1.ResourceList{
	corev1.ResourceCPU:    *resource.NewMilliQuantity(100, resource.DecimalSI),
	corev1.ResourceMemory: *resource.NewQuantity(200<<20, resource.BinarySI),
}

// requestsOf returns what a pod occupies, and that with defaults for scoring.
func requestsOf(pod *corev1.Pod) (requests, scored Amounts) {
	if requests, scored, ok := plainRequests(pod); ok {
		return requests, scored
	}
	return helperRequests(pod)
}

// helperRequests is requestsOf for any pod, by upstream's rules. It makes many lists, which is the larger part of what a decision costs.
func helperRequests(pod *corev1.Pod) (requests, scored Amounts) {
	options := resourcehelper.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true}
	requests = AmountsOf(resourcehelper.PodRequests(pod, options))
	if fullyRequested(pod) {
		return requests, Amounts{MilliCPU: requests.MilliCPU, Memory: requests.Memory}
	}
	options.NonMissingContainerRequests = scoredRequests
	scored = AmountsOf(resourcehelper.PodRequests(pod, options))
	return requests, Amounts{MilliCPU: scored.MilliCPU, Memory: scored.Memory}
}

// plainRequests is requestsOf for pods of containers with whole amounts and nothing else that counts: then it is the sum.
func plainRequests(pod *corev1.Pod) (requests, scored Amounts, ok bool) {
	if pod.Spec.Overhead != nil || pod.Spec.Resources != nil || len(pod.Spec.InitContainers)+len(pod.Spec.ResourceClaims) > 0 || statusCounts(pod) {
		return requests, scored, false
	}
	for i := range pod.Spec.Containers {
		list := pod.Spec.Containers[i].Resources.Requests
		for name, quantity := range list {
			if !whole(name, &quantity) {
				return requests, scored, false
			}
		}
		amounts := AmountsOf(list)
		requests.add(&amounts, 1)
		if _, ok := list[corev1.ResourceCPU]; !ok {
			amounts.MilliCPU = scoredRequests.Cpu().MilliValue()
		}
		if _, ok := list[corev1.ResourceMemory]; !ok {
			amounts.Memory = scoredRequests.Memory().Value()
		}
		scored.MilliCPU += amounts.MilliCPU
		scored.Memory += amounts.Memory
	}
	return requests, scored, true
}

// maxWhole is the largest quantity that is added as a number: no pod has so many containers that the sum has no room.
const maxWhole = math.MaxInt64 >> 24

// whole says whether a quantity is a number of the units of Amounts, so that it can be added without rounding and without a bound.
func whole(name corev1.ResourceName, q *resource.Quantity) bool {
	if n, integer := q.AsInt64(); integer {
		return n <= maxWhole
	}
	return name == corev1.ResourceCPU && amount.Milli(q) <= maxWhole && resource.NewMilliQuantity(q.MilliValue(), q.Format).Cmp(*q) == 0
}

// statusCounts says whether a pod's status may change what it occupies: it says what a resize in progress has, or is about devices.
func statusCounts(pod *corev1.Pod) bool {
	s := &pod.Status
	has := func(c corev1.ContainerStatus) bool { return c.Resources != nil || c.AllocatedResources != nil }
	return s.Resources != nil || s.AllocatedResources != nil || slices.ContainsFunc(s.ContainerStatuses, has) || slices.ContainsFunc(s.InitContainerStatuses, has) ||
		slices.ContainsFunc(s.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.PodResizePending })
}

// fullyRequested says whether all containers request CPU and memory.
func fullyRequested(pod *corev1.Pod) bool {
	lacks := func(c corev1.Container) bool {
		_, cpu := c.Resources.Requests[corev1.ResourceCPU]
		_, memory := c.Resources.Requests[corev1.ResourceMemory]
		return !cpu || !memory
	}
	return !slices.ContainsFunc(pod.Spec.Containers, lacks) && !slices.ContainsFunc(pod.Spec.InitContainers, lacks)
}
