package scheduler

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// podAffinity is a pod's required affinity to and from other pods, counted over all nodes once.
type podAffinity struct {
	// near must each be met, far must not: by topology value, how many pods match a term.
	near, far []affinityTerm
	// refused are topology values (key, value) that pods already there keep this one out of by their own anti-affinity.
	refused map[[2]string]bool
	// first says that no pod matches any near term anywhere, and this pod matches them all itself: the first of a group
	// that wants to be together must go somewhere.
	first bool
}

type affinityTerm struct {
	key     string
	matches func(*corev1.Pod) bool
	count   map[string]int
}

func compile(term *corev1.PodAffinityTerm, owner *corev1.Pod, namespaces func(string) labels.Set) affinityTerm {
	selector, err := metav1.LabelSelectorAsSelector(term.LabelSelector)
	if err != nil {
		selector = labels.Nothing()
	}
	in := map[string]bool{}
	for _, namespace := range term.Namespaces {
		in[namespace] = true
	}
	var across labels.Selector
	if term.NamespaceSelector != nil {
		if across, err = metav1.LabelSelectorAsSelector(term.NamespaceSelector); err != nil {
			across = labels.Nothing()
		}
	}
	if len(in) == 0 && across == nil {
		in[owner.Namespace] = true
	}
	return affinityTerm{key: term.TopologyKey, count: map[string]int{}, matches: func(pod *corev1.Pod) bool {
		if !in[pod.Namespace] && (across == nil || !across.Matches(namespaces(pod.Namespace))) {
			return false
		}
		return selector.Matches(labels.Set(pod.Labels))
	}}
}

// newPodAffinity counts, for a pod with required terms or where a pod with required anti-affinity exists; nil otherwise.
func newPodAffinity(pod *corev1.Pod, c *cache, namespaces func(string) labels.Set) *podAffinity {
	a := &podAffinity{refused: map[[2]string]bool{}}
	if affinity := pod.Spec.Affinity; affinity != nil {
		if affinity.PodAffinity != nil {
			for i := range affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
				a.near = append(a.near, compile(&affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution[i], pod, namespaces))
			}
		}
		if affinity.PodAntiAffinity != nil {
			for i := range affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
				a.far = append(a.far, compile(&affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[i], pod, namespaces))
			}
		}
	}
	for _, n := range c.nodes {
		if n.node == nil {
			continue
		}
		for _, other := range n.pods {
			a.count(other.Pod, n.node, pod, namespaces)
		}
	}
	if len(a.near)+len(a.far)+len(a.refused) == 0 {
		return nil
	}
	a.first = len(a.near) > 0
	for _, term := range a.near {
		a.first = a.first && len(term.count) == 0 && term.matches(pod)
	}
	return a
}

func (a *podAffinity) count(other *corev1.Pod, node *corev1.Node, pod *corev1.Pod, namespaces func(string) labels.Set) {
	for _, list := range [][]affinityTerm{a.near, a.far} {
		for _, term := range list {
			if value, ok := node.Labels[term.key]; ok && term.matches(other) {
				term.count[value]++
			}
		}
	}
	if other.Spec.Affinity == nil || other.Spec.Affinity.PodAntiAffinity == nil {
		return
	}
	for i := range other.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
		term := compile(&other.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution[i], other, namespaces)
		if value, ok := node.Labels[term.key]; ok && term.matches(pod) {
			a.refused[[2]string{term.key, value}] = true
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
