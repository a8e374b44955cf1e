package nodes

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/kv"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
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
func awaitEvent(t *testing.T, s *subscription) []change {
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
		for len(out) == 0 || out[len(out)-1] != "shared n3" {
			for _, e := range awaitEvent(t, s) {
				if e.shared != nil {
					out = append(out, "shared "+e.shared.key.name)
				} else {
					out = append(out, fmt.Sprintf("%T %s", e.event.Object(), e.event.Object().GetName()))
				}
			}
		}
		return out
	}
	if got, want := fmt.Sprint(names(one)), "[*v1.Pod p *v1.Secret s *v1.Node n1 shared n1 *v1.Node n1 shared n3]"; got != want {
		t.Errorf("n1 is told %s, want %s", got, want)
	}
	if got, want := fmt.Sprint(names(two)), "[shared n1 shared n3]"; got != want {
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
	s.start(0, true)
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

// mirror is a stream of a worker that has what it is sent.
type mirror struct {
	grpc.ServerStream
	t       *testing.T
	mu      sync.Mutex
	have    map[key]uint64 // revisions
	part    []*nodev1.Object
	history string
	version uint64
	fulls   int
	kept    int // full sets of own objects beside a difference
	chunks  int
	largest int // bytes of the objects of a message
	deleted int
	left    int // messages until the session is cut
	cut     func()
}

func (m *mirror) cutAfter(messages int, cut func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.left, m.cut = messages, cut
}

func (m *mirror) Recv() (*nodev1.SessionRequest, error) { select {} }

func (m *mirror) Send(r *nodev1.SessionResponse) error {
	a := r.GetAssignment()
	if a == nil {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.chunks++
	if m.left--; m.left == 0 && m.cut != nil {
		m.cut()
	}
	size := 0
	for _, o := range a.Upserts {
		size += len(o.Value)
	}
	m.largest = max(m.largest, size)
	m.part = append(m.part, a.Upserts...)
	if a.Incomplete {
		return nil
	}
	upserts := m.part
	m.part = nil
	switch {
	case a.From != 0 && a.From != m.version:
		m.t.Errorf("a delta from %d, the worker has %d", a.From, m.version)
	case a.From == 0 && a.KeepsShared:
		m.kept++
		if a.History != m.history {
			m.t.Errorf("a difference in the history %q, the worker knows %q", a.History, m.history)
		}
		for k := range m.have {
			if !workersShare[k.resource] {
				delete(m.have, k)
			}
		}
	case a.From == 0:
		m.fulls++
		clear(m.have)
	}
	if a.From == 0 {
		m.history = a.History
	}
	for _, o := range upserts {
		m.have[key{o.Key.Resource, o.Key.Namespace, o.Key.Name}] = o.Revision
	}
	for _, k := range a.Deletes {
		m.deleted++
		delete(m.have, key{k.Resource, k.Namespace, k.Name})
	}
	m.version = a.To
	return nil
}

var workersShare = map[string]bool{"services": true, "endpointslices": true, "nodes": true, "clustertrustbundles": true}

// seen returns an error until the mirror was sent differences and deletions.
func (m *mirror) seen() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.kept == 0 || m.deleted == 0 {
		return fmt.Errorf("%d differences and %d deletions", m.kept, m.deleted)
	}
	return nil
}

func (m *mirror) known() *nodev1.Known {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &nodev1.Known{History: m.history, Version: m.version}
}

// sessionOf returns a session of a node that sends to the mirror.
func sessionOf(s *Server, node string, to *mirror) *session {
	return &session{Server: s, node: node, stream: to, log: slog.New(slog.DiscardHandler), known: to.known()}
}

func serving(t *testing.T, h *harness.Harness) *Server {
	t.Helper()
	server := New(Config{Client: h.Client, Log: slog.New(slog.DiscardHandler), History: func(kv.View) string { return "h" }})
	server.dispatcher = dispatching(t, h)
	return server
}

// TestNothingIsMissed: while pods, Services and nodes come and go, what pods name changes, and sessions end and begin, each worker has, in
// the end, exactly what is stored. It is sent one full set; later sessions continue what it has.
func TestNothingIsMissed(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	server := serving(t, h)
	for i := range 3 {
		make1(t, h, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", i)}})
	}
	var workers sync.WaitGroup
	ends, end := context.WithCancel(ctx)
	defer end()
	have := make([]*mirror, 3)
	for i := range have {
		have[i] = &mirror{t: t, have: map[key]uint64{}}
		workers.Go(func() {
			r := rand.New(rand.NewSource(int64(i)))
			for ends.Err() == nil {
				one, cut := context.WithCancel(ends)
				have[i].cutAfter(1+r.Intn(5), cut)
				_ = sessionOf(server, fmt.Sprint("n", i), have[i]).assign(one)
				cut()
				have[i].mu.Lock()
				have[i].part = nil
				have[i].mu.Unlock()
			}
		})
	}
	var seed int64
	write := func() {
		var writers sync.WaitGroup
		for range 4 {
			seed++
			r := rand.New(rand.NewSource(seed))
			writers.Go(func() {
				for range 150 {
					name := fmt.Sprint("x", r.Intn(6))
					meta := metav1.ObjectMeta{Namespace: "default", Name: name}
					var err error
					switch r.Intn(10) {
					case 6:
						_, err = client.Create(ctx, h.Client, &corev1.Service{ObjectMeta: meta, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
					case 7:
						err = h.Client.Delete(ctx, &corev1.Service{ObjectMeta: meta})
					case 8:
						_, err = client.Create(ctx, h.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
					case 9:
						err = h.Client.Delete(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}})
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
	}
	// A slow machine sends many writes in one message: write until each worker was sent what this test is about.
	await.That(t, "each worker to be sent differences and deletions", func() error {
		write()
		for i, m := range have {
			if err := m.seen(); err != nil {
				return fmt.Errorf("worker %d: %w", i, err)
			}
		}
		return nil
	})
	for i := range have {
		node := fmt.Sprint("n", i)
		await.That(t, "the workers to have what is stored", func() error {
			v := h.Client.View()
			want := stored(t, v, node)
			have[i].mu.Lock()
			defer have[i].mu.Unlock()
			if got, want := fmt.Sprint(have[i].have), fmt.Sprint(want); got != want {
				return fmt.Errorf("worker %d has\n%s\nand should have\n%s", i, got, want)
			}
			return nil
		})
	}
	end()
	workers.Wait()
	for i, m := range have {
		if m.fulls != 1 {
			t.Errorf("worker %d was sent %d full sets", i, m.fulls)
		}
	}
}

// stored returns what a worker should have.
func stored(t *testing.T, v client.View, node string) map[key]uint64 {
	t.Helper()
	a := newAssignment(node, func() client.View { return v }, anyName{})
	if _, _, err := a.message(a.full(v)); err != nil {
		t.Fatal(err)
	}
	shared, err := readShared(v)
	if err != nil {
		t.Fatal(err)
	}
	for k, o := range shared {
		if k != nodeKey(node) {
			a.sent[k] = o.Revision
		}
	}
	return a.sent
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
