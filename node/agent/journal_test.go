package agent

import (
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/node/wire"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// testStore is a store on disk with a master's versions.
type testStore struct {
	*store
	t    *testing.T
	path string
}

func newTestStore(t *testing.T) *testStore {
	s := &testStore{t: t, path: filepath.Join(t.TempDir(), "assignments")}
	s.reopen()
	t.Cleanup(func() { s.store.close() })
	return s
}

// reopen begins another life.
func (s *testStore) reopen() {
	s.t.Helper()
	if s.store != nil {
		s.store.close()
	}
	var err error
	if s.store, _, err = openStore(s.path, "n1", nil); err != nil {
		s.t.Fatal(err)
	}
}

// delta takes in a change of one object.
func (s *testStore) delta(resource, kind string, meta *metav1.ObjectMeta, o wire.Message) {
	s.t.Helper()
	version := s.version + 1
	raw, err := wire.Encode("v1", kind, o)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.apply(&nodev1.Assignment{From: s.version, To: version, Upserts: []*nodev1.Object{{
		Key: &nodev1.ObjectKey{Resource: resource, Namespace: meta.Namespace, Name: meta.Name}, Revision: version, Value: raw}}}); err != nil {
		s.t.Fatal(err)
	}
}

func (s *testStore) config(name string) {
	s.t.Helper()
	c := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	s.delta("configmaps", "ConfigMap", &c.ObjectMeta, c)
}

func (s *testStore) flush() {
	s.t.Helper()
	if err := s.journal.flush(); err != nil {
		s.t.Fatal(err)
	}
}

func (s *testStore) size() int64 {
	s.t.Helper()
	s.flush()
	st, err := os.Stat(s.path)
	if err != nil {
		s.t.Fatal(err)
	}
	return st.Size()
}

func (s *testStore) expectConfigs(names ...string) {
	s.t.Helper()
	for _, name := range names {
		if _, ok := s.ConfigMap("ns", name); !ok {
			s.t.Errorf("config map %s is lost; the version is %d", name, s.version)
		}
	}
}

func TestFailedWriteLosesNothingThatFollows(t *testing.T) {
	s := newTestStore(t)
	s.config("before")
	s.flush()
	// The file takes no more, and for a while no other can be written either.
	readonly, err := os.Open(s.path)
	if err != nil {
		t.Fatal(err)
	}
	s.journal.writing.Lock()
	s.journal.f.Close()
	s.journal.f = readonly
	s.journal.writing.Unlock()
	if err := os.Mkdir(s.path+".tmp", 0o700); err != nil {
		t.Fatal(err)
	}
	s.config("lost by the write")
	_ = s.journal.flush() // it fails here or did so in the background
	s.config("after it")
	if err := s.journal.flush(); err == nil {
		t.Fatal("the disk took a write")
	}
	if err := os.Remove(s.path + ".tmp"); err != nil {
		t.Fatal(err)
	}
	s.config("with room again")
	s.flush()
	s.config("a delta")
	s.reopen()
	s.expectConfigs("before", "lost by the write", "after it", "with room again", "a delta")
}

func TestAssignmentsDoNotWaitForTheDisk(t *testing.T) {
	s := newTestStore(t)
	s.journal.writing.Lock() // as a disk that takes long
	for _, name := range []string{"a", "b", "c"} {
		s.config(name)
	}
	s.keepWelcome(&nodev1.Welcome{Masters: []string{"m:1"}})
	s.expectConfigs("a", "b", "c")
	s.journal.writing.Unlock()
	s.reopen()
	s.expectConfigs("a", "b", "c")

	// What waits for a disk that takes ever longer is bounded.
	s.journal.writing.Lock()
	big := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "big"}, BinaryData: map[string][]byte{"k": make([]byte, 1<<20)}}
	for range 20 {
		s.delta("configmaps", "ConfigMap", &big.ObjectMeta, big)
	}
	s.journal.mu.Lock()
	if s.journal.queued > maxQueued {
		t.Errorf("%d bytes wait for the disk", s.journal.queued)
	}
	s.journal.mu.Unlock()
	s.journal.writing.Unlock()
	s.config("d")
	s.reopen()
	s.expectConfigs("a", "big", "d")
}

func TestEchoesAreNotWrittenAgain(t *testing.T) {
	s := newTestStore(t)
	pod := sleeper("p")
	store := func() { s.delta("pods", "Pod", &pod.ObjectMeta, pod) }
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1"}}
	store()
	s.delta("nodes", "Node", &node.ObjectMeta, node)
	before := s.size()

	pod.ResourceVersion = "77"
	pod.Status.Phase = corev1.PodRunning
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
	pod.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", Ready: true}}
	store()
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	s.delta("nodes", "Node", &node.ObjectMeta, node)
	if after := s.size(); after != before {
		t.Errorf("echoes grew the file from %d to %d bytes", before, after)
	}
	if p := s.allPods()[0]; p.Status.Phase != corev1.PodRunning {
		t.Errorf("the echo is not in memory: %+v", p.Status)
	}
	s.reopen() // the end of a life writes them, once
	if p := s.allPods()[0]; p.Status.Phase != corev1.PodRunning {
		t.Errorf("the echo is not on disk: %+v", p.Status)
	}
	for i := range 100 {
		pod.Status.ContainerStatuses[0].RestartCount = int32(i)
		store()
	}
	s.config("after the echoes") // takes the last one along
	if after := s.size(); after > before+10_000 {
		t.Errorf("100 echoes grew the file from %d to %d bytes", before, after)
	}
	s.config("after the echoes, too")
	s.reopen()
	s.expectConfigs("after the echoes", "after the echoes, too")
	if c := s.allPods()[0].Status.ContainerStatuses; len(c) != 1 || c[0].RestartCount != 99 {
		t.Errorf("the last echo is not on disk: %+v", c)
	}

	for what, change := range map[string]func(){
		"the pod's end":        func() { pod.Status.Phase = corev1.PodFailed },
		"its address":          func() { pod.Status.PodIPs = []corev1.PodIP{{IP: "10.244.0.1"}} },
		"somebody else's gate": func() { pod.Status.Conditions[0].Type = "example.com/gate" },
		"its deletion":         func() { pod.DeletionTimestamp = &metav1.Time{} },
		"the node's address": func() {
			node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "192.0.2.1"}}
		},
		"the node's range of pods": func() { node.Spec.PodCIDR = "10.244.1.0/24" },
	} {
		before := s.size()
		change()
		store()
		s.delta("nodes", "Node", &node.ObjectMeta, node)
		if s.size() == before {
			t.Errorf("%s was not written", what)
		}
	}
}
