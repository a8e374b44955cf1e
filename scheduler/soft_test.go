package scheduler

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// place returns a pod that is already on a node.
type place struct {
	node   string
	change []func(*corev1.Pod)
}

// TestSoftConstraints: the preferences of a pod, and of the placed pods, decide between nodes that fit. "big" is the node for a pod
// without preferences, because it has more free resources.
func TestSoftConstraints(t *testing.T) {
	app := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) { p.Labels = map[string]string{"app": name} }
	}
	leaving := func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }
	elsewhere := func(p *corev1.Pod) { p.Namespace = "other" }
	spread := func(key string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, corev1.TopologySpreadConstraint{
				MaxSkew: 1, TopologyKey: key, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}})
		}
	}
	term := func(name string) corev1.PodAffinityTerm {
		return corev1.PodAffinityTerm{TopologyKey: "zone", LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": name}}}
	}
	affinity := func(p *corev1.Pod) *corev1.Affinity {
		if p.Spec.Affinity == nil {
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{}, PodAntiAffinity: &corev1.PodAntiAffinity{}, NodeAffinity: &corev1.NodeAffinity{}}
		}
		return p.Spec.Affinity
	}
	near := func(name string, weight int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			a := affinity(p).PodAffinity
			a.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PreferredDuringSchedulingIgnoredDuringExecution, corev1.WeightedPodAffinityTerm{Weight: weight, PodAffinityTerm: term(name)})
		}
	}
	far := func(name string, weight int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			a := affinity(p).PodAntiAffinity
			a.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PreferredDuringSchedulingIgnoredDuringExecution, corev1.WeightedPodAffinityTerm{Weight: weight, PodAffinityTerm: term(name)})
		}
	}
	needs := func(name string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			a := affinity(p).PodAffinity
			a.RequiredDuringSchedulingIgnoredDuringExecution = append(a.RequiredDuringSchedulingIgnoredDuringExecution, term(name))
		}
	}
	rather := func(node string, weight int32) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			a := affinity(p).NodeAffinity
			a.PreferredDuringSchedulingIgnoredDuringExecution = append(a.PreferredDuringSchedulingIgnoredDuringExecution, corev1.PreferredSchedulingTerm{Weight: weight,
				Preference: corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}})
		}
	}
	on := func(node string, change ...func(*corev1.Pod)) place { return place{node, change} }
	pod := func(change ...func(*corev1.Pod)) []func(*corev1.Pod) { return change }
	for name, c := range map[string]struct {
		there []place
		pod   []func(*corev1.Pod)
		want  string
	}{
		"nothing":                                    {nil, nil, "big"},
		"spread over zones":                          {[]place{on("big", app("x"))}, pod(app("x"), spread("zone")), "small"},
		"a zone's other nodes count":                 {[]place{on("full", app("x"))}, pod(app("x"), spread("zone")), "small"},
		"pods that are being deleted do not":         {[]place{on("big", app("x"), leaving)}, pod(app("x"), spread("zone")), "big"},
		"pods of other namespaces do not":            {[]place{on("big", app("x"), elsewhere)}, pod(app("x"), spread("zone")), "big"},
		"spread over nodes":                          {[]place{on("big", app("x"))}, pod(app("x"), spread(corev1.LabelHostname)), "small"},
		"nodes that lack a label are rated last":     {[]place{on("small", app("x")), on("small", app("x"))}, pod(app("x"), spread("rack")), "small"},
		"near pods":                                  {[]place{on("small", app("db"))}, pod(near("db", 1)), "small"},
		"away from pods":                             {[]place{on("full", app("db"))}, pod(far("db", 1)), "small"},
		"the heavier wish wins":                      {[]place{on("small", app("a")), on("big", app("b"))}, pod(near("a", 10), near("b", 9)), "small"},
		"pods of other namespaces are no company":    {[]place{on("small", app("db"), elsewhere)}, pod(near("db", 1)), "big"},
		"a placed pod would like it near":            {[]place{on("small", near("x", 1))}, pod(app("x")), "small"},
		"a placed pod needs such pods near":          {[]place{on("small", needs("x"))}, pod(app("x")), "small"},
		"a placed pod would rather not have it near": {[]place{on("big", far("x", 1))}, pod(app("x")), "small"},
		"a node":                       {nil, pod(rather("small", 1)), "small"},
		"one node rather than another": {nil, pod(rather("small", 2), rather("big", 1)), "small"},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(0, 0)
			s := still(t, &now)
			s.clear()
			for _, n := range []struct{ name, zone, cpu, memory string }{{"big", "1", "64", "64Gi"}, {"small", "2", "2", "4Gi"}, {"full", "1", "0", "4Gi"}} {
				list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(n.cpu), corev1.ResourceMemory: resource.MustParse(n.memory), corev1.ResourcePods: resource.MustParse("100")}
				labels := map[string]string{"zone": n.zone, corev1.LabelHostname: n.name}
				if n.name == "small" {
					labels["rack"] = "1"
				}
				s.cluster.SetNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.name, Labels: labels}, Status: corev1.NodeStatus{Allocatable: list}})
			}
			for i, at := range c.there {
				s.observeAssigned(nil, unassigned(fmt.Sprint(i), append([]func(*corev1.Pod){func(p *corev1.Pod) { p.Spec.NodeName = at.node }}, at.change...)...))
			}
			s.arrive(unassigned("p", append([]func(*corev1.Pod){asking("100m")}, c.pod...)...))
			if d := s.decide(); d.node == nil || d.node.Name != c.want {
				t.Errorf("decided %+v, want %s", d, c.want)
			}
			for i := range c.there {
				s.cluster.RemovePod(unassigned(fmt.Sprint(i)).UID)
			}
			if s.cluster.Averse != 0 || s.cluster.Inclined != 0 {
				t.Errorf("without pods there are %d averse and %d inclined ones", s.cluster.Averse, s.cluster.Inclined)
			}
		})
	}
}
