package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// podAffinity has a pod's required affinity and anti-affinity, counted over all nodes once.
type podAffinity struct {
	// All terms in near must be satisfied, and none in far. Only a pod that matches all terms in near counts for them: they are one
	// condition, although each has its own topology key.
	near, far []countedTerm
	// refused are topology values (key, value) in which existing pods refuse this one by their own anti-affinity.
	refused map[[2]string]bool
	// first means that no pod matches the near terms anywhere, but this pod itself matches all of them: the first pod of a group
	// with affinity to itself must be placed somewhere.
	first bool
}

// affinityTerm is one required term of a pod, compiled.
type affinityTerm struct {
	key string
	// A term applies to pods in the named namespaces, and in those that across selects (nil selects none).
	namespaces map[string]bool
	across     labels.Selector
	selector   labels.Selector
}

// countedTerm is a term with the number of pods that match it, by topology value.
type countedTerm struct {
	*affinityTerm
	count map[string]int
}

// namespaceLabels returns a namespace's labels.
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

// selectorOf compiles a selector. It has been validated; one that cannot be compiled nevertheless selects nothing.
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

// newPodAffinity counts for a pod with required terms, or if a pod with required anti-affinity exists; otherwise it returns nil.
// The cost depends on the number of all pods in the former case, and on that of the pods with anti-affinity in the latter.
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
				if len(a.near) > 0 && matchesAll(pod.near, other.Pod, namespaces) {
					for i := range a.near {
						a.near[i].add(n.node)
					}
				}
				for i := range a.far {
					if a.far[i].matches(other.Pod, namespaces) {
						a.far[i].add(n.node)
					}
				}
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
	a.first = len(a.near) > 0 && matchesAll(pod.near, pod.Pod, namespaces)
	for _, term := range a.near {
		a.first = a.first && len(term.count) == 0
	}
	return a
}

func matchesAll(terms []affinityTerm, pod *corev1.Pod, namespaces namespaceLabels) bool {
	for i := range terms {
		if !terms[i].matches(pod, namespaces) {
			return false
		}
	}
	return true
}

func counted(terms []affinityTerm) []countedTerm {
	var out []countedTerm
	for i := range terms {
		out = append(out, countedTerm{&terms[i], map[string]int{}})
	}
	return out
}

func (t *countedTerm) add(node *corev1.Node) {
	if value, ok := node.Labels[t.key]; ok {
		t.count[value]++
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
