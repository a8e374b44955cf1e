package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// podAffinity is a pod's required affinity to and from other pods, counted over all nodes once.
type podAffinity struct {
	// near must each be met, far must not.
	near, far []countedTerm
	// refused are topology values (key, value) that pods already there keep this one out of by their own anti-affinity.
	refused map[[2]string]bool
	// first says that no pod matches any near term anywhere, and this pod matches them all itself: the first of a group
	// that wants to be together must go somewhere.
	first bool
}

// affinityTerm is one required term of a pod, compiled.
type affinityTerm struct {
	key string
	// A term is about pods in the named namespaces, and in those that across selects (nil selects none).
	namespaces map[string]bool
	across     labels.Selector
	selector   labels.Selector
}

// countedTerm is a term with how many pods match it, by topology value.
type countedTerm struct {
	*affinityTerm
	count map[string]int
}

// namespaceLabels answers a namespace's labels.
type namespaceLabels func(name string) labels.Set

func compile(terms []corev1.PodAffinityTerm, owner *corev1.Pod) []affinityTerm {
	var out []affinityTerm
	for i := range terms {
		term := &terms[i]
		compiled := affinityTerm{key: term.TopologyKey, namespaces: map[string]bool{}, selector: selectorOf(term.LabelSelector)}
		for _, namespace := range term.Namespaces {
			compiled.namespaces[namespace] = true
		}
		if term.NamespaceSelector != nil {
			compiled.across = selectorOf(term.NamespaceSelector)
		}
		if len(term.Namespaces) == 0 && term.NamespaceSelector == nil {
			compiled.namespaces[owner.Namespace] = true
		}
		out = append(out, compiled)
	}
	return out
}

// selectorOf compiles a selector. Validation has seen it; one that does not compile all the same selects nothing.
func selectorOf(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}

func (t *affinityTerm) matches(pod *corev1.Pod, namespaces namespaceLabels) bool {
	if !t.namespaces[pod.Namespace] && (t.across == nil || !t.across.Matches(namespaces(pod.Namespace))) {
		return false
	}
	return t.selector.Matches(labels.Set(pod.Labels))
}

// newPodAffinity counts, for a pod with required terms or where a pod with required anti-affinity exists; nil otherwise. Its
// cost is that of all pods for the former, and that of the pods with anti-affinity for others.
func newPodAffinity(pod *podInfo, c *cache, namespaces namespaceLabels) *podAffinity {
	if len(pod.near)+len(pod.far)+c.averse == 0 {
		return nil
	}
	a := &podAffinity{refused: map[[2]string]bool{}, near: counted(pod.near), far: counted(pod.far)}
	for _, n := range c.nodes {
		if n.node == nil {
			continue
		}
		if len(a.near)+len(a.far) > 0 {
			for _, other := range n.pods {
				a.count(other.Pod, n.node, namespaces)
			}
		}
		for _, other := range n.averse {
			for i := range other.far {
				term := &other.far[i]
				if value, ok := n.node.Labels[term.key]; ok && term.matches(pod.Pod, namespaces) {
					a.refused[[2]string{term.key, value}] = true
				}
			}
		}
	}
	if len(a.near)+len(a.far)+len(a.refused) == 0 {
		return nil
	}
	a.first = len(a.near) > 0
	for _, term := range a.near {
		a.first = a.first && len(term.count) == 0 && term.matches(pod.Pod, namespaces)
	}
	return a
}

func counted(terms []affinityTerm) []countedTerm {
	var out []countedTerm
	for i := range terms {
		out = append(out, countedTerm{&terms[i], map[string]int{}})
	}
	return out
}

func (a *podAffinity) count(other *corev1.Pod, node *corev1.Node, namespaces namespaceLabels) {
	for _, list := range [][]countedTerm{a.near, a.far} {
		for _, term := range list {
			if value, ok := node.Labels[term.key]; ok && term.matches(other, namespaces) {
				term.count[value]++
			}
		}
	}
}

func podAffinityFilter(t *task, n *nodeInfo) []string {
	if t.affinity == nil {
		return nil
	}
	for _, term := range t.affinity.near {
		value, ok := n.node.Labels[term.key]
		if !ok || (term.count[value] == 0 && !t.affinity.first) {
			return []string{"node(s) didn't match pod affinity rules"}
		}
	}
	for _, term := range t.affinity.far {
		if value, ok := n.node.Labels[term.key]; ok && term.count[value] > 0 {
			return []string{"node(s) didn't match pod anti-affinity rules"}
		}
	}
	for place := range t.affinity.refused {
		if n.node.Labels[place[0]] == place[1] {
			return []string{"node(s) didn't satisfy existing pods anti-affinity rules"}
		}
	}
	return nil
}
