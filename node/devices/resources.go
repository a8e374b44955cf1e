package devices

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// Describe implements podresources.Source.
func (m *Manager) Describe(pod *corev1.Pod, container string, to *api.ContainerResources) {
	m.mu.Lock()
	defer m.mu.Unlock()
	resources := m.pods[pod.UID][container]
	for _, name := range slices.Sorted(maps.Keys(resources)) {
		a := resources[name]
		to.Devices = append(to.Devices, byTopology(name, a.devices, func(id string) []int { return a.nodes[id] })...)
	}
}

// Allocatable implements podresources.Source.
func (m *Manager) Allocatable(to *api.AllocatableResourcesResponse) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(m.resources)) {
		r := m.resources[name]
		ids := slices.Sorted(maps.Keys(r.healthy()))
		to.Devices = append(to.Devices, byTopology(name, ids, func(id string) []int { return nodesOf(r.devices[id]) })...)
	}
}

// byTopology returns one entry for each device, as the kubelet does for devices with a topology.
func byTopology(name string, ids []string, nodes func(id string) []int) []*api.ContainerDevices {
	var out []*api.ContainerDevices
	for _, id := range ids {
		d := &api.ContainerDevices{ResourceName: name, DeviceIds: []string{id}}
		for _, n := range nodes(id) {
			if d.Topology == nil {
				d.Topology = &api.TopologyInfo{}
			}
			d.Topology.Nodes = append(d.Topology.Nodes, &api.NUMANode{ID: int64(n)})
		}
		out = append(out, d)
	}
	return out
}
