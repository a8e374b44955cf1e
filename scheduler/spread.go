package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// spreadTerm is a topology spread constraint of a pod (KEP-895), compiled.
type spreadTerm struct {
	key        string
	maxSkew    int
	minDomains int
	selector   labels.Selector
	// honorAffinity ignores nodes that the pod's node affinity and selector do not match, honorTaints those with taints that it
	// does not tolerate (KEP-3094).
	honorAffinity, honorTaints bool
}

// compileSpread compiles a pod's hard constraints (DoNotSchedule) or its soft ones (ScheduleAnyway).
func compileSpread(pod *corev1.Pod, which corev1.UnsatisfiableConstraintAction) []spreadTerm {
	var out []spreadTerm
	for _, c := range pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable != which {
			continue
		}
		t := spreadTerm{
			key: c.TopologyKey, maxSkew: int(c.MaxSkew), selector: selectorOf(c.LabelSelector),
			honorAffinity: c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor,
			honorTaints:   c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
		}
		if c.MinDomains != nil {
			t.minDomains = int(*c.MinDomains)
		}
		out = append(out, t)
	}
	return out
}

// counts says whether a pod counts for the constraint of a pod in a namespace.
func (t *spreadTerm) counts(namespace string, other *corev1.Pod) bool {
	return other.Namespace == namespace && t.selector.Matches(labels.Set(other.Labels))
}

// includes says whether a node's pods and its domain count.
func (t *spreadTerm) includes(pod *corev1.Pod, required nodeaffinity.RequiredNodeAffinity, node *corev1.Node) bool {
	if t.honorAffinity {
		if matches, _ := required.Match(node); !matches { // a selector that cannot be parsed matches nothing, as upstream
			return false
		}
	}
	return !t.honorTaints || tolerates(pod, node)
}

// spreadConstraint is a term with its counts over all nodes that it includes.
type spreadConstraint struct {
	*spreadTerm
	self  int // 1 if the pod counts for its own constraint
	count map[string]int
	least int
}

func newSpread(pod *podInfo, c *cache, required nodeaffinity.RequiredNodeAffinity) []spreadConstraint {
	if len(pod.spread) == 0 {
		return nil
	}
	out := make([]spreadConstraint, len(pod.spread))
	for i := range out {
		s := &out[i]
		s.spreadTerm, s.count = &pod.spread[i], map[string]int{}
		if s.counts(pod.Namespace, pod.Pod) {
			s.self = 1
		}
	}
	for _, n := range c.nodes {
		if n.node == nil || !hasKeys(n.node, pod.spread) {
			continue // a node counts for all constraints or for none
		}
		for i := range out {
			if s := &out[i]; s.includes(pod.Pod, required, n.node) {
				s.count[n.node.Labels[s.key]] += s.on(pod.Namespace, n) // a domain without pods counts too
			}
		}
	}
	for i := range out {
		out[i].settle()
	}
	return out
}

func hasKeys(node *corev1.Node, terms []spreadTerm) bool {
	for i := range terms {
		if _, ok := node.Labels[terms[i].key]; !ok {
			return false
		}
	}
	return true
}

// on returns how many pods of a node count for the constraint of a pod in a namespace.
func (t *spreadTerm) on(namespace string, n *nodeInfo) (count int) {
	for _, other := range n.pods {
		if other.DeletionTimestamp == nil && t.counts(namespace, other.Pod) {
			count++
		}
	}
	return count
}

// settle sets the least count of a domain; it is 0 if there are fewer domains than minDomains.
func (s *spreadConstraint) settle() {
	first := true
	for _, n := range s.count {
		if first || n < s.least {
			s.least, first = n, false
		}
	}
	if len(s.count) < s.minDomains {
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
