package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
)

// maxScore is the best score that a node can get from one scorer.
const maxScore = 100

// score rates a node that passed the filters, higher is better. Weights are upstream's defaults (least allocated 1, node
// affinity 2, taints 3).
func score(t *task, n *nodeInfo) int64 {
	return leastAllocated(t, n) + 2*preferredAffinity(t, n) + 3*softTaints(t, n)
}

// leastAllocated prefers nodes with much left: the mean over CPU and memory of the free share after the pod is placed
// (k8s.io/kubernetes/pkg/scheduler/framework/plugins/noderesources/least_allocated.go).
func leastAllocated(t *task, n *nodeInfo) int64 {
	free := func(used, total int64) int64 {
		if total == 0 || used > total {
			return 0
		}
		return (total - used) * maxScore / total
	}
	return (free(n.scored.milliCPU+t.scored.milliCPU, n.allocatable.milliCPU) + free(n.scored.memory+t.scored.memory, n.allocatable.memory)) / 2
}

// preferredAffinity adds the weights of the preferred terms that match, out of all of them.
func preferredAffinity(t *task, n *nodeInfo) int64 {
	if t.preferred == nil {
		return 0
	}
	var total int64
	for _, term := range t.Spec.Affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
		total += int64(term.Weight)
	}
	if total == 0 {
		return 0
	}
	return t.preferred.Score(n.node) * maxScore / total
}

// softTaints prefers nodes with few PreferNoSchedule taints that the pod does not tolerate.
func softTaints(t *task, n *nodeInfo) int64 {
	var soft, untolerated int64
	for i := range n.node.Spec.Taints {
		taint := &n.node.Spec.Taints[i]
		if taint.Effect != corev1.TaintEffectPreferNoSchedule {
			continue
		}
		soft++
		if !corehelpers.TolerationsTolerateTaint(klog.Background(), t.Spec.Tolerations, taint, false) {
			untolerated++
		}
	}
	if soft == 0 {
		return maxScore
	}
	return maxScore - untolerated*maxScore/soft
}
