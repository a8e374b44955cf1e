package plugins

import (
	"context"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/scheduler/framework"
	"github.com/kontiki/kontiki/test/harness"
)

// TestServicesOfSinglePods: the pods of a StatefulSet share an evaluation, unless a Service in their namespace selects by what tells
// them apart and their spread constraints come from Services.
func TestServicesOfSinglePods(t *testing.T) {
	h := harness.New(t)
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelHostname: "n"}}}
	profile := &framework.Profile{Filters: []framework.FilterPlugin{&PodTopologySpread{View: h.Client.View, Defaults: SystemConstraints, SystemDefaults: true}}}
	shares := func(change func(*corev1.Pod)) bool {
		cluster := framework.NewCluster(func(string) labels.Set { return nil })
		cluster.SetNode(node)
		var kept framework.Kept
		var found []*framework.Evaluation
		for _, name := range []string{"web-0", "web-1"} {
			p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": "web", appsv1.StatefulSetPodNameLabel: name}}}
			change(p)
			found = append(found, kept.Evaluation(cluster, profile, framework.NewPodInfo(p)))
		}
		return found[0] == found[1]
	}
	service := func(namespace, name, key, value string) {
		t.Helper()
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{Selector: map[string]string{key: value}, Ports: []corev1.ServicePort{{Port: 80}}}}
		if _, err := client.Create(context.Background(), h.Client, s); err != nil {
			t.Fatal(err)
		}
	}
	same := func(*corev1.Pod) {}
	service("default", "web", "app", "web")
	service("kube-system", "one", appsv1.StatefulSetPodNameLabel, "web-1")
	if !shares(same) {
		t.Error("the pods of a StatefulSet do not share an evaluation")
	}
	service("default", "one", appsv1.StatefulSetPodNameLabel, "web-1")
	if shares(same) {
		t.Error("they share one though a Service selects one of them alone")
	}
	if !shares(func(p *corev1.Pod) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}
	}) {
		t.Error("they do not share one though they have constraints of their own")
	}
}
