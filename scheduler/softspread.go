package scheduler

import (
	"math"

	corev1 "k8s.io/api/core/v1"
)

// softSpread prefers nodes whose domains have few pods that count for the pod's soft topology spread constraints
// (k8s.io/kubernetes/pkg/scheduler/framework/plugins/podtopologyspread/scoring.go). Nodes without a constraint's label get score 0.
func softSpread(t *task, c *cache, nodes []*nodeInfo) []int64 {
	if len(t.softSpread) == 0 {
		return nil
	}
	domains := countDomains(t, c, nodes)
	scores := make([]int64, len(nodes))
	const unrated = -1
	least, most := int64(math.MaxInt64), int64(0)
	for i, n := range nodes {
		if !hasKeys(n.node, t.softSpread) {
			scores[i] = unrated
			continue
		}
		var sum float64
		for j := range domains {
			sum += domains[j].crowd(t.Namespace, n)
		}
		scores[i] = int64(math.Round(sum))
		least, most = min(least, scores[i]), max(most, scores[i])
	}
	for i := range scores {
		switch {
		case scores[i] == unrated:
			scores[i] = 0
		case most == 0:
			scores[i] = maxScore
		default:
			scores[i] = maxScore * (most + least - scores[i]) / most
		}
	}
	return scores
}

// softDomains are the domains of a soft constraint.
type softDomains struct {
	*spreadTerm
	// count is the number of pods in each domain of the nodes to be scored; nil if each node is a domain.
	count map[string]int
	// weight prevents a constraint with few domains, which have many pods each, from outweighing one with many.
	weight float64
}

// countDomains counts over all nodes, because pods on nodes that the pod cannot be placed on also count for their domains.
func countDomains(t *task, c *cache, nodes []*nodeInfo) []softDomains {
	domains := make([]softDomains, len(t.softSpread))
	for i := range domains {
		domains[i].spreadTerm = &t.softSpread[i]
		if t.softSpread[i].key != corev1.LabelHostname {
			domains[i].count = map[string]int{}
		}
	}
	rated := 0
	for _, n := range nodes {
		if !hasKeys(n.node, t.softSpread) {
			continue
		}
		rated++
		for _, d := range domains {
			if d.count != nil {
				d.count[n.node.Labels[d.key]] = 0
			}
		}
	}
	for i := range domains {
		d := &domains[i]
		size := rated
		if d.count != nil {
			size = len(d.count)
			d.countAll(t, c)
		}
		d.weight = math.Log(float64(size + 2))
	}
	return domains
}

func (d *softDomains) countAll(t *task, c *cache) {
	for _, n := range c.nodes {
		if n.node == nil || !hasKeys(n.node, t.softSpread) || !d.includes(t.Pod, t.required, n.node) {
			continue
		}
		if value := n.node.Labels[d.key]; len(n.pods) > 0 {
			if _, rated := d.count[value]; rated {
				d.count[value] += d.on(t.Namespace, n)
			}
		}
	}
}

// crowd returns how many of the pods that count are in a node's domain, weighted.
func (d *softDomains) crowd(namespace string, n *nodeInfo) float64 {
	count := 0
	if d.count == nil {
		count = d.on(namespace, n)
	} else {
		count = d.count[n.node.Labels[d.key]]
	}
	return float64(count)*d.weight + float64(d.maxSkew-1)
}
