package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// spreadConstraint is a hard topology spread constraint with its counts over all eligible nodes (KEP-895).
type spreadConstraint struct {
	key     string
	maxSkew int
	self    int // 1 if the pod counts itself
	count   map[string]int
	least   int
}

func newSpread(pod *corev1.Pod, c *cache, required nodeaffinity.RequiredNodeAffinity) []spreadConstraint {
	var out []spreadConstraint
	for _, constraint := range pod.Spec.TopologySpreadConstraints {
		if constraint.WhenUnsatisfiable != corev1.DoNotSchedule {
			continue
		}
		selector := selectorOf(constraint.LabelSelector)
		s := spreadConstraint{key: constraint.TopologyKey, maxSkew: int(constraint.MaxSkew), count: map[string]int{}}
		if selector.Matches(labels.Set(pod.Labels)) {
			s.self = 1
		}
		for _, n := range c.nodes {
			if n.node == nil {
				continue
			}
			value, ok := n.node.Labels[s.key]
			if matches, _ := required.Match(n.node); !ok || !matches {
				continue
			}
			for _, other := range n.pods {
				if other.Namespace == pod.Namespace && other.DeletionTimestamp == nil && selector.Matches(labels.Set(other.Labels)) {
					s.count[value]++
				}
			}
			s.count[value] += 0 // a domain without pods counts too
		}
		s.settle(constraint.MinDomains)
		out = append(out, s)
	}
	return out
}

// settle finds the least count of a domain; it is 0 while there are fewer domains than there must be.
func (s *spreadConstraint) settle(minDomains *int32) {
	first := true
	for _, n := range s.count {
		if first || n < s.least {
			s.least, first = n, false
		}
	}
	if minDomains != nil && len(s.count) < int(*minDomains) {
		s.least = 0
	}
}

func podSpread(t *task, n *nodeInfo) []string {
	for _, s := range t.spread {
		value, ok := n.node.Labels[s.key]
		if !ok {
			return []string{"node(s) didn't match pod topology spread constraints (missing required label)"}
		}
		if s.count[value]+s.self-s.least > s.maxSkew {
			return []string{"node(s) didn't match pod topology spread constraints"}
		}
	}
	return nil
}
