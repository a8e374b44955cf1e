package memory

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/kontiki/kontiki/node/numa"
)

// Describe implements podresources.Source.
func (m *Manager) Describe(pod *corev1.Pod, container string, to *api.ContainerResources) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.find(pod.UID, container); s != nil {
		to.Memory = append(to.Memory, blocks(s.Size, s.Nodes)...)
	}
}

// Allocatable implements podresources.Source.
func (m *Manager) Allocatable(to *api.AllocatableResourcesResponse) {
	for _, n := range m.c.Machine.IDs() {
		to.Memory = append(to.Memory, blocks(m.allocatable[n], numa.Of(n))...)
	}
}

func blocks(size amounts, nodes numa.Set) []*api.ContainerMemory {
	var out []*api.ContainerMemory
	for _, name := range slices.Sorted(maps.Keys(size)) {
		b := &api.ContainerMemory{MemoryType: string(name), Size: size[name], Topology: &api.TopologyInfo{}}
		for _, n := range nodes.Nodes() {
			b.Topology.Nodes = append(b.Topology.Nodes, &api.NUMANode{ID: int64(n)})
		}
		out = append(out, b)
	}
	return out
}
