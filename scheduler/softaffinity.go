package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
)

// weightedTerm is a preferred term of a pod's affinity, with a negative weight one of its anti-affinity.
type weightedTerm struct {
	affinityTerm
	weight int64
}

// hardWeight is the weight of a placed pod's required affinity for a new pod that matches it: that affinity does not concern the
// new pod, but both are better placed together. It is upstream's default.
const hardWeight = 1

// compilePreferred compiles the preferred terms of a pod.
func compilePreferred(pod *corev1.Pod) (out []weightedTerm) {
	add := func(terms []corev1.WeightedPodAffinityTerm, sign int64) {
		for i := range terms {
			compiled := compile([]corev1.PodAffinityTerm{terms[i].PodAffinityTerm}, pod)
			out = append(out, weightedTerm{compiled[0], sign * int64(terms[i].Weight)})
		}
	}
	if a := pod.Spec.Affinity; a != nil && a.PodAffinity != nil {
		add(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, 1)
	}
	if a := pod.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		add(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, -1)
	}
	return out
}

// inclined says whether the pod, once placed, affects the scores of nodes for other pods.
func (p *podInfo) inclined() bool { return len(p.near)+len(p.preferredPods) > 0 }

// preferredPods scores nodes by the preferred terms of the pod, and by those of the placed pods
// (k8s.io/kubernetes/pkg/scheduler/framework/plugins/interpodaffinity/scoring.go). Its cost is that of podAffinity.
func preferredPods(t *task, c *cache, nodes []*nodeInfo) []int64 {
	sums := sumPreferences(t, c)
	if len(sums) == 0 {
		return nil
	}
	scores := make([]int64, len(nodes))
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for i, n := range nodes {
		for key, values := range sums {
			if value, ok := n.node.Labels[key]; ok {
				scores[i] += values[value]
			}
		}
		least, most = min(least, scores[i]), max(most, scores[i])
	}
	if most == least {
		return nil
	}
	for i := range scores {
		scores[i] = maxScore * (scores[i] - least) / (most - least)
	}
	return scores
}

// preferences are sums of weights by topology key and value.
type preferences map[string]map[string]int64

func (p preferences) add(term *affinityTerm, weight int64, other *corev1.Pod, node *corev1.Node, namespaces namespaceLabels) {
	value, ok := node.Labels[term.key]
	if !ok || !term.matches(other, namespaces) {
		return
	}
	if p[term.key] == nil {
		p[term.key] = map[string]int64{}
	}
	p[term.key][value] += weight
}

func sumPreferences(t *task, c *cache) preferences {
	if len(t.preferredPods)+c.inclined == 0 {
		return nil
	}
	sums := preferences{}
	for _, n := range c.nodes {
		if n.node == nil {
			continue
		}
		if len(t.preferredPods) > 0 {
			for _, other := range n.pods {
				for i := range t.preferredPods {
					term := &t.preferredPods[i]
					sums.add(&term.affinityTerm, term.weight, other.Pod, n.node, t.namespaces)
				}
			}
		}
		for _, other := range n.inclined {
			for i := range other.near {
				sums.add(&other.near[i], hardWeight, t.Pod, n.node, t.namespaces)
			}
			for i := range other.preferredPods {
				term := &other.preferredPods[i]
				sums.add(&term.affinityTerm, term.weight, t.Pod, n.node, t.namespaces)
			}
		}
	}
	return sums
}
