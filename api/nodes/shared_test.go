package nodes

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/harness"
)

// assignOnce runs a session until its worker has been sent everything that it begins with.
func assignOnce(t *testing.T, s *session, to *mirror) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	before := to.sets()
	go func() { ended <- s.assign(ctx) }()
	await.That(t, "the session to begin", func() error {
		if to.sets() == before {
			return fmt.Errorf("%d sets", before)
		}
		return nil
	})
	cancel()
	<-ended
}

func (m *mirror) sets() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.fulls + m.kept
}

// TestASessionContinuesWhatItsWorkerHas: a worker that has a state of the same history is sent the difference; one that has none, that
// knows another history, or whose state is older than what is remembered, is sent everything, and so is one of an older version.
func TestASessionContinuesWhatItsWorkerHas(t *testing.T) {
	h := harness.New(t)
	server := serving(t, h)
	ctx := context.Background()
	make1(t, h, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	service := func(name string) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	}
	for i := range 20 {
		make1(t, h, service(fmt.Sprint("s", i)))
	}
	m := &mirror{t: t, have: map[key]uint64{}}
	check := func(when string, fulls, kept int) {
		t.Helper()
		await.That(t, "the worker to have what is stored "+when, func() error {
			assignOnce(t, sessionOf(server, "n1", m), m)
			if got, want := fmt.Sprint(m.have), fmt.Sprint(stored(t, h.Client.View(), "n1")); got != want {
				return fmt.Errorf("%s\nshould be\n%s", got, want)
			}
			return nil
		})
		if (m.fulls > 0) != (fulls > 0) || (m.kept > 0) != (kept > 0) {
			t.Errorf("%s: %d full sets and %d differences", when, m.fulls, m.kept)
		}
		m.fulls, m.kept = 0, 0
	}
	assignOnce(t, sessionOf(server, "n1", m), m)
	if m.fulls != 1 || m.history != "h" {
		t.Errorf("%d full sets of the history %q", m.fulls, m.history)
	}
	m.fulls = 0
	make1(t, h, service("later"))
	if err := h.Client.Delete(ctx, service("s3")); err != nil {
		t.Fatal(err)
	}
	check("after changes", 0, 1)
	check("again", 0, 1)
	m.history = "another"
	assignOnce(t, sessionOf(server, "n1", m), m)
	check("after another history", 1, 1)
	old := sessionOf(server, "n1", m)
	old.known = nil
	assignOnce(t, old, m)
	if m.fulls != 1 {
		t.Errorf("a worker that does not understand differences: %d full sets", m.fulls)
	}
	m.fulls = 0
	server.dispatcher.mu.Lock()
	server.dispatcher.shared.floor = m.version + 1
	server.dispatcher.mu.Unlock()
	assignOnce(t, sessionOf(server, "n1", m), m)
	if m.fulls != 1 || m.kept != 0 {
		t.Errorf("beyond what is remembered: %d full sets, %d differences", m.fulls, m.kept)
	}
}

