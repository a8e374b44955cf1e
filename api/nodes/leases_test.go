package nodes_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/volumes"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// granted asks for leases until one is granted, and returns the number of the last request, whose answer may still come.
func (w *worker) granted(after uint64) uint64 {
	w.t.Helper()
	number := after
	ask := func() {
		number++
		w.send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Lease{Lease: &nodev1.LeaseRequest{Number: number}}})
	}
	ask()
	for {
		m := w.recv()
		if l := m.GetLease(); l != nil {
			if l.Number <= after || l.Number > number {
				w.t.Fatalf("lease %d was granted, asked for were %d to %d", l.Number, after+1, number)
			}
			return number
		}
		if m.GetBeat() != nil {
			ask()
		}
	}
}

// beats reads so many beats, and returns whether a lease was granted meanwhile for a request after the one of a number.
func (w *worker) beats(n int, after uint64) (lease bool) {
	w.t.Helper()
	for n > 0 {
		m := w.recv()
		lease = lease || m.GetLease().GetNumber() > after
		if m.GetBeat() != nil {
			n--
		}
	}
	return lease
}

func TestLeases(t *testing.T) {
	h, c := serve(t)
	w := connectWith(t, c, &nodev1.Hello{NodeName: "n1", Node: encode(t, node("n1")), Fences: true})
	last := w.granted(0)
	annotate := func(change func(map[string]string)) {
		t.Helper()
		for {
			n, _ := client.Get[*corev1.Node](h.Client.View(), "", "n1")
			n = n.DeepCopy()
			change(n.Annotations)
			if _, err := client.Update(context.Background(), h.Client, n); err == nil {
				return
			}
		}
	}
	if n, _ := client.Get[*corev1.Node](h.Client.View(), "", "n1"); n.Annotations[volumes.LeaseOfNode] != lease.String() {
		t.Fatalf("the node's annotations are %v", n.Annotations)
	}
	for _, mark := range []string{volumes.FencingNode, volumes.FencedNode} {
		annotate(func(a map[string]string) { a[mark] = "x" })
		before := last
		for range 5 {
			last++
			w.send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Lease{Lease: &nodev1.LeaseRequest{Number: last}}})
			if w.beats(1, before) {
				t.Fatalf("a worker got a lease whose node is marked with %s", mark)
			}
		}
		annotate(func(a map[string]string) { delete(a, mark) })
		last = w.granted(last)
	}
	// A worker that does not stop its pods gets none, and its node says so.
	other := connect(t, c, "n2")
	other.send(&nodev1.SessionRequest{Message: &nodev1.SessionRequest_Lease{Lease: &nodev1.LeaseRequest{Number: 1}}})
	if other.beats(5, 0) {
		t.Error("a worker got a lease whose node does not say that it has leases")
	}
	older := connect(t, c, "n1")
	older.until("the node", older.has("nodes//n1"))
	if n, _ := client.Get[*corev1.Node](h.Client.View(), "", "n1"); metav1.HasAnnotation(n.ObjectMeta, volumes.LeaseOfNode) {
		t.Error("the node of a worker without leases says that it has some")
	}
}
