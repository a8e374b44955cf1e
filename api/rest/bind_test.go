package rest_test

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// What a binding brings is validated like a change of the pod.
func TestBadLabelsOfABindingAreRefused(t *testing.T) {
	h := harness.New(t)
	core := h.Clientset().CoreV1()
	ctx := context.Background()
	given := pod("p")
	given.Annotations = map[string]string{"own": strings.Repeat("x", 200<<10)}
	if _, err := core.Pods("default").Create(ctx, given, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for field, meta := range map[string]metav1.ObjectMeta{
		"metadata.labels":      {Name: "p", Labels: map[string]string{"app": "not a label"}},
		"metadata.annotations": {Name: "p", Annotations: map[string]string{"more": strings.Repeat("x", 100<<10)}},
	} {
		err := core.Pods("default").Bind(ctx, &corev1.Binding{ObjectMeta: meta, Target: corev1.ObjectReference{Kind: "Node", Name: "n"}}, metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), field) {
			t.Errorf("%s: %v", field, err)
		}
	}
	if got, err := core.Pods("default").Get(ctx, "p", metav1.GetOptions{}); err != nil || got.Spec.NodeName != "" {
		t.Errorf("the pod is on %q: %v", got.Spec.NodeName, err)
	}
}
