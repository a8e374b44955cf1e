package cpus

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/utils/cpuset"

	"github.com/kontiki/kontiki/node/numa"
	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/test/await"
)

// machine has sockets of 4 cores with two processors each, numbered as Linux does on such machines: the second processors of all cores come after
// the first ones. Each socket is a NUMA node, and has two caches.
func machine(sockets int) *numa.Machine {
	m := &numa.Machine{}
	cores := 4 * sockets
	for id := range 2 * cores {
		core := id % cores
		m.CPUs = append(m.CPUs, numa.CPU{ID: id, Core: core, Socket: core / 4, Node: core / 4, Cache: core / 2 * 2})
	}
	for s := range sockets {
		m.Nodes = append(m.Nodes, numa.Node{ID: s})
	}
	return m
}

func set(t *testing.T, s string) cpuset.CPUSet {
	t.Helper()
	out, err := cpuset.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestTakeKeepsProcessorsTogether(t *testing.T) {
	for _, c := range []struct {
		what, free string
		n          int
		caches     bool
		want       string
	}{
		{"one processor", "0-15", 1, false, "0"},
		{"a core", "0-15", 2, false, "0,8"},
		{"a core and a half", "0-15", 3, false, "0-1,8"},
		{"a socket", "0-15", 8, false, "0-3,8-11"},
		{"more than a socket", "0-15", 10, false, "0-4,8-12"},
		{"the socket with fewer free ones", "0-7,8-13", 2, false, "4,12"},
		{"a whole core rather than halves", "0,1,2,10", 2, false, "2,10"},
		{"the rest of cores", "0-1,10-11", 2, false, "0-1"},
		{"what there is", "3,7,12", 3, false, "3,7,12"},
		{"a cache", "1-15", 4, true, "2-3,10-11"},
		{"a part of one cache", "1,4-5,9,12-13", 3, true, "4-5,12"},
		{"nothing", "0-15", 0, false, ""},
	} {
		got, err := take(machine(2), set(t, c.free), c.n, c.caches)
		if err != nil || got.String() != c.want {
			t.Errorf("%s: %d of %s: %q %v, want %q", c.what, c.n, c.free, got, err, c.want)
		}
	}
	if _, err := take(machine(1), set(t, "0-1"), 3, false); err == nil || err.Error() != "not enough cpus available to satisfy request: requested=3, available=2" {
		t.Errorf("too many: %v", err)
	}
}

// fake is a runtime with running containers.
type fake struct {
	mu   sync.Mutex
	list []runtime.Container
	on   map[string]string
	gone string // a container that has ended meanwhile
}

func (f *fake) ListContainers(context.Context, string) ([]runtime.Container, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.list, nil
}

func (f *fake) UpdateResources(_ context.Context, id string, r runtime.Resources) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if id == f.gone {
		return fmt.Errorf("%s: %w", id, runtime.ErrNotRunning)
	}
	f.on[id] = r.CPUs
	return nil
}

func pod(uid string, cpus ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), Name: uid}}
	for i, q := range cpus {
		p.Spec.Containers = append(p.Spec.Containers, container(fmt.Sprint("c", i), q))
	}
	return p
}

func container(name, cpus string) corev1.Container {
	l := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpus), corev1.ResourceMemory: resource.MustParse("1Gi")}
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Limits: l, Requests: l}}
}

// config is of two sockets with the processors 0 and 8 reserved.
func config(t *testing.T) Config {
	return Config{Machine: machine(2), Reserved: set(t, "0,8"), File: filepath.Join(t.TempDir(), "cpus.json"), Runtime: &fake{on: map[string]string{}}}
}

