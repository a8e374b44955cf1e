package nodes

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/test/harness"
)

func onNode(t *testing.T, c *client.Client, name, node string) *corev1.Pod {
	t.Helper()
	pod, err := client.Create(context.Background(), c, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{
		NodeName: node, TerminationGracePeriodSeconds: new(int64), Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

// anyName follows no changes.
type anyName struct{}

func (anyName) name(key)   {}
func (anyName) unname(key) {}

func assignmentOf(h *harness.Harness, node string) *assignment {
	return newAssignment(node, h.Client.View, anyName{})
}

// TestAssignmentsAreOfOneRevisionAndCostTheirPods: an assignment has the objects of its view, even if other readers have used newer
// views meanwhile, and other nodes' pods are not read for it.
func TestAssignmentsAreOfOneRevisionAndCostTheirPods(t *testing.T) {
	h, scans := harness.NewScanned(t, "pods")
	for i := range 20 {
		onNode(t, h.Client, fmt.Sprint("other", i), "n2")
	}
	onNode(t, h.Client, "stays", "n1")
	before := onNode(t, h.Client, "anew", "n1")
	v := h.Client.View()
	if got := len(assignmentOf(h, "n1").full(v).upserts); got < 2 { // makes the index
		t.Fatalf("%d objects", got)
	}
	if err := h.Client.Delete(context.Background(), before); err != nil {
		t.Fatal(err)
	}
	onNode(t, h.Client, "anew", "n1")
	onNode(t, h.Client, "later", "n1")
	assignmentOf(h, "n1").full(h.Client.View()) // brings the index ahead
	scans.Reset()
	upserts := assignmentOf(h, "n1").full(v).upserts
	pods := map[string]client.Object{}
	for k, obj := range upserts {
		if k.resource == "pods" {
			pods[k.name] = obj
		}
	}
	if len(pods) != 2 || pods["stays"] == nil || pods["anew"] == nil || pods["anew"].GetUID() != before.UID {
		t.Errorf("the pods are %v", pods)
	}
	if n := scans.Visited(); n > 0 {
		t.Errorf("%d pods were visited", n)
	}
}
