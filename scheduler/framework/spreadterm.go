package framework

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// SpreadTerm is a topology spread constraint of a pod (KEP-895), compiled.
type SpreadTerm struct {
	Key        string
	MaxSkew    int
	MinDomains int
	Selector   labels.Selector
	// HonorAffinity ignores nodes that the pod's node affinity and selector do not match, HonorTaints those with taints that it
	// does not tolerate (KEP-3094).
	HonorAffinity, HonorTaints bool
}

// CompileSpread compiles constraints for a pod: the hard ones (DoNotSchedule) and the soft ones (ScheduleAnyway).
func CompileSpread(pod *corev1.Pod, constraints []corev1.TopologySpreadConstraint) (hard, soft []SpreadTerm) {
	for i := range constraints {
		c := &constraints[i]
		t := SpreadTerm{
			Key: c.TopologyKey, MaxSkew: int(c.MaxSkew), Selector: SelectorOf(c.LabelSelector),
			HonorAffinity: c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor,
			HonorTaints:   c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor,
		}
		for _, key := range c.MatchLabelKeys {
			if value, ok := pod.Labels[key]; ok {
				t.Selector = also(t.Selector, key, value)
			}
		}
		if c.MinDomains != nil {
			t.MinDomains = int(*c.MinDomains)
		}
		if c.WhenUnsatisfiable == corev1.DoNotSchedule {
			hard = append(hard, t)
		} else {
			soft = append(soft, t)
		}
	}
	return hard, soft
}

// also returns a selector that requires a label too. A selector that matches nothing stays one.
func also(s labels.Selector, key, value string) labels.Selector {
	added, _ := labels.SelectorFromSet(labels.Set{key: value}).Requirements()
	if _, selectable := s.Requirements(); !selectable {
		return s
	}
	return s.Add(added...)
}

// Counts says whether a pod counts for the constraint of a pod in a namespace. As upstream, an empty selector counts none, and pods
// that are being deleted do not count.
func (t *SpreadTerm) Counts(namespace string, other *corev1.Pod) bool {
	return other.Namespace == namespace && other.DeletionTimestamp == nil && !t.Selector.Empty() && t.Selector.Matches(labels.Set(other.Labels))
}
