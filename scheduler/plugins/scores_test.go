package plugins

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// TestScoresAreUpstreams compares with scores calculated by the formulas of the plugins in k8s.io/kubernetes/pkg/scheduler.
func TestScoresAreUpstreams(t *testing.T) {
	c := framework.NewCluster(nil)
	for i, zone := range []string{"1", "1", "2", "2"} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i), Labels: map[string]string{"zone": zone, corev1.LabelHostname: fmt.Sprint("n", i)}}}
		for range i {
			node.Spec.Taints = append(node.Spec.Taints, corev1.Taint{Key: fmt.Sprint("k", len(node.Spec.Taints)), Effect: corev1.TaintEffectPreferNoSchedule})
		}
		c.SetNode(node)
	}
	for i, node := range []string{"n0", "n0", "n1", "n2"} {
		c.Place(framework.NewPodInfo(named(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Labels: map[string]string{"app": "x"}}}, fmt.Sprint(i))), node)
	}
	selector := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}
	soft := func(key string, skew int32) corev1.TopologySpreadConstraint {
		return corev1.TopologySpreadConstraint{MaxSkew: skew, TopologyKey: key, WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: selector}
	}
	for name, test := range map[string]struct {
		plugin framework.ScorePlugin
		change func(*corev1.Pod)
		want   []int64
	}{
		// Zone 1 has 3, zone 2 has 1, each times ln 4: 4, 4, 1, 1 when rounded.
		"zones": {&PodTopologySpread{}, func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{soft("zone", 1)}
		}, []int64{25, 25, 100, 100}},
		// Nodes have 2, 1, 1, 0, times ln 6 and with 2 more of the skew: 6, 4, 4, 2.
		"nodes": {&PodTopologySpread{}, func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{soft(corev1.LabelHostname, 3)}
		}, []int64{33, 66, 66, 100}},
		// 3 ln 4 + 2 ln 6, 3 ln 4 + ln 6, ln 4 + ln 6, ln 4: 8, 6, 3, 1.
		"both": {&PodTopologySpread{}, func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{soft("zone", 1), soft(corev1.LabelHostname, 1)}
		}, []int64{12, 37, 75, 100}},
		"near by zone": {&InterPodAffinity{HardWeight: 1}, func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
				{Weight: 5, PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: "zone", LabelSelector: selector}}}}}
		}, []int64{100, 100, 0, 0}},
		"apart by node": {&InterPodAffinity{HardWeight: 1}, func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
				{Weight: 5, PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: corev1.LabelHostname, LabelSelector: selector}}}}}
		}, []int64{0, 50, 50, 100}},
		"soft taints": {TaintToleration{}, func(p *corev1.Pod) {}, []int64{100, 67, 34, 0}},
		"soft taints that are tolerated": {TaintToleration{}, func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
		}, []int64{100, 100, 100, 100}},
	} {
		t.Run(name, func(t *testing.T) {
			pod := named(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default"}}, "p")
			test.change(pod)
			profile := &framework.Profile{Scores: []framework.WeightedScore{{ScorePlugin: test.plugin, Weight: 1}}}
			e := framework.NewEvaluation(c, profile, framework.NewPodInfo(pod))
			fit, _ := e.Fit(framework.NewPodInfo(pod))
			if got := e.Scores(fit); !slices.Equal(got, test.want) {
				t.Errorf("%v, want %v", got, test.want)
			}
		})
	}
}
