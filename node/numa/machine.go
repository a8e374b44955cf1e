package numa

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"k8s.io/utils/cpuset"
)

// Machine is what the kernel says of a machine's processors and memory.
type Machine struct {
	CPUs []CPU // those that are online, by ID
	// Nodes are the NUMA nodes that are online, by ID. A machine without NUMA has one.
	Nodes []Node
}

// CPU is a logical processor, as the kernel counts them. Cores and caches are named by their lowest processor, so that names are unique on the
// machine.
type CPU struct{ ID, Core, Socket, Node, Cache int }

// Node is a NUMA node.
type Node struct {
	ID int
	// Memory is its size in bytes, and HugePages has the number of pages that are set aside by their size in bytes.
	Memory    uint64
	HugePages map[uint64]uint64
	// Distances to the nodes of the machine, in their order; nil if the kernel does not say.
	Distances []int
}

// IDs returns the IDs of the NUMA nodes.
func (m *Machine) IDs() []int {
	out := make([]int, 0, len(m.Nodes))
	for _, n := range m.Nodes {
		out = append(out, n.ID)
	}
	return out
}

// Distances returns the distances between the NUMA nodes, in the order of IDs; nil if the kernel does not say.
func (m *Machine) Distances() [][]int {
	var out [][]int
	for _, n := range m.Nodes {
		if len(n.Distances) != len(m.Nodes) {
			return nil
		}
		out = append(out, n.Distances)
	}
	return out
}

// Read reads the machine from sysfs, which is mounted at root: "/sys".
func Read(root string) (*Machine, error) {
	cpus, nodes := filepath.Join(root, "devices/system/cpu"), filepath.Join(root, "devices/system/node")
	online, err := list(filepath.Join(cpus, "online"))
	if err != nil {
		return nil, err
	}
	m := &Machine{}
	nodeOf := map[int]int{}
	ids, err := list(filepath.Join(nodes, "online"))
	if errors.Is(err, fs.ErrNotExist) { // a kernel without NUMA
		ids, err = cpuset.New(0), nil
	}
	if err != nil {
		return nil, err
	}
	for _, id := range ids.List() {
		dir := filepath.Join(nodes, fmt.Sprint("node", id))
		n, err := readNode(id, dir)
		if err != nil {
			return nil, err
		}
		m.Nodes = append(m.Nodes, n)
		on, err := list(filepath.Join(dir, "cpulist"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, cpu := range on.UnsortedList() {
			nodeOf[cpu] = id
		}
	}
	for _, id := range online.List() {
		c, err := readCPU(id, filepath.Join(cpus, fmt.Sprint("cpu", id)))
		if err != nil {
			return nil, err
		}
		c.Node = nodeOf[id]
		m.CPUs = append(m.CPUs, c)
	}
	return m, nil
}

func readCPU(id int, dir string) (CPU, error) {
	c := CPU{ID: id, Core: id, Cache: -1}
	// Not every architecture says where a processor is: then it is a core of its own on the only socket.
	socket, err := number(filepath.Join(dir, "topology/physical_package_id"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	c.Socket = max(socket, 0) // -1 means that it is not known
	siblings, err := list(filepath.Join(dir, "topology/thread_siblings_list"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	if l := siblings.List(); len(l) > 0 {
		c.Core = l[0]
	}
	caches, _ := filepath.Glob(filepath.Join(dir, "cache/index*"))
	for _, cache := range caches {
		if level, err := number(filepath.Join(cache, "level")); err != nil || level != 3 {
			continue
		}
		if shared, err := list(filepath.Join(cache, "shared_cpu_list")); err == nil && shared.Size() > 0 {
			c.Cache = shared.List()[0]
		}
	}
	if c.Cache < 0 {
		c.Cache = c.Socket
	}
	return c, nil
}

func readNode(id int, dir string) (Node, error) {
	n := Node{ID: id, HugePages: map[uint64]uint64{}}
	f, err := os.Open(filepath.Join(dir, "meminfo"))
	if err == nil {
		defer f.Close()
		for lines := bufio.NewScanner(f); lines.Scan(); {
			// Node 0 MemTotal:       16384256 kB
			if fields := strings.Fields(lines.Text()); len(fields) >= 4 && fields[2] == "MemTotal:" {
				kib, err := strconv.ParseUint(fields[3], 10, 64)
				if err != nil {
					return n, fmt.Errorf("%s: %w", f.Name(), err)
				}
				n.Memory = kib << 10
			}
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return n, err
	}
	sizes, _ := filepath.Glob(filepath.Join(dir, "hugepages/hugepages-*kB"))
	for _, path := range sizes {
		kib, err := strconv.ParseUint(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(path), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		pages, err := number(filepath.Join(path, "nr_hugepages"))
		if err != nil {
			return n, err
		}
		n.HugePages[kib<<10] = uint64(max(pages, 0))
	}
	if b, err := os.ReadFile(filepath.Join(dir, "distance")); err == nil {
		for _, field := range strings.Fields(string(b)) {
			d, err := strconv.Atoi(field)
			if err != nil {
				return n, fmt.Errorf("%s/distance: %w", dir, err)
			}
			n.Distances = append(n.Distances, d)
		}
	}
	return n, nil
}

func number(path string) (int, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("%s: %w", path, err)
	}
	return n, nil
}

// list reads a set as the kernel writes it: "0-3,8".
func list(path string) (cpuset.CPUSet, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return cpuset.CPUSet{}, err
	}
	s, err := cpuset.Parse(strings.TrimSpace(string(b)))
	if err != nil {
		return cpuset.CPUSet{}, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

// Set returns the processors for which a condition holds.
func (m *Machine) Set(holds func(CPU) bool) cpuset.CPUSet {
	var out []int
	for _, c := range m.CPUs {
		if holds(c) {
			out = append(out, c.ID)
		}
	}
	return cpuset.New(out...)
}

// All returns all processors.
func (m *Machine) All() cpuset.CPUSet { return m.Set(func(CPU) bool { return true }) }

// On returns the processors of NUMA nodes.
func (m *Machine) On(nodes []int) cpuset.CPUSet {
	return m.Set(func(c CPU) bool { return slices.Contains(nodes, c.Node) })
}
