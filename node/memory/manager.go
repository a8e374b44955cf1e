// Package memory gives the memory of NUMA nodes to containers of Guaranteed pods: the kubelet's memory manager with the policy Static
// (KEP-1769).
//
// A container gets a set of NUMA nodes with enough memory and huge pages for its limits, and is confined to them. Sets that are in use do not
// overlap, so what is promised on one cannot be used up from another: as long as containers use nodes 0 and 1 together, none gets node 0 alone.
// Containers of other pods use what the kernel gives them. What containers have is on disk before they start.
package memory

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	helper "k8s.io/component-helpers/resource"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper/qos"
	"k8s.io/utils/cpuset"

	"github.com/kontiki/kontiki/internal/amount"
	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/node/numa"
	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/runtime"
)

// Config has what a Manager needs.
type Config struct {
	Machine  *numa.Machine
	Reserved Reserved
	// File has what containers have.
	File string
}

type amounts map[corev1.ResourceName]uint64

// Manager gives memory to containers. Its methods are safe for concurrent use.
type Manager struct {
	c Config
	// allocatable is what each NUMA node has for pods.
	allocatable map[int]amounts

	mu   sync.Mutex
	pods map[types.UID][]share // in the order in which the containers start
}

// share is what one container has.
type share struct {
	Container string   `json:"container"`
	Nodes     numa.Set `json:"nodes"`
	Size      amounts  `json:"size"`
	// Init means that it ends before the containers after it start; Sidecar that it runs beside them.
	Init    bool `json:"init,omitempty"`
	Sidecar bool `json:"sidecar,omitempty"`
}

// New returns a manager that knows what the previous one has given away. Errors: too much is reserved, or what is on disk does not fit the
// machine any more.
func New(c Config) (*Manager, error) {
	m := &Manager{c: c, allocatable: map[int]amounts{}, pods: map[types.UID][]share{}}
	for _, n := range c.Machine.Nodes {
		have := amounts{corev1.ResourceMemory: n.Memory}
		for size, pages := range n.HugePages {
			name := corev1.ResourceName(corev1.ResourceHugePagesPrefix + resource.NewQuantity(int64(size), resource.BinarySI).String())
			have[name] = size * pages
			have[corev1.ResourceMemory] -= min(have[corev1.ResourceMemory], size*pages)
		}
		for name, reserved := range c.Reserved[n.ID] {
			if have[name] < reserved {
				return nil, fmt.Errorf("reserved memory: NUMA node %d has %d bytes of %s, and %d are to be reserved", n.ID, have[name], name, reserved)
			}
			have[name] -= reserved
		}
		m.allocatable[n.ID] = have
	}
	if c.Reserved.Total() == 0 {
		return nil, errors.New("the memory manager policy Static requires reserved memory: set --reserved-memory")
	}
	if err := m.load(); err != nil {
		return nil, fmt.Errorf("%s: %w: drain the node and remove the file", c.File, err)
	}
	return m, nil
}

