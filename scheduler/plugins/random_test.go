package plugins

import (
	"fmt"
	"math/rand"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// The generators make small clusters in which most constraints hold on some nodes and not on others.

var namespaceLabels = map[string]labels.Set{"default": {"team": "a"}, "other": {"team": "b"}, "third": {"team": "a"}}

func chance(r *rand.Rand, percent int) bool { return r.Intn(100) < percent }

func pick[T any](r *rand.Rand, from ...T) T { return from[r.Intn(len(from))] }

func quantities(cpu, memory int64) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU: *resource.NewMilliQuantity(cpu, resource.DecimalSI), corev1.ResourceMemory: *resource.NewQuantity(memory<<20, resource.BinarySI),
	}
}

func randomNode(r *rand.Rand, i int) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("n%02d", i), Labels: map[string]string{}}}
	if chance(r, 95) {
		n.Labels[corev1.LabelHostname] = n.Name
	}
	if chance(r, 85) {
		n.Labels[corev1.LabelTopologyZone] = pick(r, "z1", "z2", "z3")
	}
	if chance(r, 50) {
		n.Labels["disk"] = pick(r, "ssd", "hdd")
	}
	if chance(r, 15) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "dedicated", Value: pick(r, "x", "y"), Effect: corev1.TaintEffectNoSchedule})
	}
	if chance(r, 25) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "soft", Value: pick(r, "x", "y"), Effect: corev1.TaintEffectPreferNoSchedule})
	}
	n.Spec.Unschedulable = chance(r, 8)
	n.Status.Allocatable = quantities(int64(1000+r.Intn(4)*1000), int64(1024+r.Intn(4)*1024))
	n.Status.Allocatable[corev1.ResourcePods] = *resource.NewQuantity(int64(3+r.Intn(12)), resource.DecimalSI)
	if chance(r, 30) {
		n.Status.Allocatable["example.com/gpu"] = *resource.NewQuantity(int64(1+r.Intn(3)), resource.DecimalSI)
	}
	if chance(r, 40) {
		n.Status.Images = []corev1.ContainerImage{{Names: []string{pick(r, "big:latest", "small:latest")}, SizeBytes: int64(r.Intn(2000)) << 20}}
	}
	return n
}

func randomSelector(r *rand.Rand) *metav1.LabelSelector {
	if chance(r, 10) {
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpExists}}}
	}
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": pick(r, "a", "b", "c")}}
}

func randomTerm(r *rand.Rand) corev1.PodAffinityTerm {
	t := corev1.PodAffinityTerm{LabelSelector: randomSelector(r), TopologyKey: pick(r, corev1.LabelHostname, corev1.LabelTopologyZone, "disk")}
	switch r.Intn(6) {
	case 0:
		t.Namespaces = []string{"other"}
	case 1:
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": pick(r, "a", "b")}}
	}
	return t
}

func randomTerms(r *rand.Rand, percent int) (terms []corev1.PodAffinityTerm) {
	for range 2 {
		if chance(r, percent) {
			terms = append(terms, randomTerm(r))
		}
	}
	return terms
}

func randomWeighted(r *rand.Rand, percent int) (terms []corev1.WeightedPodAffinityTerm) {
	for _, t := range randomTerms(r, percent) {
		terms = append(terms, corev1.WeightedPodAffinityTerm{Weight: int32(1 + r.Intn(100)), PodAffinityTerm: t})
	}
	return terms
}

// randomTemplate returns a pod without a name.
func randomTemplate(r *rand.Rand) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: pick(r, "default", "default", "other", "third"), Labels: map[string]string{"app": pick(r, "a", "b", "c")}}}
	p.Spec.SchedulerName = corev1.DefaultSchedulerName
	for range 1 + r.Intn(2) {
		c := corev1.Container{Name: "c", Image: pick(r, "big", "small", "none")}
		if chance(r, 70) {
			c.Resources.Requests = quantities(int64(r.Intn(8)*100), int64(r.Intn(8)*100))
		}
		if chance(r, 15) {
			c.Resources.Requests = corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}
		}
		if chance(r, 10) {
			c.Ports = []corev1.ContainerPort{{HostPort: int32(8080 + r.Intn(2)), Protocol: corev1.ProtocolTCP, HostIP: pick(r, "", "10.0.0.1", "10.0.0.2")}}
		}
		p.Spec.Containers = append(p.Spec.Containers, c)
	}
	priority := int32(r.Intn(3))
	p.Spec.Priority = &priority
	if chance(r, 15) {
		p.Spec.NodeSelector = map[string]string{"disk": pick(r, "ssd", "hdd")}
	}
	if chance(r, 40) {
		p.Spec.Tolerations = []corev1.Toleration{{Key: pick(r, "dedicated", "soft"), Operator: corev1.TolerationOpEqual, Value: pick(r, "x", "y")}}
	}
	if chance(r, 60) {
		p.Spec.Affinity = randomAffinity(r)
	}
	for range r.Intn(3) {
		c := corev1.TopologySpreadConstraint{
			MaxSkew: int32(1 + r.Intn(2)), TopologyKey: pick(r, corev1.LabelHostname, corev1.LabelTopologyZone, "disk"), LabelSelector: randomSelector(r),
			WhenUnsatisfiable: pick(r, corev1.DoNotSchedule, corev1.ScheduleAnyway),
		}
		if chance(r, 30) {
			policy := pick(r, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
			c.NodeAffinityPolicy = &policy
		}
		if chance(r, 30) {
			policy := pick(r, corev1.NodeInclusionPolicyHonor, corev1.NodeInclusionPolicyIgnore)
			c.NodeTaintsPolicy = &policy
		}
		if c.WhenUnsatisfiable == corev1.DoNotSchedule && chance(r, 20) {
			domains := int32(1 + r.Intn(4))
			c.MinDomains = &domains
		}
		if chance(r, 10) {
			c.MatchLabelKeys = []string{"app"}
		}
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, c)
	}
	return p
}

func randomAffinity(r *rand.Rand) *corev1.Affinity {
	a := &corev1.Affinity{
		PodAffinity:     &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: randomTerms(r, 15), PreferredDuringSchedulingIgnoredDuringExecution: randomWeighted(r, 25)},
		PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: randomTerms(r, 10), PreferredDuringSchedulingIgnoredDuringExecution: randomWeighted(r, 25)},
	}
	ssd := corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "disk", Operator: pick(r, corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn), Values: []string{"ssd"}}}}
	switch r.Intn(5) {
	case 0:
		a.NodeAffinity = &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{ssd}}}
	case 1:
		a.NodeAffinity = &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: int32(1 + r.Intn(50)), Preference: ssd}}}
	}
	return a
}

// named returns a pod of a template.
func named(template *corev1.Pod, name string) *corev1.Pod {
	p := template.DeepCopy()
	p.Name, p.UID = name, types.UID(name)
	return p
}
