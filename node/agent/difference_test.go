package agent

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/runtime/fake"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
	"github.com/kontiki/kontiki/node/wire"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

func objectOf(t *testing.T, resource, kind, namespace, name string, revision uint64, o wire.Message) *nodev1.Object {
	t.Helper()
	value, err := wire.Encode("v1", kind, o)
	if err != nil {
		t.Fatal(err)
	}
	return &nodev1.Object{Key: &nodev1.ObjectKey{Resource: resource, Namespace: namespace, Name: name}, Revision: revision, Value: value}
}

func serviceObject(t *testing.T, name string, revision uint64) *nodev1.Object {
	return objectOf(t, "services", "Service", "d", name, revision, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name}})
}

func secretObject(t *testing.T, name string, revision uint64) *nodev1.Object {
	return objectOf(t, "secrets", "Secret", "d", name, revision, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name}})
}

func nodeObject(t *testing.T, name string, revision uint64, ip, cidr string) *nodev1.Object {
	return objectOf(t, "nodes", "Node", "", name, revision, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.NodeSpec{PodCIDR: cidr}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}}}})
}

// held lists what a store has.
func (s *store) held() string {
	var names []string
	for k, e := range s.objects {
		names = append(names, fmt.Sprintf("%s@%d", k.name, e.revision))
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}

// TestADifferenceKeepsWhatAllNodesGet, replaces what is the node's own, survives a restart of the agent, and is refused in another history.
func TestADifferenceKeepsWhatAllNodesGet(t *testing.T) {
	path := filepath.Join(t.TempDir(), "assignments")
	s, _, err := openStore(path, "n1", nil)
	if err != nil {
		t.Fatal(err)
	}
	if k := s.offer(); k.History != "" || k.Version != 0 {
		t.Errorf("without anything it offers %v", k)
	}
	apply := func(a *nodev1.Assignment, want string) {
		t.Helper()
		if _, err := s.apply(a); err != nil {
			t.Fatal(err)
		}
		if got := s.held(); got != want {
			t.Errorf("it has %s, want %s", got, want)
		}
	}
	apply(&nodev1.Assignment{To: 10, History: "h1", Upserts: []*nodev1.Object{serviceObject(t, "a", 3), serviceObject(t, "b", 4), secretObject(t, "x", 5)}}, "a@3 b@4 x@5")
	apply(&nodev1.Assignment{From: 10, To: 12, Upserts: []*nodev1.Object{serviceObject(t, "c", 12)}}, "a@3 b@4 c@12 x@5")
	s.close()
	if s, _, err = openStore(path, "n1", nil); err != nil {
		t.Fatal(err)
	}
	defer func() { s.close() }()
	if k := s.offer(); k.History != "h1" || k.Version != 12 {
		t.Errorf("after a restart it offers %v", k)
	}
	apply(&nodev1.Assignment{To: 20, History: "h1", KeepsShared: true, Upserts: []*nodev1.Object{serviceObject(t, "b", 18), secretObject(t, "y", 7)},
		Deletes: []*nodev1.ObjectKey{{Resource: "services", Namespace: "d", Name: "c"}}}, "a@3 b@18 y@7")
	for what, bad := range map[string]*nodev1.Assignment{
		"another history": {To: 30, History: "h2", KeepsShared: true},
		"a delta":         {From: 20, To: 30, KeepsShared: true},
		"backwards":       {From: 20, To: 19},
		"no key":          {From: 20, To: 30, Upserts: []*nodev1.Object{{Revision: 1}}},
		"no object":       {From: 20, To: 30, Upserts: []*nodev1.Object{nil}},
		"a long name":     {From: 20, To: 30, Deletes: []*nodev1.ObjectKey{{Resource: "services", Name: strings.Repeat("x", maxName+1)}}},
	} {
		if _, err := s.apply(bad); err == nil {
			t.Errorf("%s was accepted", what)
		}
	}
	if got := s.held(); got != "a@3 b@18 y@7" || s.version != 20 {
		t.Errorf("what was refused changed it to %s at %d", got, s.version)
	}
	// In another history a revision may be of another object.
	other := serviceObject(t, "b", 18)
	other.Value = serviceObject(t, "bb", 18).Value
	apply(&nodev1.Assignment{To: 5, History: "h2", Upserts: []*nodev1.Object{other}}, "b@18")
	if got := s.objects[key{"services", "d", "b"}].object.(*corev1.Service).Name; got != "bb" {
		t.Errorf("the object of the earlier history was kept: %s", got)
	}
	s.close()
	if s, _, err = openStore(path, "n1", nil); err != nil {
		t.Fatal(err)
	}
	if k := s.offer(); k.History != "h2" || k.Version != 5 {
		t.Errorf("after another restart it offers %v", k)
	}
	// A master of an earlier version has no history.
	apply(&nodev1.Assignment{To: 6, Upserts: []*nodev1.Object{other}}, "b@18")
	if k := s.offer(); k.History != "" {
		t.Errorf("after a set without a history it offers %v", k)
	}
}

// TestAWorkerTellsTheNextMasterWhatItHas.
func TestAWorkerTellsTheNextMasterWhatItHas(t *testing.T) {
	home, other, addresses := twoMasters(t, func(m *master) { m.history = "h" })
	home.config(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "first"}}) // so that the set's version is not 0
	startFake(t, fake.New(runtimetest.BusyboxName), home, other)
	home.await("the first session", func() bool { return home.hellos == 1 })
	home.mu.Lock()
	if home.known == nil || home.known.History != "" {
		t.Errorf("without anything the worker offers %v", home.known)
	}
	home.mu.Unlock()
	p := sleeper("p")
	home.pod(p)
	home.awaitPod(p.UID, "running", running)
	home.mu.Lock()
	version := home.version
	home.mu.Unlock()
	home.move(addresses[1])
	other.await("the worker", func() bool { return other.hellos == 1 })
	other.mu.Lock()
	defer other.mu.Unlock()
	if k := other.known; k.GetHistory() != "h" || k.GetVersion() != version {
		t.Errorf("the worker offers %v, it has version %d", k, version)
	}
}