func (m *Manager) load() error {
	pods, err := durable.Load[map[types.UID][]share](m.c.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if *pods != nil { // it is nil if the file has "null"
		m.pods = *pods
	}
	machine := numa.Of(m.c.Machine.IDs()...)
	for uid, shares := range m.pods {
		for _, s := range shares {
			if s.Nodes == 0 || s.Nodes&^machine != 0 {
				return fmt.Errorf("pod %s has memory of the NUMA nodes %v, and the machine has %v", uid, s.Nodes.Nodes(), machine.Nodes())
			}
			if !m.apart(s.Nodes) {
				return fmt.Errorf("pod %s has memory of the NUMA nodes %v, which overlap with those of another", uid, s.Nodes.Nodes())
			}
			for name := range s.Size {
				if m.used(s.Nodes, name) > m.total(s.Nodes, name) {
					return fmt.Errorf("pods have more %s of the NUMA nodes %v than these have", name, s.Nodes.Nodes())
				}
			}
		}
	}
	return nil
}

// save writes what containers have to disk. The caller holds mu.
func (m *Manager) save() error { return durable.Save(m.c.File, m.pods) }

// requested returns what a container is entitled to: nothing unless the pod is Guaranteed, and its resources are those of its containers.
func requested(pod *corev1.Pod, c *corev1.Container) amounts {
	if qos.GetPodQOS(pod) != corev1.PodQOSGuaranteed || helper.IsPodLevelResourcesSet(pod) {
		return nil
	}
	out := amounts{}
	for name, q := range c.Resources.Requests {
		if n := amount.Value(&q); counted(name) && n > 0 {
			out[name] = uint64(n)
		}
	}
	return out
}

// Needs says whether a container of a pod is entitled to memory of NUMA nodes.
func (m *Manager) Needs(pod *corev1.Pod) bool {
	for c := range podspec.Containers(pod) {
		if len(requested(pod, c)) > 0 {
			return true
		}
	}
	return false
}

// total returns what pods can have of a set of nodes.
func (m *Manager) total(nodes numa.Set, name corev1.ResourceName) uint64 {
	var sum uint64
	for _, n := range nodes.Nodes() {
		sum += m.allocatable[n][name]
	}
	return sum
}

// used returns what pods have of a set of nodes. The caller holds mu.
func (m *Manager) used(nodes numa.Set, name corev1.ResourceName) uint64 {
	var sum uint64
	for _, shares := range m.pods {
		sum += peak(shares, nodes, name)
	}
	return sum
}

// peak returns the most that containers of a pod have of a set of nodes at the same time.
func peak(shares []share, nodes numa.Set, name corev1.ResourceName) uint64 {
	var sidecars, running, most uint64
	for _, s := range shares {
		if s.Nodes != nodes {
			continue
		}
		switch size := s.Size[name]; {
		case s.Sidecar:
			sidecars += size
			most = max(most, sidecars)
		case s.Init:
			most = max(most, sidecars+size)
		default:
			running += size
			most = max(most, sidecars+running)
		}
	}
	return most
}

// apart says whether all sets of nodes in use are either this one or have no node of it. The caller holds mu.
func (m *Manager) apart(nodes numa.Set) bool {
	for _, shares := range m.pods {
		for _, s := range shares {
			if s.Nodes != nodes && s.Nodes&nodes != 0 {
				return false
			}
		}
	}
	return true
}

// fits says whether a set of nodes has room for further shares of a pod. The caller holds mu.
func (m *Manager) fits(uid types.UID, nodes numa.Set, further []share) bool {
	if !m.apart(nodes) {
		return false
	}
	next := slices.Clone(m.pods[uid])
	names := map[corev1.ResourceName]bool{}
	for _, s := range further {
		s.Nodes = nodes
		next = append(next, s)
		for name := range s.Size {
			names[name] = true
		}
	}
	for name := range names {
		others := m.used(nodes, name) - peak(m.pods[uid], nodes, name)
		if others+peak(next, nodes, name) > m.total(nodes, name) {
			return false
		}
	}
	return true
}

// hints returns the sets of nodes that have room for shares of a pod; preferred are those with as few nodes as an empty machine needs. The
// caller holds mu.
func (m *Manager) hints(uid types.UID, further []share) []numa.Hint {
	ids := m.c.Machine.IDs()
	least := len(ids)
	hints := []numa.Hint{}
	numa.Subsets(ids, func(nodes numa.Set) {
		enough := true
		for _, s := range further {
			for name := range s.Size {
				alone := slices.Clone(further)
				for i := range alone {
					alone[i].Nodes = nodes
				}
				enough = enough && peak(alone, nodes, name) <= m.total(nodes, name)
			}
		}
		if !enough {
			return
		}
		least = min(least, nodes.Count())
		if m.fits(uid, nodes, further) {
			hints = append(hints, numa.Hint{Nodes: nodes})
		}
	})
	return numa.Prefer(hints, least)
}

func shareOf(pod *corev1.Pod, c *corev1.Container, size amounts) share {
	_, kind := podspec.Container(pod, c.Name)
	sidecar := kind == podspec.Init && podspec.IsSidecar(c)
	return share{Container: c.Name, Size: size, Init: kind == podspec.Init && !sidecar, Sidecar: sidecar}
}

// find returns what a container has. The caller holds mu.
func (m *Manager) find(uid types.UID, container string) *share {
	for i := range m.pods[uid] {
		if m.pods[uid][i].Container == container {
			return &m.pods[uid][i]
		}
	}
	return nil
}

// byResource returns the same hints for each resource.
func byResource(size amounts, hints []numa.Hint) numa.Hints {
	out := numa.Hints{}
	for name := range size {
		out[string(name)] = hints
	}
	return out
}

// Hints says on which NUMA nodes a container can get its memory.
func (m *Manager) Hints(pod *corev1.Pod, c *corev1.Container) numa.Hints {
	size := requested(pod, c)
	if len(size) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if had := m.find(pod.UID, c.Name); had != nil {
		if !maps.Equal(had.Size, size) {
			return byResource(size, []numa.Hint{})
		}
		return byResource(size, []numa.Hint{{Nodes: had.Nodes, Preferred: true}})
	}
	return byResource(size, m.hints(pod.UID, []share{shareOf(pod, c, size)}))
}

// PodHints says the same for a whole pod.
func (m *Manager) PodHints(pod *corev1.Pod) numa.Hints {
	all := amounts{}
	var further []share
	m.mu.Lock()
	defer m.mu.Unlock()
	for c := range podspec.Containers(pod) {
		size := requested(pod, c)
		if had := m.find(pod.UID, c.Name); had != nil && len(size) > 0 {
			return byResource(size, []numa.Hint{{Nodes: had.Nodes, Preferred: true}})
		}
		if len(size) > 0 {
			further = append(further, shareOf(pod, c, size))
			maps.Copy(all, size)
		}
	}
	if len(further) == 0 {
		return nil
	}
	return byResource(all, m.hints(pod.UID, further))
}

// Allocate gives a container memory of these NUMA nodes, and of others beside them if they do not have enough. It is idempotent.
func (m *Manager) Allocate(_ context.Context, pod *corev1.Pod, c *corev1.Container, near numa.Hint) error {
	size := requested(pod, c)
	if len(size) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.find(pod.UID, c.Name) != nil {
		return nil
	}
	s := shareOf(pod, c, size)
	if s.Nodes = near.Nodes; s.Nodes == 0 || !m.fits(pod.UID, s.Nodes, []share{s}) {
		var best numa.Hint
		for _, h := range m.hints(pod.UID, []share{s}) {
			// They come with few nodes first.
			if near.Nodes&^h.Nodes == 0 && (best.Nodes == 0 || h.Preferred && !best.Preferred) {
				best = h
			}
		}
		switch {
		case best.Nodes == 0 && near.Nodes == 0:
			return errors.New("[memorymanager] failed to get the default NUMA affinity, no NUMA nodes with enough memory is available")
		case best.Nodes == 0:
			return errors.New("[memorymanager] failed to find NUMA nodes to extend the current topology hint")
		case near.Preferred && !best.Preferred:
			return errors.New("[memorymanager] failed to find the extended preferred hint")
		}
		s.Nodes = best.Nodes
	}
	m.pods[pod.UID] = append(m.pods[pod.UID], s)
	if err := m.save(); err != nil {
		return fmt.Errorf("the memory of the container cannot be stored: %w", err)
	}
	return nil
}

// Release frees the memory of a pod.
func (m *Manager) Release(uid types.UID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pods[uid] == nil {
		return nil
	}
	delete(m.pods, uid)
	return m.save()
}

// Pods returns the pods that have memory of NUMA nodes.
func (m *Manager) Pods() []types.UID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.pods))
}

// Container returns the NUMA nodes whose memory a container may use.
func (m *Manager) Container(_ context.Context, pod *corev1.Pod, container string) (runtime.Edits, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.find(pod.UID, container)
	if s == nil {
		return runtime.Edits{}, nil
	}
	return runtime.Edits{Memories: cpuset.New(s.Nodes.Nodes()...).String()}, nil
}

// Fixed refuses to change the memory of a Guaranteed pod while it runs, as the kubelet does.
func (m *Manager) Fixed(pod, next *corev1.Pod) string {
	if qos.GetPodQOS(next) != corev1.PodQOSGuaranteed {
		return ""
	}
	for c := range podspec.Containers(next) {
		if old, _ := podspec.Container(pod, c.Name); old == nil || !old.Resources.Requests.Memory().Equal(*c.Resources.Requests.Memory()) {
			return `Resize is infeasible for Guaranteed Pods alongside Memory Manager policy "Static"`
		}
	}
	return ""
}
