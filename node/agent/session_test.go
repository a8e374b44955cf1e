package agent

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/pods"
	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/fake"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
	"github.com/kontiki/kontiki/node/wire"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// startFake runs an agent over a fake runtime.
func startFake(t *testing.T, rt *fake.Runtime, masters ...*master) *Agent {
	t.Helper()
	return startFakeOn(t, &fakeNetwork{}, rt, masters...)
}

func startFakeOn(t *testing.T, network *fakeNetwork, rt *fake.Runtime, masters ...*master) *Agent {
	t.Helper()
	c := Config{NodeName: "node-1", NodeIP: netip.MustParseAddr("192.0.2.1"), StateDir: t.TempDir(), Runtime: rt, Network: network, Dial: dialPlain}
	c.LogDir = filepath.Join(c.StateDir, "logs")
	for _, m := range masters {
		c.Masters = append(c.Masters, m.addr)
	}
	a, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent: %v", err)
		}
	}))
	return a
}

func sleeper(name string) *corev1.Pod {
	return testPod(name, corev1.Container{Command: []string{"sleep", "100000"}})
}

func TestHelloDescribesTheNode(t *testing.T) {
	m := newMaster(t)
	startFake(t, fake.New(runtimetest.BusyboxName), m)
	m.await("hello", func() bool { return m.node != nil })
	n := m.node
	if n.Name != "node-1" || n.Labels["kubernetes.io/hostname"] != "node-1" || n.Status.Allocatable.Pods().Value() != 110 || n.Status.Capacity.Cpu().Value() < 1 ||
		n.Status.NodeInfo.ContainerRuntimeVersion != "containerd://0.0.0-fake" || n.Status.DaemonEndpoints.KubeletEndpoint.Port != 10250 {
		t.Errorf("node %+v", n)
	}
	ready := false
	for _, c := range n.Status.Conditions {
		ready = ready || c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	}
	if !ready {
		t.Errorf("conditions %+v", n.Status.Conditions)
	}
}

// TestHelloTellsWhatTheRuntimeCanDo: the handlers and features of the node's status follow the runtime's.
func TestHelloTellsWhatTheRuntimeCanDo(t *testing.T) {
	for _, recursive := range []bool{false, true} {
		t.Run(fmt.Sprint(recursive), func(t *testing.T) {
			m := newMaster(t)
			rt := fake.New(runtimetest.BusyboxName)
			features := runtime.Features{RecursiveReadOnly: recursive}
			features.Handlers = []runtime.HandlerFeatures{{RecursiveReadOnly: recursive, UserNamespaces: recursive}, {Name: "runc"}}
			if !recursive {
				features.NoUserNamespaces = "an old kernel"
			}
			rt.SetFeatures(features)
			startFake(t, rt, m)
			m.await("hello", func() bool { return m.node != nil })
			s := m.node.Status
			if !reflect.DeepEqual(s.RuntimeHandlers, []corev1.NodeRuntimeHandler{{Features: &corev1.NodeRuntimeHandlerFeatures{
				RecursiveReadOnlyMounts: new(recursive), UserNamespaces: new(recursive)}},
				{Name: "runc", Features: &corev1.NodeRuntimeHandlerFeatures{RecursiveReadOnlyMounts: new(false), UserNamespaces: new(false)}}}) {
				t.Errorf("runtime handlers %+v", s.RuntimeHandlers)
			}
			if !reflect.DeepEqual(s.Features, &corev1.NodeFeatures{SupplementalGroupsPolicy: new(true)}) {
				t.Errorf("features %+v", s.Features)
			}
		})
	}
}

func TestFailOverToAnotherMaster(t *testing.T) {
	a, b := newMaster(t), newMaster(t)
	startFake(t, fake.New(runtimetest.BusyboxName), a, b)
	p := sleeper("p")
	for _, m := range []*master{a, b} {
		m.pod(p)
	}
	joined := func() *master {
		deadline := time.Now().Add(10 * time.Second)
		for time.Now().Before(deadline) {
			for _, m := range []*master{a, b} {
				m.mu.Lock()
				_, ok := m.statuses[p.UID]
				m.mu.Unlock()
				if ok {
					return m
				}
			}
			time.Sleep(5 * time.Millisecond)
		}
		t.Fatal("no master was told")
		return nil
	}
	first := joined()
	other := a
	if first == a {
		other = b
	}
	first.stop()
	other.await("hello after the first master's death", func() bool { return other.hellos > 0 })
	q := sleeper("q")
	other.pod(q)
	other.awaitPod(q.UID, "running", running)
}

