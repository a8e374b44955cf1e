package numa

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// on makes a hint.
func on(preferred bool, nodes ...int) Hint { return Hint{Of(nodes...), preferred} }

func nodes(n int) *Machine {
	m := &Machine{}
	for i := range n {
		m.Nodes = append(m.Nodes, Node{ID: i})
	}
	return m
}

func TestMerge(t *testing.T) {
	cpu := func(h ...Hint) Hints { return Hints{"cpu": h} }
	gpu := func(h ...Hint) Hints { return Hints{"gpu": h} }
	for _, c := range []struct {
		what      string
		providers []Hints
		want      map[string]string // by policy: the nodes, and whether the pod is admitted
	}{
		{"nobody minds", []Hints{nil, {"gpu": nil}}, map[string]string{BestEffort: "11 true", Restricted: "11 true", SingleNUMANode: "any true"}},
		{"one minds", []Hints{cpu(on(true, 1), on(false, 0, 1)), nil}, map[string]string{BestEffort: "10 true", Restricted: "10 true", SingleNUMANode: "10 true"}},
		{"both can", []Hints{cpu(on(true, 0), on(true, 1), on(false, 0, 1)), gpu(on(true, 1), on(false, 0, 1))}, map[string]string{BestEffort: "10 true", Restricted: "10 true", SingleNUMANode: "10 true"}},
		{"the lowest of equals", []Hints{cpu(on(true, 0), on(true, 1), on(false, 0, 1))}, map[string]string{BestEffort: "1 true", Restricted: "1 true", SingleNUMANode: "1 true"}},
		{"on different nodes", []Hints{cpu(on(true, 0), on(false, 0, 1)), gpu(on(true, 1), on(false, 0, 1))}, map[string]string{BestEffort: "1 true", Restricted: "1 false", SingleNUMANode: "any false"}},
		{"two nodes are needed", []Hints{cpu(on(true, 0, 1)), gpu(on(true, 0, 1))}, map[string]string{BestEffort: "11 true", Restricted: "11 true", SingleNUMANode: "any false"}},
		{"impossible", []Hints{{"cpu": {}}, nil}, map[string]string{BestEffort: "11 true", Restricted: "11 false", SingleNUMANode: "any false"}},
	} {
		for name, want := range c.want {
			p, err := NewPolicy(name, nodes(2), Options{})
			if err != nil {
				t.Fatal(err)
			}
			best, admit := p.Merge(c.providers)
			at := "any"
			if best.Nodes != 0 {
				at = best.Nodes.String()
			}
			if got := fmt.Sprint(at, " ", admit); got != want {
				t.Errorf("%s, policy %s: %s, want %s", c.what, name, got, want)
			}
		}
	}
	p, err := NewPolicy(None, nodes(20), Options{})
	if err != nil {
		t.Fatal(err)
	}
	if best, admit := p.Merge([]Hints{cpu()}); !admit || best.Nodes != 0 || p.Aligns() {
		t.Errorf("policy none: %v %v", best, admit)
	}
}

func TestTheNearestNodes(t *testing.T) {
	m := nodes(4)
	for i := range m.Nodes { // 0 is near 2, 1 is near 3
		for j := range m.Nodes {
			m.Nodes[i].Distances = append(m.Nodes[i].Distances, map[bool]int{true: 11, false: 20}[(i-j)%2 == 0])
		}
	}
	two := []Hints{{"cpu": {on(true, 0, 1), on(true, 1, 3)}}}
	for nearest, want := range map[bool]string{false: "11", true: "1010"} {
		p, err := NewPolicy(BestEffort, m, Options{Nearest: nearest})
		if err != nil {
			t.Fatal(err)
		}
		if best, _ := p.Merge(two); best.Nodes.String() != want {
			t.Errorf("nearest %v: %s, want %s", nearest, best.Nodes, want)
		}
	}
}

