// Package fit decides whether a pod fits on a node beside the pods that run there, and which of these would have to go for it.
//
// Both follow the kubelet (pkg/kubelet/lifecycle and pkg/kubelet/preemption), which checks again what a scheduler has decided.
package fit

import (
	"fmt"
	"sort"

	corev1 "k8s.io/api/core/v1"
	helper "k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/kontiki/kontiki/node/podspec"
)

// Refusal is the reason why a node does not run a pod that was assigned to it. The pod becomes Failed with it.
type Refusal struct{ Reason, Message string }

// Check checks whether a pod fits on the node beside the pods that it runs, as the kubelet does for pods that were bound by hand or
// by a scheduler that did not know of others yet. node may be nil while it is not known.
func Check(pod *corev1.Pod, others []*corev1.Pod, node *corev1.Node) *Refusal {
	if node == nil {
		return nil
	}
	if r := checkResources(pod, others, node.Status.Allocatable); r != nil {
		return r
	}
	return CheckPlace(pod, others, node)
}

// CheckPlace checks everything but resources.
func CheckPlace(pod *corev1.Pod, others []*corev1.Pod, node *corev1.Node) *Refusal {
	failed := func(predicate, why string) *Refusal {
		return &Refusal{Reason: predicate, Message: fmt.Sprintf("Predicate %s failed: %s", predicate, why)}
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); !ok || err != nil {
		return failed("NodeAffinity", "node(s) didn't match Pod's node affinity/selector")
	}
	if pod.Spec.NodeName != "" && pod.Spec.NodeName != node.Name {
		return failed("NodeName", "node(s) didn't match the requested node name")
	}
	if portsTaken(pod, others) {
		return failed("NodePorts", "node(s) didn't have free ports for the requested pod ports")
	}
	for i := range node.Spec.Taints {
		if t := &node.Spec.Taints[i]; t.Effect == corev1.TaintEffectNoExecute && !podspec.Tolerates(pod, t) {
			return failed("TaintToleration", "node(s) had taints that the pod didn't tolerate")
		}
	}
	return nil
}

// checkResources compares requests with the node's allocatable resources. Extended resources that the node does not know are not
// checked.
func checkResources(pod *corev1.Pod, others []*corev1.Pod, allocatable corev1.ResourceList) *Refusal {
	insufficient := func(name corev1.ResourceName, requested, used, capacity int64) *Refusal {
		return &Refusal{Reason: "OutOf" + string(name), Message: fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, requested, used, capacity)}
	}
	if n := allocatable.Pods().Value(); n > 0 && int64(len(others))+1 > n {
		return insufficient(corev1.ResourcePods, 1, int64(len(others)), n)
	}
	requests := helper.PodRequests(pod, helper.PodResourcesOptions{})
	used := map[corev1.ResourceName]int64{}
	for _, o := range others {
		r := helper.PodRequests(o, helper.PodResourcesOptions{})
		for name := range requests {
			used[name] += requested(r, name)
		}
	}
	for _, name := range inOrder(requests) {
		capacity, known := allocatable[name]
		request := requested(requests, name)
		if !known || request == 0 {
			continue
		}
		if have := requested(corev1.ResourceList{name: capacity}, name); used[name]+request > have {
			return insufficient(name, request, used[name], have)
		}
	}
	return nil
}

// inOrder returns the resources in the kubelet's order: cpu, memory, ephemeral-storage, then the others.
func inOrder(l corev1.ResourceList) []corev1.ResourceName {
	first := map[corev1.ResourceName]int{corev1.ResourceCPU: -3, corev1.ResourceMemory: -2, corev1.ResourceEphemeralStorage: -1}
	names := make([]corev1.ResourceName, 0, len(l))
	for n := range l {
		names = append(names, n)
	}
	sort.Slice(names, func(i, j int) bool {
		if a, b := first[names[i]], first[names[j]]; a != b {
			return a < b
		}
		return names[i] < names[j]
	})
	return names
}

// portsTaken says whether another pod already uses a host port of this pod.
func portsTaken(pod *corev1.Pod, others []*corev1.Pod) bool {
	mine := podspec.HostPorts(pod)
	if len(mine) == 0 {
		return false
	}
	for _, o := range others {
		for _, theirs := range podspec.HostPorts(o) {
			for _, p := range mine {
				if p.HostPort == theirs.HostPort && p.Protocol == theirs.Protocol && (p.HostIP == theirs.HostIP || anyAddress(p.HostIP) || anyAddress(theirs.HostIP)) {
					return true
				}
			}
		}
	}
	return false
}

func anyAddress(ip string) bool { return ip == "" || ip == "0.0.0.0" || ip == "::" }