// TestPartsOfASetBelongTogether and are limited in number and size.
func TestPartsOfASetBelongTogether(t *testing.T) {
	var g gathered
	part := func(to uint64, objects ...*nodev1.Object) *nodev1.Assignment {
		return &nodev1.Assignment{To: to, History: "h", Incomplete: true, Upserts: objects}
	}
	if err := g.add(part(5, serviceObject(t, "a", 1))); err != nil {
		t.Fatal(err)
	}
	if err := g.add(part(5, serviceObject(t, "b", 1))); err != nil {
		t.Fatal(err)
	}
	if err := g.add(part(6)); err == nil {
		t.Error("a part of another set was added")
	}
	if got := g.take(); len(got) != 2 || len(g.take()) != 0 {
		t.Errorf("%d objects", len(got))
	}
	if err := g.add(part(6, make([]*nodev1.Object, maxObjects+1)...)); err == nil {
		t.Error("a set without a limit")
	}
}

// TestPeersFollowNodes one by one and many at once, sorted by name, without the node itself and those that cannot be routed to; what was
// given away does not change.
func TestPeersFollowNodes(t *testing.T) {
	s, _, err := openStore(filepath.Join(t.TempDir(), "assignments"), "n1", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	version := uint64(0)
	apply := func(full bool, upserts []*nodev1.Object, deletes ...string) {
		t.Helper()
		a := &nodev1.Assignment{From: version, To: version + 1, Upserts: upserts}
		if full {
			a.From = 0
		}
		for _, name := range deletes {
			a.Deletes = append(a.Deletes, &nodev1.ObjectKey{Resource: "nodes", Name: name})
		}
		if _, err := s.apply(a); err != nil {
			t.Fatal(err)
		}
		version++
	}
	var many []*nodev1.Object
	var want []netapi.Peer
	for i := range 2 * manyPeers {
		name := fmt.Sprintf("w%03d", i)
		many = append(many, nodeObject(t, name, 1, fmt.Sprintf("192.0.2.%d", i), fmt.Sprintf("10.244.%d.0/24", i)))
		want = append(want, netapi.Peer{Name: name, IP: netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), PodCIDR: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), 0}), 24)})
	}
	slices.Reverse(many)
	apply(true, append(many, nodeObject(t, "n1", 1, "192.0.2.200", "10.244.200.0/24"), nodeObject(t, "no-range", 1, "192.0.2.201", "")))
	first := s.allPeers()
	if !slices.Equal(first, want) {
		t.Errorf("%v, want %v", first, want)
	}
	apply(false, []*nodev1.Object{nodeObject(t, "w0005", 2, "192.0.2.210", "10.244.210.0/24"), nodeObject(t, "w001", 2, "192.0.2.211", "10.244.1.0/24")}, "w002", "unknown")
	if !slices.Equal(first, want) {
		t.Error("peers that were given away changed")
	}
	want = slices.Clone(want)
	want[1].IP = netip.MustParseAddr("192.0.2.211")
	want = slices.Delete(want, 2, 3)
	want = slices.Insert(want, 1, netapi.Peer{Name: "w0005", IP: netip.MustParseAddr("192.0.2.210"), PodCIDR: netip.MustParsePrefix("10.244.210.0/24")})
	if got := s.allPeers(); !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// TestAgentsOfAProcessShareWhatAllNodesGet, but not their own nodes and secrets, and not what differs.
func TestAgentsOfAProcessShareWhatAllNodesGet(t *testing.T) {
	shared := new(Decoded)
	open := func(node string) *store {
		s, _, err := openStore(filepath.Join(t.TempDir(), "assignments"), node, shared)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.close)
		if _, err := s.apply(&nodev1.Assignment{To: 1, Upserts: []*nodev1.Object{serviceObject(t, "a", 1), nodeObject(t, "n1", 1, "192.0.2.1", ""),
			nodeObject(t, "n2", 1, "192.0.2.2", ""), nodeObject(t, "n3", 1, "192.0.2.3", ""), secretObject(t, "x", 1)}}); err != nil {
			t.Fatal(err)
		}
		return s
	}
	one, two := open("n1"), open("n2")
	for k, e := range one.objects {
		if same, want := e == two.objects[k], k.name == "a" || k.name == "n3"; same != want {
			t.Errorf("%v is shared: %v", k, same)
		}
	}
	if _, err := two.apply(&nodev1.Assignment{From: 1, To: 2, Upserts: []*nodev1.Object{serviceObject(t, "a", 2)}}); err != nil {
		t.Fatal(err)
	}
	if got := one.objects[key{"services", "d", "a"}].revision; got != 1 {
		t.Errorf("the other's change arrived: revision %d", got)
	}
}
