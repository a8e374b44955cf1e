package nodes_test

import (
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/client"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// reporting returns a worker with a session on a master of its own.
func reporting(t *testing.T, h *harness.Harness) *reporter {
	t.Helper()
	_, c := serveOn(t, h)
	w := connect(t, c, "w1")
	w.until("its own node", w.has("nodes//w1"))
	return &reporter{worker: w, h: h}
}

// aborted waits for the end of the session, and checks its reason.
func (r *reporter) aborted(why string) {
	r.t.Helper()
	for {
		if _, err := r.stream.Recv(); err != nil {
			if status.Code(err) != codes.Aborted {
				r.t.Errorf("%s: the session ended with %v", why, err)
			}
			return
		}
	}
}

// TestAnEarlierSessionsReportsAreNotStored: what a worker's later session has reported is not replaced by what another master is still
// trying to store.
func TestAnEarlierSessionsReportsAreNotStored(t *testing.T) {
	h := harness.New(t)
	earlier := reporting(t, h)
	pod := create(t, h, podNaming("a", "s"))
	if err := h.Client.Bind(t.Context(), pod, "w1"); err != nil {
		t.Fatal(err)
	}
	phase := func(p corev1.PodPhase) *nodev1.StatusBatch {
		reported := &corev1.Pod{Status: corev1.PodStatus{Phase: p, ContainerStatuses: []corev1.ContainerStatus{{Name: "c", Image: "i"}}}}
		return &nodev1.StatusBatch{Pods: []*nodev1.PodStatus{{Namespace: "default", Name: "a", Uid: string(pod.UID), Status: encode(t, reported)}}}
	}
	if problems := earlier.report(phase(corev1.PodPending)); len(problems) > 0 {
		t.Fatal(problems)
	}
	later := reporting(t, h)
	if problems := earlier.report(phase(corev1.PodPending)); len(problems) > 0 {
		t.Fatal("a session that has reported nothing ends no other: ", problems)
	}
	if problems := later.report(phase(corev1.PodRunning)); len(problems) > 0 {
		t.Fatal(problems)
	}
	earlier.send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Status{Status: phase(corev1.PodPending)}})
	earlier.aborted("a report after a later session's")
	if stored, _ := client.Get[*corev1.Pod](h.Client.View(), "default", "a"); stored.Status.Phase != corev1.PodRunning {
		t.Errorf("the pod is %s", stored.Status.Phase)
	}
	if problems := later.report(phase(corev1.PodRunning)); len(problems) > 0 {
		t.Error(problems)
	}
}

// TestADeletedNodeLeavesNoFence.
func TestADeletedNodeLeavesNoFence(t *testing.T) {
	h := harness.New(t)
	// Events about the node stay for their hour.
	count := func() int {
		events := 0
		client.Each(h.Client.View(), "", func(*corev1.Event) bool { events++; return true })
		return h.Store.View().Count("", "") - events
	}
	before := count()
	r := reporting(t, h)
	r.report(&nodev1.StatusBatch{NodeStatus: encode(t, r.node())})
	if fenced := count(); fenced < before+3 { // the node, its range and the fence
		t.Fatalf("the worker's session wrote %d keys", fenced-before)
	}
	if err := h.Client.Delete(t.Context(), r.node()); err != nil {
		t.Fatal(err)
	}
	if after := count(); after != before {
		t.Errorf("%d keys were left", after-before)
	}
}
