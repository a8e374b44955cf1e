package plugins

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// scores returns the sum of the weighted scores of nodes that passed.
func (r *reference) scores(pod *corev1.Pod, nodes []*corev1.Node) []int64 {
	total := make([]int64, len(nodes))
	add := func(weight int64, scores []int64) {
		for i, s := range scores {
			total[i] += weight * s
		}
	}
	add(3, r.taintScores(pod, nodes))
	add(2, r.nodeAffinityScores(pod, nodes))
	add(1, r.leastAllocated(pod, nodes))
	add(2, r.spreadScores(pod, nodes))
	add(2, r.podAffinityScores(pod, nodes))
	add(1, r.balanced(pod, nodes))
	add(1, r.images(pod, nodes))
	return total
}

func (r *reference) taintScores(pod *corev1.Pod, nodes []*corev1.Node) []int64 {
	counts := make([]int64, len(nodes))
	for i, node := range nodes {
		for j := range node.Spec.Taints {
			if t := &node.Spec.Taints[j]; t.Effect == corev1.TaintEffectPreferNoSchedule && !refTolerates(pod, t) {
				counts[i]++
			}
		}
	}
	most := slices.Max(counts)
	if most == 0 {
		return nil // all are 100, which makes no difference
	}
	for i := range counts {
		counts[i] = 100 - 100*counts[i]/most
	}
	return counts
}

func (r *reference) nodeAffinityScores(pod *corev1.Pod, nodes []*corev1.Node) []int64 {
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil {
		return nil
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil
	}
	scores := make([]int64, len(nodes))
	for i, node := range nodes {
		scores[i] = terms.Score(node)
	}
	if most := slices.Max(scores); most > 0 {
		for i := range scores {
			scores[i] = 100 * scores[i] / most
		}
	}
	return scores
}

func (r *reference) leastAllocated(pod *corev1.Pod, nodes []*corev1.Node) (scores []int64) {
	for _, node := range nodes {
		var sum int64
		for name, otherwise := range map[corev1.ResourceName]int64{corev1.ResourceCPU: 100, corev1.ResourceMemory: 200 << 20} {
			total := refTotal(node, name)
			if used := r.used(node, name, otherwise) + refRequest(pod, name, otherwise); used <= total {
				sum += (total - used) * 100 / total
			}
		}
		scores = append(scores, sum/2)
	}
	return scores
}

func (r *reference) balanced(pod *corev1.Pod, nodes []*corev1.Node) (scores []int64) {
	cpu, memory := refRequest(pod, corev1.ResourceCPU, 0), refRequest(pod, corev1.ResourceMemory, 0)
	if cpu == 0 && memory == 0 {
		return nil
	}
	for _, node := range nodes {
		balance := func(cpu, memory int64) int64 {
			x := min(float64(r.used(node, corev1.ResourceCPU, 0)+cpu)/float64(refTotal(node, corev1.ResourceCPU)), 1)
			y := min(float64(r.used(node, corev1.ResourceMemory, 0)+memory)/float64(refTotal(node, corev1.ResourceMemory)), 1)
			return int64((1 - math.Abs((x-y)/2)) * 100)
		}
		scores = append(scores, 50+(50+balance(cpu, memory)-balance(0, 0))/2)
	}
	return scores
}

func (r *reference) images(pod *corev1.Pod, nodes []*corev1.Node) (scores []int64) {
	has := func(node *corev1.Node, image string) (int64, bool) {
		for _, i := range node.Status.Images {
			if slices.Contains(i.Names, image) {
				return i.SizeBytes, true
			}
		}
		return 0, false
	}
	for _, node := range nodes {
		var sum int64
		for _, c := range pod.Spec.Containers {
			size, ok := has(node, c.Image+":latest")
			if !ok {
				continue
			}
			with := 0
			for _, other := range r.nodes {
				if _, ok := has(other, c.Image+":latest"); ok {
					with++
				}
			}
			sum += int64(float64(size) * (float64(with) / float64(len(r.nodes))))
		}
		least, most := int64(23<<20), int64(1000<<20)*int64(len(pod.Spec.Containers))
		scores = append(scores, 100*(min(max(sum, least), most)-least)/(most-least))
	}
	return scores
}

func (r *reference) spreadScores(pod *corev1.Pod, nodes []*corev1.Node) []int64 {
	soft := refConstraints(pod, corev1.ScheduleAnyway)
	if len(soft) == 0 {
		return nil
	}
	sums := make([]float64, len(nodes))
	rated := 0
	for _, node := range nodes {
		if refHasKeys(node, soft) {
			rated++
		}
	}
	for i := range soft {
		c := &soft[i]
		values := map[string]bool{}
		for _, node := range nodes {
			if refHasKeys(node, soft) {
				values[node.Labels[c.TopologyKey]] = true
			}
		}
		size := len(values)
		if c.TopologyKey == corev1.LabelHostname {
			size = rated
		}
		counts := r.perDomain(pod, c, soft)
		for j, node := range nodes {
			count := counts[node.Labels[c.TopologyKey]]
			if c.TopologyKey == corev1.LabelHostname {
				count = 0
				for _, other := range r.on[node.Name] {
					if refCounts(c, pod, other) {
						count++
					}
				}
			}
			sums[j] += float64(count)*math.Log(float64(size+2)) + float64(c.MaxSkew-1)
		}
	}
	scores := make([]int64, len(nodes))
	least, most := int64(math.MaxInt64), int64(0)
	for i, node := range nodes {
		scores[i] = int64(math.Round(sums[i]))
		if refHasKeys(node, soft) {
			least, most = min(least, scores[i]), max(most, scores[i])
		}
	}
	for i, node := range nodes {
		switch {
		case !refHasKeys(node, soft):
			scores[i] = 0
		case most == 0:
			scores[i] = 100
		default:
			scores[i] = 100 * (most + least - scores[i]) / most
		}
	}
	return scores
}

func (r *reference) podAffinityScores(pod *corev1.Pod, nodes []*corev1.Node) []int64 {
	preferred := func(p *corev1.Pod) (near, far []corev1.WeightedPodAffinityTerm) {
		if a := p.Spec.Affinity; a != nil {
			near, far = a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution
		}
		return near, far
	}
	scores := make([]int64, len(nodes))
	for i, node := range nodes {
		weigh := func(terms []corev1.WeightedPodAffinityTerm, sign int64, owner, subject *corev1.Pod, at *corev1.Node) {
			for _, t := range terms {
				if together(t.PodAffinityTerm.TopologyKey, node, at) && refTermMatches(&t.PodAffinityTerm, owner, subject) {
					scores[i] += sign * int64(t.Weight)
				}
			}
		}
		r.each(func(at *corev1.Node, other *corev1.Pod) {
			near, far := preferred(pod)
			weigh(near, 1, pod, other, at)
			weigh(far, -1, pod, other, at)
			near, far = preferred(other)
			weigh(near, 1, other, pod, at)
			weigh(far, -1, other, pod, at)
			for _, t := range refNear(other) {
				if together(t.TopologyKey, node, at) && refTermMatches(&t, other, pod) {
					scores[i]++
				}
			}
		})
	}
	least, most := slices.Min(scores), slices.Max(scores)
	for i := range scores {
		if most == least {
			scores[i] = 0
		} else {
			scores[i] = int64(100 * (float64(scores[i]-least) / float64(most-least)))
		}
	}
	return scores
}
