package cpus

import (
	corev1 "k8s.io/api/core/v1"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/utils/cpuset"
)

// Describe implements podresources.Source.
func (m *Manager) Describe(pod *corev1.Pod, container string, to *api.ContainerResources) {
	m.mu.Lock()
	defer m.mu.Unlock()
	to.CpuIds = ids(m.pods[pod.UID][container])
}

// Allocatable implements podresources.Source.
func (m *Manager) Allocatable(to *api.AllocatableResourcesResponse) {
	to.CpuIds = ids(m.c.Machine.All().Difference(m.c.Reserved))
}

func ids(set cpuset.CPUSet) []int64 {
	var out []int64
	for _, id := range set.List() {
		out = append(out, int64(id))
	}
	return out
}
