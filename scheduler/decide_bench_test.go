package scheduler

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// workloads are the shapes of pods that benchmarks schedule, as in upstream's scheduler_perf.
var workloads = map[string]func(*corev1.Pod){
	"basic": func(*corev1.Pod) {},
	"spread": func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: alike}}
	},
	"affinity": func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
			{TopologyKey: corev1.LabelTopologyZone, LabelSelector: alike}}}}
	},
	"preferred": func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
			{Weight: 1, PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: corev1.LabelHostname, LabelSelector: alike}}}}}
	},
	"anti-affinity": func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
			{TopologyKey: corev1.LabelHostname, LabelSelector: alike}}}}
	},
}

var alike = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}

func benchNode(i int) *corev1.Node {
	name := fmt.Sprintf("n%05d", i)
	list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("64Gi"), corev1.ResourcePods: resource.MustParse("110")}
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name, corev1.LabelTopologyZone: fmt.Sprint("z", i%10)}},
		Status:     corev1.NodeStatus{Allocatable: list},
	}
}

// BenchmarkDecide measures decisions alone, with their events but without an API: pods of one template ("shared") and pods that differ
// from each other ("single"). When the nodes are full, or each has a pod with anti-affinity, all pods end.
func BenchmarkDecide(b *testing.B) {
	for _, nodes := range []int{1000, 5000} {
		for _, workload := range []string{"basic", "spread", "affinity", "preferred", "anti-affinity"} {
			for _, kind := range []string{"shared", "single"} {
				b.Run(fmt.Sprintf("%s/nodes=%d/%s", workload, nodes, kind), func(b *testing.B) { benchDecide(b, nodes, workloads[workload], kind == "single") })
			}
		}
	}
}

func benchDecide(b *testing.B, nodes int, change func(*corev1.Pod), single bool) {
	now := time.Unix(0, 0)
	s := still(b, &now)
	s.clear()
	for i := range nodes {
		s.observeNode(nil, benchNode(i), false)
	}
	var placed []*corev1.Pod
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if len(placed) == nodes {
			b.StopTimer()
			for _, p := range placed {
				s.podGone(p)
			}
			placed = placed[:0]
			b.StartTimer()
		}
		pod := unassigned(fmt.Sprint("p", i), asking("100m"), change, func(p *corev1.Pod) {
			p.Labels = map[string]string{"app": "x"}
			if single {
				p.Labels["one"] = p.Name
			}
		})
		s.arrive(pod)
		d := s.decide()
		if d.node == nil {
			b.Fatalf("%+v", d.refusal.Message())
		}
		s.cluster.Place(d.pod, d.node.Name)
		s.queue.Remove(pod.UID)
		bound := *pod
		bound.Spec.NodeName = d.node.Name
		s.observeAssigned(pod, &bound)
		placed = append(placed, &bound)
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
}
