package nodes

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/harness"
)

// dispatching runs a dispatcher for the test.
func dispatching(t testing.TB, h *harness.Harness) *dispatcher {
	t.Helper()
	d := newDispatcher(h.Client, slog.New(slog.DiscardHandler))
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = d.run(ctx) })
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	<-d.ready
	return d
}

// awaitEvent returns the next changes of a subscription.
func awaitEvent(t *testing.T, s *subscription) []client.Event {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	events, ok, err := s.next(ctx)
	if err != nil || !ok {
		t.Fatalf("no changes: %v, complete: %v", err, ok)
	}
	return events
}

func make1[T client.Object](t *testing.T, h *harness.Harness, obj T) T {
	t.Helper()
	created, err := client.Create(context.Background(), h.Client, obj)
	if err != nil {
		t.Fatal(err)
	}
	return created
}

// TestChangesGoToThoseWhomTheyConcern: a session is not even woken by the pods and Secrets of others.
func TestChangesGoToThoseWhomTheyConcern(t *testing.T) {
	h := harness.New(t)
	d := dispatching(t, h)
	one, two := d.subscribe("n1"), d.subscribe("n2")
	defer one.Close()
	defer two.Close()
	one.name(key{"secrets", "default", "s"})
	onNode(t, h.Client, "p", "n1")
	make1(t, h, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}})
	make1(t, h, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "of-nobody"}})
	node := make1(t, h, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	node = node.DeepCopy()
	node.Annotations = map[string]string{"changes": "no route"}
	if _, err := client.Update(context.Background(), h.Client, node); err != nil {
		t.Fatal(err)
	}
	make1(t, h, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n3"}})
	names := func(s *subscription) (out []string) {
		for len(out) == 0 || out[len(out)-1] != "*v1.Node n3" {
			for _, e := range awaitEvent(t, s) {
				out = append(out, fmt.Sprintf("%T %s", e.Object(), e.Object().GetName()))
			}
		}
		return out
	}
	if got, want := fmt.Sprint(names(one)), "[*v1.Pod p *v1.Secret s *v1.Node n1 *v1.Node n1 *v1.Node n3]"; got != want {
		t.Errorf("n1 is told %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(names(two)), "[*v1.Node n1 *v1.Node n3]"; got != want {
		t.Errorf("n2 is told %s, want %s", got, want)
	}
	one.Close()
	if len(d.byName) != 0 || len(d.byNode) != 1 || len(d.all) != 1 {
		t.Errorf("after the end of a session: %d names, %d nodes, %d sessions", len(d.byName), len(d.byNode), len(d.all))
	}
}

// TestASlowSessionBeginsAnew: what waits for a session that does not read is bounded, and the session learns that changes are missing.
func TestASlowSessionBeginsAnew(t *testing.T) {
	h := harness.New(t)
	d := dispatching(t, h)
	s := d.subscribe("n1")
	defer s.Close()
	pod := onNode(t, h.Client, "p", "n1")
	awaitEvent(t, s)
	for range maxQueued + 1 {
		d.dispatchAll(client.Event{New: pod})
	}
	if _, ok, err := s.next(context.Background()); ok || err != nil {
		t.Errorf("complete: %v, %v", ok, err)
	}
	s.reset()
	d.dispatchAll(client.Event{New: pod})
	if got := awaitEvent(t, s); len(got) != 1 {
		t.Errorf("%d changes", len(got))
	}
	// So do all when the changes are read anew, after the history did not reach back.
	if err := d.begin(h.Client.View()); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.next(context.Background()); ok || err != nil {
		t.Errorf("complete: %v, %v", ok, err)
	}
}

func (d *dispatcher) dispatchAll(events ...client.Event) { _ = d.dispatch(events) }

// TestNothingIsMissed: while pods come and go and what they name changes, each worker has, in the end, exactly what is stored.
func TestNothingIsMissed(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	server := New(Config{Client: h.Client, Log: slog.New(slog.DiscardHandler)})
	server.dispatcher = dispatching(t, h)
	var workers, writers sync.WaitGroup
	ends, end := context.WithCancel(ctx)
	have := make([]map[key]uint64, 3)
	var mu sync.Mutex
	for i := range have {
		have[i] = map[key]uint64{}
		workers.Go(func() {
			node := fmt.Sprint("n", i)
			changes := server.dispatcher.subscribe(node)
			defer changes.Close()
			for ends.Err() == nil {
				changes.reset()
				a := newAssignment(node, server.encodings, h.Client.View, changes)
				take := func(d *delta) {
					mu.Lock()
					defer mu.Unlock()
					upserts, deletes, err := a.message(d)
					if err != nil {
						t.Error(err)
					}
					for _, o := range upserts {
						have[i][key{o.Key.Resource, o.Key.Namespace, o.Key.Name}] = o.Revision
					}
					for _, k := range deletes {
						delete(have[i], key{k.Resource, k.Namespace, k.Name})
					}
				}
				v := h.Client.View()
				mu.Lock()
				have[i] = map[key]uint64{}
				mu.Unlock()
				take(a.full(v))
				for {
					events, ok, err := changes.next(ends)
					if err != nil || !ok {
						break
					}
					d := newDelta()
					var later []client.Event
					for _, e := range events {
						if e.Revision > v.Revision() {
							later = append(later, e)
						}
					}
					a.apply(d, later)
					take(d)
				}
				a.end()
			}
		})
	}
	for w := range 4 {
		writers.Go(func() {
			r := rand.New(rand.NewSource(int64(w)))
			for range 150 {
				name := fmt.Sprint("x", r.Intn(6))
				meta := metav1.ObjectMeta{Namespace: "default", Name: name}
				var err error
				switch r.Intn(6) {
				case 0:
					_, err = client.Create(ctx, h.Client, &corev1.Secret{ObjectMeta: meta})
				case 1:
					_, err = client.Update(ctx, h.Client, &corev1.Secret{ObjectMeta: meta, Data: map[string][]byte{"k": fmt.Append(nil, r.Int())}})
				case 2:
					err = h.Client.Delete(ctx, &corev1.Secret{ObjectMeta: meta})
				case 3, 4:
					_, err = client.Create(ctx, h.Client, &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{NodeName: fmt.Sprint("n", r.Intn(3)),
						TerminationGracePeriodSeconds: new(int64), Containers: []corev1.Container{{Name: "c", Image: "i", EnvFrom: []corev1.EnvFromSource{
							{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: fmt.Sprint("x", r.Intn(6))}}}}}}}})
				case 5:
					err = h.Client.Delete(ctx, &corev1.Pod{ObjectMeta: meta})
				}
				if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsAlreadyExists(err) && !apierrors.IsConflict(err) {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	v := h.Client.View()
	for i := range have {
		a := newAssignment(fmt.Sprint("n", i), server.encodings, h.Client.View, anyName{})
		if _, _, err := a.message(a.full(v)); err != nil {
			t.Fatal(err)
		}
		await.That(t, "the workers to have what is stored", func() error {
			mu.Lock()
			defer mu.Unlock()
			if got, want := fmt.Sprint(have[i]), fmt.Sprint(a.sent); got != want {
				return fmt.Errorf("worker %d has\n%s\nand should have\n%s", i, got, want)
			}
			return nil
		})
	}
	end()
	workers.Wait()
}

// BenchmarkDispatch passes on changes of pods, beside as many sessions as a large cluster has. Others must cost nothing.
func BenchmarkDispatch(b *testing.B) {
	for _, sessions := range []int{1, 5000} {
		b.Run(fmt.Sprint(sessions), func(b *testing.B) {
			h := harness.New(b)
			d := newDispatcher(h.Client, slog.New(slog.DiscardHandler))
			for i := range sessions {
				defer d.subscribe(fmt.Sprint("n", i)).Close()
			}
			own := d.subscribe("n0")
			defer own.Close()
			event := client.Event{New: &corev1.Pod{Spec: corev1.PodSpec{NodeName: "n0"}}}
			b.ReportAllocs()
			for range b.N {
				d.dispatchAll(event)
				if _, _, err := own.next(b.Context()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