func TestUnacknowledgedReportsAreSentAgain(t *testing.T) {
	a, b := newMaster(t), newMaster(t)
	a.refuse, b.refuse = true, true
	startFake(t, fake.New(runtimetest.BusyboxName), a, b)
	p := sleeper("p")
	a.pod(p)
	b.pod(p)
	var first, other *master
	deadline := time.Now().Add(10 * time.Second)
	for first == nil && time.Now().Before(deadline) {
		for _, pair := range [][2]*master{{a, b}, {b, a}} {
			pair[0].mu.Lock()
			if pair[0].hellos > 0 {
				first, other = pair[0], pair[1]
			}
			pair[0].mu.Unlock()
		}
		time.Sleep(5 * time.Millisecond)
	}
	if first == nil {
		t.Fatal("no session")
	}
	time.Sleep(50 * time.Millisecond) // reports are under way, unanswered
	other.mu.Lock()
	other.refuse = false
	other.mu.Unlock()
	first.stop()
	other.awaitPod(p.UID, "running", running)
	other.awaitEvent("Started", "Container started")
}

func TestGapEndsTheSession(t *testing.T) {
	m := newMaster(t)
	startFake(t, fake.New(runtimetest.BusyboxName), m)
	m.await("hello", func() bool { return m.hellos == 1 })
	p := sleeper("p")
	raw, err := wire.Encode("v1", "Pod", p)
	if err != nil {
		t.Fatal(err)
	}
	m.mu.Lock()
	m.version += 2 // as if one delta had been lost
	o := &nodev1.Object{Key: &nodev1.ObjectKey{Resource: "pods", Namespace: p.Namespace, Name: p.Name}, Revision: m.version, Value: raw}
	m.objects[keyOf(o.Key)] = o
	m.log = append(m.log, &nodev1.Assignment{From: m.version - 1, To: m.version, Upserts: []*nodev1.Object{o}})
	m.notify()
	m.mu.Unlock()
	m.await("a new session", func() bool { return m.hellos == 2 })
	m.awaitPod(p.UID, "running", running)
}

func TestJournalSurvivesATornTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assignments")
	object := func(name string, rev uint64) *nodev1.Object {
		cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
		raw, err := wire.Encode("v1", "ConfigMap", cm)
		if err != nil {
			t.Fatal(err)
		}
		return &nodev1.Object{Key: &nodev1.ObjectKey{Resource: "configmaps", Namespace: "ns", Name: name}, Revision: rev, Value: raw}
	}
	s, _, err := openStore(path, "n1", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.keepWelcome(&nodev1.Welcome{Masters: []string{"a:1"}})
	for _, a := range []*nodev1.Assignment{
		{To: 1, Upserts: []*nodev1.Object{object("one", 1)}},
		{From: 1, To: 2, Upserts: []*nodev1.Object{object("two", 2)}},
		{From: 2, To: 3, Upserts: []*nodev1.Object{object("three", 3)}, Deletes: []*nodev1.ObjectKey{{Resource: "configmaps", Namespace: "ns", Name: "one"}}},
	} {
		if _, err := s.apply(a); err != nil {
			t.Fatal(err)
		}
		if err := s.journal.flush(); err != nil { // each in a record of its own
			t.Fatal(err)
		}
	}
	s.close()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v: it holds secrets", st.Mode(), err)
	}
	names := func(s *store) (out string) {
		s.mu.RLock()
		defer s.mu.RUnlock()
		for _, c := range list[*corev1.ConfigMap](s, "configmaps") {
			out += c.Name + " "
		}
		return out
	}
	damaged := append([]byte(nil), whole...)
	damaged[len(damaged)-1] ^= 1
	for _, c := range []struct {
		what, want string
		data       []byte
	}{
		{"whole", "three two ", whole},
		{"cut within the last record", "one two ", whole[:len(whole)-5]},
		{"a flipped bit in the last record", "one two ", damaged},
		{"garbage after the end", "three two ", append(append([]byte(nil), whole...), "garbage that is long enough for a head"...)},
	} {
		if err := os.WriteFile(path, c.data, 0o600); err != nil {
			t.Fatal(err)
		}
		s, w, err := openStore(path, "n1", nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := names(s); got != c.want || w == nil || w.Masters[0] != "a:1" {
			t.Errorf("%s: %q, welcome %v; want %q", c.what, got, w, c.want)
		}
		// It can be written on.
		if _, err := s.apply(&nodev1.Assignment{From: s.version, To: s.version + 1, Upserts: []*nodev1.Object{object("next", 9)}}); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
		s.close()
		if s, _, err = openStore(path, "n1", nil); err != nil {
			t.Fatal(err)
		}
		if _, ok := s.ConfigMap("ns", "next"); !ok {
			t.Errorf("%s: what was written after is lost", c.what)
		}
		s.close()
	}
}

