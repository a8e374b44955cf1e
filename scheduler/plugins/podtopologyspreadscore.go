package plugins

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// spreadScore prefers nodes whose domains have few pods that count for the pod's soft constraints.
type spreadScore struct {
	// rated says which nodes are scored, by index: those with the keys of all constraints, or all of them for the system's default
	// constraints. The others get score 0.
	rated []bool
	terms []*softCounts
}

type softCounts struct {
	domains *framework.Domains
	// counts are the counts by domain, for a constraint by another key than the name of the node.
	counts *spreadCounts
	// byNode are those of each node, if each is a domain. They include nodes that the constraint does not count.
	byNode    []int32
	term      *framework.SpreadTerm
	namespace string
	// weight prevents a constraint with few domains, which have many pods each, from outweighing one with many.
	weight float64
	// seen marks the domains that were counted in the run with this number.
	seen []int
	run  int
}

// PreScore counts for a pod with soft constraints.
func (s *PodTopologySpread) PreScore(c *framework.Cluster, p *framework.PodInfo, _ framework.PodFilter) framework.PodScore {
	_, soft := s.constraints(p)
	if len(soft) == 0 {
		return nil
	}
	eligible := hasAll(soft)
	if s.SystemDefaults && len(p.Spec.TopologySpreadConstraints) == 0 {
		eligible = func(*framework.NodeInfo) bool { return true }
	}
	score := &spreadScore{rated: make([]bool, len(c.Nodes))}
	for i, n := range c.Nodes {
		score.rated[i] = eligible(n)
	}
	for i := range soft {
		t := &softCounts{term: &soft[i], namespace: p.Namespace, domains: c.Domains(soft[i].Key)}
		if soft[i].Key == corev1.LabelHostname {
			t.byNode = make([]int32, len(c.Nodes))
			for i, n := range c.Nodes {
				for _, other := range n.Pods {
					if t.term.Counts(p.Namespace, other.Pod) {
						t.byNode[i]++
					}
				}
			}
		} else {
			t.counts = newSpreadCounts(c, p, &soft[i], eligible)
			t.seen = make([]int, t.domains.Count)
		}
		score.terms = append(score.terms, t)
	}
	return score
}

// AddPod counts a pod more.
func (s *spreadScore) AddPod(p *framework.PodInfo, n *framework.NodeInfo) { s.count(p, n, 1) }

// RemovePod counts a pod less.
func (s *spreadScore) RemovePod(p *framework.PodInfo, n *framework.NodeInfo) { s.count(p, n, -1) }

func (s *spreadScore) count(p *framework.PodInfo, n *framework.NodeInfo, sign int32) {
	for _, t := range s.terms {
		if t.byNode != nil {
			if t.term.Counts(t.namespace, p.Pod) {
				t.byNode[n.Index] += sign
			}
		} else if d := t.counts.domainOf(p, n); d >= 0 {
			t.counts.count[d] += sign
		}
	}
}

// Compare sets the weights by the number of domains of the nodes.
func (s *spreadScore) Compare(nodes []*framework.NodeInfo) bool {
	rated := 0
	for _, n := range nodes {
		if s.rated[n.Index] {
			rated++
		}
	}
	for _, t := range s.terms {
		size := rated
		if t.byNode == nil {
			size = t.domainsOf(nodes, s.rated)
		}
		t.weight = math.Log(float64(size + 2))
	}
	return true
}

// domainsOf returns the number of domains that the rated nodes are in. That nodes do not have the label counts as one, as upstream.
func (t *softCounts) domainsOf(nodes []*framework.NodeInfo, rated []bool) (size int) {
	t.run++
	without := 0
	for _, n := range nodes {
		if !rated[n.Index] {
			continue
		}
		d := t.domains.Of[n.Index]
		if d < 0 {
			without = 1
		} else if t.seen[d] != t.run {
			t.seen[d] = t.run
			size++
		}
	}
	return size + without
}

// Score returns how crowded the node's domains are: less is better.
func (s *spreadScore) Score(n *framework.NodeInfo) int64 {
	if !s.rated[n.Index] {
		return 0
	}
	var sum float64
	for _, t := range s.terms {
		d := t.domains.Of[n.Index]
		if d < 0 {
			continue
		}
		var count int32
		if t.byNode != nil {
			count = t.byNode[n.Index]
		} else {
			count = t.counts.count[d]
		}
		sum += float64(count)*t.weight + float64(t.term.MaxSkew-1)
	}
	return int64(math.Round(sum))
}

func (s *spreadScore) Normalize(nodes []*framework.NodeInfo, scores []int64) {
	least, most := int64(math.MaxInt64), int64(0)
	for i, n := range nodes {
		if s.rated[n.Index] {
			least, most = min(least, scores[i]), max(most, scores[i])
		}
	}
	for i, n := range nodes {
		switch {
		case !s.rated[n.Index]:
			scores[i] = 0
		case most == 0:
			scores[i] = framework.MaxScore
		default:
			scores[i] = framework.MaxScore * (most + least - scores[i]) / most
		}
	}
}

func labelsOf(p *framework.PodInfo) labels.Set { return labels.Set(p.Labels) }
