package agent

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/node/pods"
	"github.com/kontiki/kontiki/node/wire"
)

// TestTheNewestOfTwoReportsInFlightIsSentAgain: a session ends while two reports of a pod are not acknowledged. The next one sends the newer,
// as the pod changes no more; and so with events.
func TestTheNewestOfTwoReportsInFlightIsSentAgain(t *testing.T) {
	r := newReporter("n1")
	node := func() *corev1.Node { return &corev1.Node{} }
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: "p", UID: "u"}}
	r.begin()
	for _, phase := range []corev1.PodPhase{corev1.PodPending, corev1.PodSucceeded} {
		r.PodStatus(pod, corev1.PodStatus{Phase: phase}, false)
		r.Event(pods.Event{Pod: pod, Type: "Normal", Reason: "Same", Message: "again"})
		if b := r.take(node); len(b.GetPods()) != 1 || len(b.GetEvents()) != 1 {
			t.Fatalf("a batch of %d pods and %d events", len(b.GetPods()), len(b.GetEvents()))
		}
	}
	r.end()
	r.begin()
	b := r.take(node)
	if len(b.GetPods()) != 1 || len(b.GetEvents()) != 1 {
		t.Fatalf("%d pods and %d events are sent again", len(b.GetPods()), len(b.GetEvents()))
	}
	var sent corev1.Pod
	if err := wire.Decode(b.Pods[0].Status, &sent); err != nil {
		t.Fatal(err)
	}
	var event corev1.Event
	if err := wire.Decode(b.Events[0], &event); err != nil {
		t.Fatal(err)
	}
	if sent.Status.Phase != corev1.PodSucceeded || event.Count != 2 {
		t.Errorf("the pod is %s and its event counts %d, want Succeeded and 2", sent.Status.Phase, event.Count)
	}
}
