package memory

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/kontiki/kontiki/node/numa"
)

const gib = 1 << 30

// machine has two NUMA nodes with 10 GiB each, of which node 1 has one in huge pages.
func machine() *numa.Machine {
	return &numa.Machine{Nodes: []numa.Node{{ID: 0, Memory: 10 * gib}, {ID: 1, Memory: 10 * gib, HugePages: map[uint64]uint64{2 << 20: 512}}}}
}

// config reserves 1 GiB of node 0, so both have 9 GiB for pods.
func config(t *testing.T) Config {
	t.Helper()
	r, err := ParseReserved("0:memory=1Gi", machine())
	if err != nil {
		t.Fatal(err)
	}
	return Config{Machine: machine(), Reserved: r, File: filepath.Join(t.TempDir(), "memory.json")}
}

func start(t *testing.T, c Config) *Manager {
	t.Helper()
	m, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func container(name, memory, pages string) corev1.Container {
	l := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse(memory)}
	if pages != "" {
		l["hugepages-2Mi"] = resource.MustParse(pages)
	}
	return corev1.Container{Name: name, Resources: corev1.ResourceRequirements{Limits: l, Requests: l}}
}

func pod(uid string, memory ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid)}}
	for i, q := range memory {
		p.Spec.Containers = append(p.Spec.Containers, container(fmt.Sprint("c", i), q, ""))
	}
	return p
}

func allocate(t *testing.T, m *Manager, p *corev1.Pod, near numa.Hint) error {
	t.Helper()
	all := append(append([]corev1.Container{}, p.Spec.InitContainers...), p.Spec.Containers...)
	for i := range all {
		if err := m.Allocate(t.Context(), p, &all[i], near); err != nil {
			return err
		}
	}
	return nil
}

func on(t *testing.T, m *Manager, p *corev1.Pod, name string) string {
	t.Helper()
	e, err := m.Container(t.Context(), p, name)
	if err != nil {
		t.Fatal(err)
	}
	return e.Memories
}

func TestContainersGetTheMemoryOfNodes(t *testing.T) {
	c := config(t)
	m := start(t, c)
	a, b := pod("a", "6Gi"), pod("b", "6Gi")
	shares := pod("shares")
	shares.Spec.Containers = []corev1.Container{{Name: "c0"}}
	for _, p := range []*corev1.Pod{a, b, shares} {
		if err := allocate(t, m, p, numa.Hint{}); err != nil {
			t.Fatal(err)
		}
	}
	m = start(t, c) // another agent
	var described podresourcesv1.ContainerResources
	var all podresourcesv1.AllocatableResourcesResponse
	m.Describe(b, "c0", &described)
	m.Allocatable(&all)
	if got := fmt.Sprint(described.Memory); !strings.Contains(got, "memory_type:\"memory\"") || described.Memory[0].Size != 6*gib || described.Memory[0].Topology.Nodes[0].ID != 1 || len(all.Memory) != 3 {
		t.Errorf("described: %s, of %v", got, all.Memory)
	}
	if on(t, m, a, "c0") != "0" || on(t, m, b, "c0") != "1" || on(t, m, shares, "c0") != "" {
		t.Errorf("a on %s, b on %s, shares on %q", on(t, m, a, "c0"), on(t, m, b, "c0"), on(t, m, shares, "c0"))
	}
	if !m.Needs(a) || m.Needs(shares) {
		t.Error("Needs")
	}
	large := pod("large", "12Gi")
	if err := allocate(t, m, large, numa.Hint{}); err == nil || !strings.Contains(err.Error(), "failed to get the default NUMA affinity") {
		t.Errorf("both nodes together while each is used alone: %v", err)
	}
	if err := m.Release("a"); err != nil {
		t.Fatal(err)
	}
	if err := allocate(t, m, large, numa.Hint{}); err == nil {
		t.Error("both nodes together while one is used alone")
	}
	if err := m.Release("b"); err != nil {
		t.Fatal(err)
	}
	if err := allocate(t, m, large, numa.Hint{}); err != nil || on(t, m, large, "c0") != "0-1" {
		t.Errorf("both nodes together: %v, on %s", err, on(t, m, large, "c0"))
	}
	if err := allocate(t, m, a, numa.Hint{}); err != nil || on(t, m, a, "c0") != "0-1" {
		t.Errorf("beside it: %v, on %s", err, on(t, m, a, "c0"))
	}
	if err := allocate(t, m, pod("small", "1Gi"), numa.Hint{}); err == nil {
		t.Error("more than both nodes have")
	}
}

