package dra

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/kontiki/kontiki/node/podspec"
)

// Describe implements podresources.Source.
func (m *Manager) Describe(pod *corev1.Pod, container string, to *podresourcesv1.ContainerResources) {
	c, _ := podspec.Container(pod, container)
	if c == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	byClaim := map[string]*podresourcesv1.DynamicResource{}
	for _, r := range requestsOf(pod, c) {
		have := m.claims[key{pod.Namespace, r.claim}]
		if have == nil {
			continue
		}
		d := byClaim[r.claim]
		if d == nil {
			d = &podresourcesv1.DynamicResource{ClaimName: r.claim, ClaimNamespace: pod.Namespace}
			byClaim[r.claim] = d
			to.DynamicResources = append(to.DynamicResources, d)
		}
		for _, name := range slices.Sorted(maps.Keys(have.drivers)) {
			for _, v := range have.drivers[name].Devices {
				if !v.of(r.request) {
					continue
				}
				one := &podresourcesv1.ClaimResource{DriverName: name, PoolName: v.Pool, DeviceName: v.Name}
				for _, id := range v.CDI {
					one.CdiDevices = append(one.CdiDevices, &podresourcesv1.CDIDevice{Name: id})
				}
				d.ClaimResources = append(d.ClaimResources, one)
			}
		}
	}
}

// Allocatable implements podresources.Source: claimed devices are no amounts of the node.
func (m *Manager) Allocatable(*podresourcesv1.AllocatableResourcesResponse) {}
