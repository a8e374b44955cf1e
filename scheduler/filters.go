package scheduler

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// task is one pod being scheduled, with values that filters and scores compute once.
type task struct {
	*podInfo
	required  nodeaffinity.RequiredNodeAffinity
	preferred *nodeaffinity.PreferredSchedulingTerms
	affinity  *podAffinity
	spread    []spreadConstraint
	// namespaces is for the scores.
	namespaces namespaceLabels
}

// preFilter returns a reason why no node at all can take the pod; "" if it knows none.
type preFilter func(pod *corev1.Pod) string

var preFilters = []preFilter{volumeBinding}

// volumeBinding refuses pods with PersistentVolumeClaims as volumes. Kontiki does not serve that kind, so no claim exists, and none
// is created for ephemeral volumes.
func volumeBinding(pod *corev1.Pod) string {
	for _, volume := range pod.Spec.Volumes {
		switch {
		case volume.PersistentVolumeClaim != nil:
			return fmt.Sprintf("persistentvolumeclaim %q not found", volume.PersistentVolumeClaim.ClaimName)
		case volume.Ephemeral != nil:
			return fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", pod.Name+"-"+volume.Name)
		}
	}
	return ""
}

// filter returns the reasons why a node cannot take the pod; none if it can.
type filter func(t *task, n *nodeInfo) []string

// filters are applied in order; the first that refuses gives the reasons for the node, as upstream.
var filters = []filter{
	nodeUnschedulable, nodeName, taints, nodeAffinity, nodePorts, resources, podAffinityFilter, podSpread,
}

func one(reason string, refused bool) []string {
	if refused {
		return []string{reason}
	}
	return nil
}

func nodeUnschedulable(t *task, n *nodeInfo) []string {
	if !n.node.Spec.Unschedulable {
		return nil
	}
	cordon := corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	return one("node(s) were unschedulable", !corehelpers.TolerationsTolerateTaint(klog.Background(), t.Spec.Tolerations, &cordon, false))
}

func nodeName(t *task, n *nodeInfo) []string {
	return one("node(s) didn't match the requested node name", t.Spec.NodeName != "" && t.Spec.NodeName != n.node.Name)
}

func taints(t *task, n *nodeInfo) []string {
	return one("node(s) had untolerated taint(s)", !tolerates(t.Pod, n.node))
}

// tolerates says whether a pod tolerates all NoSchedule and NoExecute taints of a node.
func tolerates(pod *corev1.Pod, node *corev1.Node) bool {
	hard := func(taint *corev1.Taint) bool {
		return taint.Effect == corev1.TaintEffectNoSchedule || taint.Effect == corev1.TaintEffectNoExecute
	}
	_, untolerated := corehelpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations, hard, false)
	return !untolerated
}

func nodeAffinity(t *task, n *nodeInfo) []string {
	matches, _ := t.required.Match(n.node) // a selector that cannot be parsed matches nothing, as upstream
	return one("node(s) didn't match Pod's node affinity/selector", !matches)
}

func nodePorts(t *task, n *nodeInfo) []string {
	if len(t.ports) == 0 {
		return nil
	}
	for _, other := range n.pods {
		for _, used := range other.ports {
			for _, wanted := range t.ports {
				if wanted.conflicts(used) {
					return []string{"node(s) didn't have free ports for the requested pod ports"}
				}
			}
		}
	}
	return nil
}

func resources(t *task, n *nodeInfo) []string {
	var reasons []string
	lacks := func(wanted, used, total int64, reason string) {
		if wanted > 0 && wanted > total-used {
			reasons = append(reasons, reason)
		}
	}
	if len(n.pods)+1 > n.maxPods {
		reasons = append(reasons, "Too many pods")
	}
	lacks(t.requests.milliCPU, n.requested.milliCPU, n.allocatable.milliCPU, "Insufficient cpu")
	lacks(t.requests.memory, n.requested.memory, n.allocatable.memory, "Insufficient memory")
	lacks(t.requests.storage, n.requested.storage, n.allocatable.storage, "Insufficient ephemeral-storage")
	for name, wanted := range t.requests.scalar {
		lacks(wanted, n.requested.scalar[name], n.allocatable.scalar[name], "Insufficient "+string(name))
	}
	return reasons
}
