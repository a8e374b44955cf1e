package rest_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/test/harness"
)

// A bound pod has the labels and annotations of its binding, and its node's topology.
func TestABindingsLabelsReachThePod(t *testing.T) {
	h := harness.New(t)
	core := h.Clientset().CoreV1()
	ctx := context.Background()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{
		"topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r1", "disk": "ssd"}}}
	if _, err := core.Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	given := pod("bound")
	given.Labels = map[string]string{"app": "x", "shard": "old", "topology.kubernetes.io/zone": "elsewhere"}
	if _, err := core.Pods("default").Create(ctx, given, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: "bound", Labels: map[string]string{"shard": "7"},
		Annotations: map[string]string{"a": "b", "pod.beta.kubernetes.io/init-containers": "[]"}}, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}
	if err := core.Pods("default").Bind(ctx, binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	direct := pod("direct")
	direct.Spec.NodeName = "n"
	if _, err := core.Pods("default").Create(ctx, direct, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]map[string]string{
		"bound":  {"app": "x", "shard": "7", "topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r1", "disk": ""},
		"direct": {"topology.kubernetes.io/zone": "z1", "topology.kubernetes.io/region": "r1", "disk": ""},
	} {
		got, err := core.Pods("default").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for key, value := range want {
			if got.Labels[key] != value {
				t.Errorf("%s: label %s is %q, want %q", name, key, got.Labels[key], value)
			}
		}
		if name == "bound" && (got.Annotations["a"] != "b" || len(got.Annotations) != 1) {
			t.Errorf("annotations %v", got.Annotations)
		}
	}
}