// TestALargeSetIsSentInParts of limited size, with nothing missing, and encoded once for all.
func TestALargeSetIsSentInParts(t *testing.T) {
	h := harness.New(t)
	make1(t, h, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	for i := range 300 {
		make1(t, h, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("s", i),
			Annotations: map[string]string{"a": fmt.Sprintf("%01000d", i)}}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
	}
	server := serving(t, h)
	m := &mirror{t: t, have: map[key]uint64{}}
	assignOnce(t, sessionOf(server, "n1", m), m)
	if got, want := fmt.Sprint(m.have), fmt.Sprint(stored(t, h.Client.View(), "n1")); got != want || m.fulls != 1 {
		t.Errorf("%d sets: %s, want %s", m.fulls, got, want)
	}
	if m.chunks < 4 || m.largest > maxChunk {
		t.Errorf("%d messages, the largest with objects of %d bytes", m.chunks, m.largest)
	}
	one, _ := server.dispatcher.shared.set()
	if two, _ := server.dispatcher.shared.set(); two != one {
		t.Error("the set was made twice")
	}
}

// TestTheLogOfSharedChanges keeps the last changes, has the difference to every state that it reaches back to, and survives a gap.
func TestTheLogOfSharedChanges(t *testing.T) {
	objects := func(names ...string) map[key]*nodev1.Object {
		out := map[key]*nodev1.Object{}
		for _, n := range names {
			k := key{"services", "d", n}
			out[k] = &nodev1.Object{Key: k.proto(), Revision: 5}
		}
		return out
	}
	var s shared
	s.replace(10, objects("a", "b"))
	event := func(revision uint64, name string, gone bool) {
		t.Helper()
		obj := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name, ResourceVersion: fmt.Sprint(revision)}}
		e := client.Event{Revision: revision, New: obj}
		if gone {
			e = client.Event{Revision: revision, Old: obj}
		}
		if _, ok, err := s.change(e); !ok || err != nil {
			t.Fatal(ok, err)
		}
		s.revision = revision
	}
	set, changes := s.set()
	if len(set.objects) != 2 || len(changes) != 0 {
		t.Errorf("%d objects and %d changes", len(set.objects), len(changes))
	}
	event(11, "c", false)
	event(12, "a", true)
	event(13, "c", true)
	if got := s.since(10); len(got) != 2 || got[0].key.name != "a" || got[1].key.name != "c" || got[1].object != nil {
		t.Errorf("since 10: %v", got)
	}
	if s.reachesBack(9) || !s.reachesBack(10) {
		t.Error("the log begins elsewhere")
	}
	s.replace(20, objects("b", "x"))
	if got := s.since(13); len(got) != 1 || got[0].key.name != "x" {
		t.Errorf("since 13, over a gap: %v", got)
	}
	for r := uint64(21); r < 21+3*leastLog; r++ {
		event(r, "x", false)
	}
	if len(s.log) > 2*leastLog || s.reachesBack(20) || !s.reachesBack(s.revision-leastLog/2) {
		t.Errorf("the log has %d changes after %d", len(s.log), s.floor)
	}
	s.replace(7, objects("b"))
	if s.reachesBack(6) || s.revision != 7 || len(s.log) != 0 {
		t.Error("an older state continues the newer one")
	}
}

// TestChangesOfNodesThatRouteNothingAreNotShared.
func TestChangesOfNodesThatRouteNothingAreNotShared(t *testing.T) {
	var s shared
	s.replace(1, map[key]*nodev1.Object{})
	node := func(revision, ip string, ready corev1.ConditionStatus) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", ResourceVersion: revision}, Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}, Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
	}
	for _, c := range []struct {
		old, now *corev1.Node
		shared   bool
	}{
		{nil, node("2", "192.0.2.1", corev1.ConditionTrue), true},
		{node("2", "192.0.2.1", corev1.ConditionTrue), node("3", "192.0.2.1", corev1.ConditionFalse), false},
		{node("3", "192.0.2.1", corev1.ConditionFalse), node("4", "192.0.2.2", corev1.ConditionFalse), true},
	} {
		e := client.Event{New: c.now}
		if c.old != nil {
			e.Old = c.old
		}
		if _, ok, err := s.change(e); ok != c.shared || err != nil {
			t.Errorf("%s: %v, %v", c.now.ResourceVersion, ok, err)
		}
	}
}

// TestSharedChangesAreGathered: after one change, others wait for each other, but a change of the worker's own pods waits for nothing.
func TestSharedChangesAreGathered(t *testing.T) {
	h := harness.New(t)
	d := dispatching(t, h)
	s := d.subscribe("n1")
	defer s.Close()
	service := func(name string) {
		make1(t, h, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
	}
	service("first")
	awaitEvent(t, s)
	s.notBefore = time.Now().Add(time.Hour)
	service("second")
	service("third")
	onNode(t, h.Client, "p", "n1")
	var got []change
	for len(got) < 3 {
		got = append(got, awaitEvent(t, s)...)
	}
	if got[0].shared == nil || got[1].shared == nil || got[2].shared != nil {
		t.Errorf("%+v", got)
	}
}