func TestJournalIsRewritten(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assignments")
	s, _, err := openStore(path, "n1", nil)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := wire.Encode("v1", "ConfigMap", &corev1.ConfigMap{Data: map[string]string{"k": string(make([]byte, 100_000))}})
	if err != nil {
		t.Fatal(err)
	}
	o := func(rev uint64) []*nodev1.Object {
		return []*nodev1.Object{{Key: &nodev1.ObjectKey{Resource: "configmaps", Namespace: "ns", Name: "big"}, Revision: rev, Value: raw}}
	}
	for i := range uint64(50) {
		if _, err := s.apply(&nodev1.Assignment{From: i, To: i + 1, Upserts: o(i + 1)}); err != nil {
			t.Fatal(err)
		}
	}
	s.close()
	if st, err := os.Stat(path); err != nil || st.Size() > 2<<20 {
		t.Errorf("50 versions of one object take %d bytes, %v", st.Size(), err)
	}
	s, _, err = openStore(path, "n1", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	if _, ok := s.ConfigMap("ns", "big"); !ok || s.version != 50 {
		t.Errorf("version %d, found %v", s.version, ok)
	}
}

func TestRecorderCountsAndBounds(t *testing.T) {
	r := newRecorder("node-1")
	now := time.Unix(1000, 0)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}}
	e := pods.Event{Pod: pod, Type: "Warning", Reason: "BackOff", Message: "m"}
	first := r.record(e, now)
	second := r.record(e, now.Add(time.Second))
	if first.Name != second.Name || second.Count != 2 || first.Count != 1 {
		t.Errorf("the same event twice: %s %d, %s %d", first.Name, first.Count, second.Name, second.Count)
	}
	n := 2
	for range 100 {
		e.Message += "x"
		if r.record(e, now.Add(2*time.Second)) != nil {
			n++
		}
	}
	if n != burst {
		t.Errorf("%d events at once, want %d", n, burst)
	}
	if e.Message += "x"; r.record(e, now.Add(310*time.Second)) == nil {
		t.Error("nothing is recorded after a pause")
	}
}

func TestNetworkOfFormerPodsIsSwept(t *testing.T) {
	m := newMaster(t)
	p := sleeper("p")
	m.pod(p)
	swept := make(chan struct{})
	network := &fakeNetwork{former: []string{string(p.UID), "gone"}, swept: swept}
	startFakeOn(t, network, fake.New(runtimetest.BusyboxName), m)
	select {
	case <-swept:
	case <-time.After(30 * time.Second):
		t.Fatal("the network was never swept")
	}
	network.mu.Lock()
	defer network.mu.Unlock()
	if len(network.former) != 1 || network.former[0] != string(p.UID) {
		t.Errorf("pods that kept their network: %q, want only %q", network.former, p.UID)
	}
}

func TestAssignmentOfARecreatedPod(t *testing.T) {
	m := newMaster(t)
	rt := fake.New(runtimetest.BusyboxName)
	startFake(t, rt, m)
	p := sleeper("p")
	m.pod(p)
	m.awaitPod(p.UID, "running", running)
	q := sleeper("p")
	q.UID = types.UID("another")
	zero := int64(0)
	p.DeletionGracePeriodSeconds = &zero
	m.pod(q) // deleted by force and made again: the agent sees only the last
	m.awaitPod(q.UID, "running", running)
	deadline := time.Now().Add(60 * time.Second)
	for {
		list, _ := rt.ListContainers(context.Background(), string(p.UID))
		if len(list) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the former pod's containers: %+v", list)
		}
		// Its process ignores TERM, so help it along.
		for _, c := range list {
			rt.Exit(c.ID, 0, false)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