func TestHintsAndTheirExtension(t *testing.T) {
	m := start(t, config(t))
	p := pod("p", "9Gi")
	h := m.Hints(p, &p.Spec.Containers[0])["memory"]
	if got := fmt.Sprint(h); got != "[{1 true} {10 true} {11 false}]" {
		t.Errorf("hints: %s", got)
	}
	if got := fmt.Sprint(m.PodHints(pod("q", "6Gi", "6Gi"))["memory"]); got != "[{11 true}]" {
		t.Errorf("hints of a pod: %s", got)
	}
	large := pod("large", "10Gi")
	if err := allocate(t, m, large, numa.Hint{Nodes: numa.Of(1)}); err != nil || on(t, m, large, "c0") != "0-1" {
		t.Errorf("more than the node has: %v, on %s", err, on(t, m, large, "c0"))
	}
	if got := fmt.Sprint(m.Hints(large, &large.Spec.Containers[0])["memory"]); got != "[{11 true}]" {
		t.Errorf("hints of what it has: %s", got)
	}
	if err := allocate(t, m, p, numa.Hint{Nodes: numa.Of(0), Preferred: true}); err == nil {
		t.Error("a node of a set in use")
	}
}

func TestInitContainersShareWithThoseThatRunLater(t *testing.T) {
	m := start(t, config(t))
	always := corev1.ContainerRestartPolicyAlways
	p := pod("p", "3Gi", "3Gi")
	p.Spec.InitContainers = []corev1.Container{container("first", "9Gi", ""), container("side", "3Gi", ""), container("second", "6Gi", "")}
	p.Spec.InitContainers[1].RestartPolicy = &always
	if err := allocate(t, m, p, numa.Hint{Nodes: numa.Of(0)}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"first", "side", "second", "c0", "c1"} {
		if got := on(t, m, p, name); got != "0" {
			t.Errorf("%s is on %s", name, got)
		}
	}
	if err := allocate(t, m, pod("q", "1Gi"), numa.Hint{}); err != nil {
		t.Error(err)
	}
}

func TestHugePages(t *testing.T) {
	m := start(t, config(t))
	p := pod("p")
	p.Spec.Containers = []corev1.Container{container("c0", "1Gi", "512Mi")}
	if err := allocate(t, m, p, numa.Hint{}); err != nil || on(t, m, p, "c0") != "1" {
		t.Errorf("%v, on %s", err, on(t, m, p, "c0"))
	}
	q := pod("q")
	q.Spec.Containers = []corev1.Container{container("c0", "1Gi", "514Mi")}
	if err := allocate(t, m, q, numa.Hint{}); err == nil {
		t.Error("more huge pages than there are")
	}
}

func TestWhatIsRefusedAtTheStart(t *testing.T) {
	for text, problem := range map[string]string{"": "", "0": "want NODE", "x:memory=1": "want NODE", "2:memory=1Gi": "has the NUMA nodes", "0:cpu=1": "want memory", "0:memory": "want memory",
		"0:memory=1Gi;0:memory=1Gi": "twice", "0:memory=1Gi,hugepages-2Mi=2Mi ; 1:memory=1Gi": ""} {
		if _, err := ParseReserved(text, machine()); (err == nil) != (problem == "") || err != nil && !strings.Contains(err.Error(), problem) {
			t.Errorf("%q: %v", text, err)
		}
	}
	c := config(t)
	c.Reserved = Reserved{}
	if _, err := New(c); err == nil || !strings.Contains(err.Error(), "--reserved-memory") {
		t.Errorf("nothing reserved: %v", err)
	}
	c.Reserved = Reserved{0: {corev1.ResourceMemory: 11 * gib}}
	if _, err := New(c); err == nil {
		t.Error("more is reserved than there is")
	}
	for what, text := range map[string]string{
		"damaged":            "{",
		"not of the machine": `{"p":[{"container":"c","nodes":4,"size":{"memory":1}}]}`,
		"overlapping":        `{"p":[{"container":"c","nodes":1,"size":{"memory":1}}],"q":[{"container":"c","nodes":3,"size":{"memory":1}}]}`,
		"too much":           `{"p":[{"container":"c","nodes":1,"size":{"memory":99999999999}}]}`,
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