func start(t *testing.T, c Config) *Manager {
	t.Helper()
	m, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func allocate(m *Manager, p *corev1.Pod, near numa.Hint) error {
	all := append(append([]corev1.Container{}, p.Spec.InitContainers...), p.Spec.Containers...)
	for i := range all {
		if err := m.Allocate(context.Background(), p, &all[i], near); err != nil {
			return err
		}
	}
	return nil
}

func on(t *testing.T, m *Manager, p *corev1.Pod, c string) string {
	t.Helper()
	e, err := m.Container(t.Context(), p, c)
	if err != nil {
		t.Fatal(err)
	}
	if e.NoCPUQuota != (m.pods[p.UID] != nil && m.pods[p.UID][c].Size() > 0) {
		t.Errorf("%s %s: NoCPUQuota is %v", p.Name, c, e.NoCPUQuota)
	}
	return e.CPUs
}

func TestExclusiveProcessorsAndTheRest(t *testing.T) {
	c := config(t)
	m := start(t, c)
	own, shares, fraction := pod("own", "2", "1"), pod("shares"), pod("fraction", "1500m")
	shares.Spec.Containers = []corev1.Container{{Name: "c0"}}
	burstable := pod("burstable", "2")
	burstable.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
	for p, needs := range map[*corev1.Pod]bool{own: true, shares: false, fraction: false, burstable: false} {
		if m.Needs(p) != needs {
			t.Errorf("%s: Needs is %v", p.Name, !needs)
		}
		if err := allocate(m, p, numa.Hint{}); err != nil {
			t.Fatal(err)
		}
	}
	check := func(m *Manager) {
		t.Helper()
		if a, b := on(t, m, own, "c0"), on(t, m, own, "c1"); a != "1,9" || b != "2" {
			t.Errorf("own processors: %s and %s", a, b)
		}
		for _, p := range []*corev1.Pod{shares, fraction, burstable} {
			if got := on(t, m, p, "c0"); got != "0,3-8,10-15" {
				t.Errorf("%s: %s", p.Name, got)
			}
		}
	}
	check(m)
	check(start(t, c)) // another agent
	var described podresourcesv1.ContainerResources
	var all podresourcesv1.AllocatableResourcesResponse
	m.Describe(own, "c0", &described)
	m.Allocatable(&all)
	if !slices.Equal(described.CpuIds, []int64{1, 9}) || len(all.CpuIds) != 14 || !m.NoCPUQuota("own") || m.NoCPUQuota("shares") {
		t.Errorf("described: %v, of %v", described.CpuIds, all.CpuIds)
	}
	if err := allocate(m, pod("large", "12"), numa.Hint{}); err == nil || !strings.Contains(err.Error(), "requested=12, available=11") {
		t.Errorf("more than there are: %v", err)
	}
	if err := m.Release("own"); err != nil {
		t.Fatal(err)
	}
	if got := on(t, start(t, c), shares, "c0"); got != "0-15" {
		t.Errorf("after the end of the pod: %s", got)
	}
}

func TestInitContainersShareWithThoseThatRunLater(t *testing.T) {
	m := start(t, config(t))
	p := pod("p", "2")
	always := corev1.ContainerRestartPolicyAlways
	p.Spec.InitContainers = []corev1.Container{container("first", "4"), container("side", "1")}
	p.Spec.InitContainers[1].RestartPolicy = &always
	if err := allocate(m, p, numa.Hint{}); err != nil {
		t.Fatal(err)
	}
	first, side, main := set(t, on(t, m, p, "first")), set(t, on(t, m, p, "side")), set(t, on(t, m, p, "c0"))
	if all := first.Union(side, main); all.Size() != 4 || !side.Intersection(main).IsEmpty() {
		t.Errorf("first %s, side %s, main %s", first, side, main)
	}
	if n := podExclusive(p); n != 4 {
		t.Errorf("the pod needs %d", n)
	}
}

func TestHints(t *testing.T) {
	m := start(t, config(t))
	policy := func(name string) *numa.Policy {
		p, err := numa.NewPolicy(name, machine(2), numa.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	large := pod("large", "7")
	hint, admit := policy(numa.SingleNUMANode).Merge([]numa.Hints{m.Hints(large, &large.Spec.Containers[0])})
	if !admit || hint.Nodes.String() != "10" { // socket 0 has 6 that are not reserved
		t.Fatalf("7 processors: %v %v", hint, admit)
	}
	if err := allocate(m, large, hint); err != nil {
		t.Fatal(err)
	}
	if got := on(t, m, large, "c0"); got != "4-7,12-14" {
		t.Errorf("7 processors of socket 1: %s", got)
	}
	again, admit := policy(numa.Restricted).Merge([]numa.Hints{m.PodHints(large)})
	if !admit || again.Nodes != hint.Nodes {
		t.Errorf("the hint of a pod that has them: %v %v", again, admit)
	}
	other := pod("other", "7")
	if hint, admit := policy(numa.SingleNUMANode).Merge([]numa.Hints{m.Hints(other, &other.Spec.Containers[0])}); admit {
		t.Errorf("7 more: %v", hint)
	}
	best, admit := policy(numa.BestEffort).Merge([]numa.Hints{m.Hints(other, &other.Spec.Containers[0])})
	if !admit {
		t.Error("best effort refuses a pod")
	}
	if err := allocate(m, other, best); err != nil {
		t.Error(err)
	}
}

func TestOptions(t *testing.T) {
	c := config(t)
	c.Options = Options{FullCores: true, StrictReservation: true}
	c.Reserved = set(t, "0")
	m := start(t, c)
	var refused interface{ Reason() string }
	if err := allocate(m, pod("odd", "3"), numa.Hint{}); !errors.As(err, &refused) || refused.Reason() != "SMTAlignmentError" ||
		err.Error() != "SMT Alignment Error: requested 3 cpus not multiple cpus per core = 2" {
		t.Errorf("a part of a core: %v", err)
	}
	if err := allocate(m, pod("large", "16"), numa.Hint{}); !errors.As(err, &refused) || refused.Reason() != "SMTAlignmentError" {
		t.Errorf("too many cores: %v", err)
	}
	if err := allocate(m, pod("even", "4"), numa.Hint{}); err != nil {
		t.Error(err)
	}
	shares := pod("shares")
	if got := on(t, m, shares, "c"); set(t, got).Contains(0) {
		t.Errorf("a container uses a strictly reserved processor: %s", got)
	}
	for name, text := range map[string]string{"distribute-cpus-across-numa": "not supported", "what": "unknown"} {
		if _, err := ParseOptions(map[string]string{name: "true"}); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("option %s: %v", name, err)
		}
	}
	if _, err := ParseOptions(map[string]string{"full-pcpus-only": "perhaps"}); err == nil {
		t.Error("a value that is no boolean")
	}
	if o, err := ParseOptions(map[string]string{"full-pcpus-only": "true", "prefer-align-cpus-by-uncorecache": "true", "strict-cpu-reservation": "false"}); err != nil || o != (Options{FullCores: true, AlignCaches: true}) {
		t.Errorf("%v %v", o, err)
	}
}

func TestWhatIsRefusedAtTheStart(t *testing.T) {
	c := config(t)
	c.Reserved = cpuset.New()
	if _, err := New(c); err == nil || !strings.Contains(err.Error(), "--reserved-cpus") {
		t.Errorf("nothing reserved: %v", err)
	}
	c.Reserved = set(t, "99")
	if _, err := New(c); err == nil {
		t.Error("a processor is reserved that the machine does not have")
	}
	for what, text := range map[string]string{
		"damaged":                "{",
		"not of the machine":     `{"assignments":{"p":{"c":"4,99"}}}`,
		"reserved now":           `{"assignments":{"p":{"c":"0"}}}`,
		"given to two":           `{"assignments":{"p":{"c":"4"},"q":{"c":"3-4"}}}`,
		"something else than it": `{"assignments":{"p":{"c":"x"}}}`,
	} {
		c := config(t)
		if err := os.WriteFile(c.File, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := New(c); err == nil || !strings.Contains(err.Error(), "drain the node and remove the file") {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestRunningContainersMove(t *testing.T) {
	c := config(t)
	f := c.Runtime.(*fake)
	f.list = []runtime.Container{{ID: "1", PodUID: "old", Name: "c0", State: runtime.StateRunning}, {ID: "2", PodUID: "old", Name: "c1", State: runtime.StateExited},
		{ID: "3", PodUID: "gone", Name: "c0", State: runtime.StateRunning}, {ID: "4", PodUID: "own", Name: "c0", State: runtime.StateRunning}}
	f.gone = "3"
	m := start(t, c)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	are := func(one, two, four string) {
		t.Helper()
		await.That(t, "the containers to be moved", func() error {
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.on["1"] != one || f.on["2"] != two || f.on["4"] != four {
				return fmt.Errorf("they are on %v", f.on)
			}
			return nil
		})
	}
	are("0-15", "", "0-15")
	own := pod("own", "4")
	if err := allocate(m, own, numa.Hint{}); err != nil {
		t.Fatal(err)
	}
	are("0,3-8,11-15", "", "1-2,9-10")
	if err := m.Release("own"); err != nil {
		t.Fatal(err)
	}
	are("0-15", "", "0-15")
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