func TestOptions(t *testing.T) {
	o, err := ParseOptions(map[string]string{"prefer-closest-numa-nodes": "true", "max-allowable-numa-nodes": "12"})
	if err != nil || o != (Options{true, 12}) {
		t.Errorf("%v %v", o, err)
	}
	for name, value := range map[string]string{"max-allowable-numa-nodes": "7", "prefer-closest-numa-nodes": "x", "other": "true"} {
		if _, err := ParseOptions(map[string]string{name: value}); err == nil {
			t.Errorf("%s=%s", name, value)
		}
	}
	if _, err := NewPolicy(Restricted, nodes(9), Options{}); err == nil {
		t.Error("9 nodes")
	}
	if _, err := NewPolicy(Restricted, nodes(9), o); err != nil {
		t.Error(err)
	}
	if _, err := NewPolicy("other", nodes(1), o); err == nil {
		t.Error("an unknown policy")
	}
	if CheckScope("node") == nil || CheckScope(ScopePod) != nil {
		t.Error("scopes")
	}
}

// sysfs writes files below a directory.
func sysfs(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, "devices/system", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestReadAMachineWithTwoNodes(t *testing.T) {
	files := map[string]string{"cpu/online": "0-2,4-7", "node/online": "0-1", // processor 3 is offline
		"node/node0/cpulist": "0-1,4-5", "node/node1/cpulist": "2,6-7", "node/node0/distance": "10 21", "node/node1/distance": "21 10",
		"node/node0/meminfo": "Node 0 MemTotal:       1024 kB\nNode 0 MemFree:        512 kB", "node/node1/meminfo": "Node 1 MemTotal:       2048 kB",
		"node/node1/hugepages/hugepages-2048kB/nr_hugepages": "3"}
	for _, id := range []int{0, 1, 2, 4, 5, 6, 7} {
		dir := fmt.Sprint("cpu/cpu", id)
		files[dir+"/topology/physical_package_id"] = fmt.Sprint(id % 4 / 2)
		files[dir+"/topology/core_id"] = "0"
		files[dir+"/topology/thread_siblings_list"] = fmt.Sprintf("%d,%d", id%4, id%4+4)
		files[dir+"/cache/index3/level"] = "3"
		files[dir+"/cache/index3/shared_cpu_list"] = map[int]string{0: "0-1,4-5", 1: "2-3,6-7"}[id%4/2]
	}
	files["cpu/cpu7/topology/thread_siblings_list"] = "7"
	m, err := Read(sysfs(t, files))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(m.CPUs); got != "[{0 0 0 0 0} {1 1 0 0 0} {2 2 1 1 2} {4 0 0 0 0} {5 1 0 0 0} {6 2 1 1 2} {7 7 1 1 2}]" {
		t.Errorf("processors: %s", got)
	}
	if got := fmt.Sprint(m.Nodes); got != "[{0 1048576 map[] [10 21]} {1 2097152 map[2097152:3] [21 10]}]" {
		t.Errorf("nodes: %s", got)
	}
	if all, one := m.All().String(), m.On([]int{1}).String(); all != "0-2,4-7" || one != "2,6-7" {
		t.Errorf("all %s, on node 1 %s", all, one)
	}
	if got := fmt.Sprint(m.Distances(), m.IDs()); got != "[[10 21] [21 10]] [0 1]" {
		t.Error(got)
	}
	files["cpu/cpu5/topology/physical_package_id"] = "x"
	if _, err := Read(sysfs(t, files)); err == nil {
		t.Error("a socket that is no number was read")
	}
}

func TestReadAKernelWithoutNUMA(t *testing.T) {
	m, err := Read(sysfs(t, map[string]string{"cpu/online": "0-1", "cpu/cpu0/topology/physical_package_id": "-1", "cpu/cpu0/topology/thread_siblings_list": "0"}))
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(m.CPUs, m.IDs(), m.Distances()) != "[{0 0 0 0 0} {1 1 0 0 0}] [0] []" {
		t.Errorf("%v", m)
	}
}

func TestReadThisMachine(t *testing.T) {
	m, err := Read("/sys")
	if err != nil {
		t.Fatal(err)
	}
	if len(m.CPUs) == 0 || len(m.Nodes) == 0 {
		t.Errorf("%v", m)
	}
}
