package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
)

// maxScore is the best score of a node from one scorer.
const maxScore = 100

// scorer returns the scores of the nodes that passed the filters, in their order, from 0 to maxScore, higher is better; nil if they
// are all equal.
type scorer struct {
	weight int64
	score  func(t *task, c *cache, nodes []*nodeInfo) []int64
}

// scorers have the default weights of upstream's.
var scorers = []scorer{{2, preferredNodes}, {3, softTaints}, {2, softSpread}, {2, preferredPods}}

// rate adds up the scores of each node, in total's memory.
func rate(t *task, c *cache, nodes []*nodeInfo, total []int64) []int64 {
	total = total[:0]
	for _, n := range nodes {
		total = append(total, leastAllocated(t, n)) // its weight is 1
	}
	for _, s := range scorers {
		for i, score := range s.score(t, c, nodes) {
			total[i] += s.weight * score
		}
	}
	return total
}

// leastAllocated prefers nodes with many free resources: the mean over CPU and memory of the free share after the pod is placed
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

// preferredNodes adds the weights of the matching preferred terms of node affinity.
func preferredNodes(t *task, _ *cache, nodes []*nodeInfo) []int64 {
	if t.preferred == nil {
		return nil
	}
	scores := make([]int64, len(nodes))
	var most int64
	for i, n := range nodes {
		scores[i] = t.preferred.Score(n.node)
		most = max(most, scores[i])
	}
	if most == 0 {
		return nil
	}
	for i := range scores {
		scores[i] = scores[i] * maxScore / most
	}
	return scores
}

// softTaints prefers nodes with few PreferNoSchedule taints that the pod does not tolerate.
func softTaints(t *task, _ *cache, nodes []*nodeInfo) []int64 {
	var scores []int64
	var most int64
	for i, n := range nodes {
		if count := untoleratedSoftTaints(t, n.node); count > 0 {
			if scores == nil {
				scores = make([]int64, len(nodes))
			}
			scores[i] = count
			most = max(most, count)
		}
	}
	for i := range scores {
		scores[i] = maxScore - scores[i]*maxScore/most
	}
	return scores
}

func untoleratedSoftTaints(t *task, node *corev1.Node) (count int64) {
	for i := range node.Spec.Taints {
		taint := &node.Spec.Taints[i]
		if taint.Effect == corev1.TaintEffectPreferNoSchedule && !corehelpers.TolerationsTolerateTaint(klog.Background(), t.Spec.Tolerations, taint, false) {
			count++
		}
	}
	return count
}
