package framework

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// AffinityTerm is one term of a pod's affinity or anti-affinity to pods, compiled.
type AffinityTerm struct {
	Key string
	// A term applies to pods in the named namespaces, and in those that Across selects (nil selects none).
	Namespaces map[string]bool
	Across     labels.Selector
	Selector   labels.Selector
}

// WeightedTerm is a preferred term, with a negative weight one of anti-affinity.
type WeightedTerm struct {
	AffinityTerm
	Weight int64
}

// NamespaceLabels returns a namespace's labels.
type NamespaceLabels func(name string) labels.Set

// Matches says whether the term applies to a pod.
func (t *AffinityTerm) Matches(pod *corev1.Pod, namespaces NamespaceLabels) bool {
	if !t.Namespaces[pod.Namespace] && (t.Across == nil || !t.Across.Matches(namespaces(pod.Namespace))) {
		return false
	}
	return t.Selector.Matches(labels.Set(pod.Labels))
}

// MatchesAll says whether all terms apply to a pod.
func MatchesAll(terms []AffinityTerm, pod *corev1.Pod, namespaces NamespaceLabels) bool {
	for i := range terms {
		if !terms[i].Matches(pod, namespaces) {
			return false
		}
	}
	return true
}

func compile(terms []corev1.PodAffinityTerm, owner *corev1.Pod) []AffinityTerm {
	var out []AffinityTerm
	for i := range terms {
		term := &terms[i]
		compiled := AffinityTerm{Key: term.TopologyKey, Namespaces: map[string]bool{}, Selector: SelectorOf(term.LabelSelector)}
		for _, namespace := range term.Namespaces {
			compiled.Namespaces[namespace] = true
		}
		if term.NamespaceSelector != nil {
			compiled.Across = SelectorOf(term.NamespaceSelector)
		}
		if len(term.Namespaces) == 0 && term.NamespaceSelector == nil {
			compiled.Namespaces[owner.Namespace] = true
		}
		out = append(out, compiled)
	}
	return out
}

// compilePreferred compiles the preferred terms of a pod.
func compilePreferred(pod *corev1.Pod) (out []WeightedTerm) {
	add := func(terms []corev1.WeightedPodAffinityTerm, sign int64) {
		for i := range terms {
			compiled := compile([]corev1.PodAffinityTerm{terms[i].PodAffinityTerm}, pod)
			out = append(out, WeightedTerm{compiled[0], sign * int64(terms[i].Weight)})
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

// SelectorOf compiles a selector. It has been validated; one that cannot be compiled nevertheless selects nothing.
func SelectorOf(s *metav1.LabelSelector) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(s)
	if err != nil {
		return labels.Nothing()
	}
	return selector
}
