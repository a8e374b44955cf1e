package devices

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	helper "k8s.io/component-helpers/resource"

	"github.com/kontiki/kontiki/node/numa"
	"github.com/kontiki/kontiki/node/podspec"
)

// aligned says whether any device of the resource says on which NUMA nodes it is.
func (r *extended) aligned() bool {
	for _, d := range r.devices {
		if len(d.GetTopology().GetNodes()) > 0 {
			return true
		}
	}
	return false
}

// Hints says on which NUMA nodes a container can get the devices that it requests.
func (m *Manager) Hints(pod *corev1.Pod, c *corev1.Container) numa.Hints {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.hints(c.Resources.Limits, func(name string) []string {
		if a := m.pods[pod.UID][c.Name][name]; a != nil {
			return a.devices
		}
		return nil
	}, func(name string, n int) []string { return m.reusable(pod, c, name, n) })
}

// PodHints says the same for all containers of a pod together.
func (m *Manager) PodHints(pod *corev1.Pod) numa.Hints {
	m.mu.Lock()
	defer m.mu.Unlock()
	limits := helper.PodLimits(pod, helper.PodResourcesOptions{ExcludeOverhead: true})
	return m.hints(limits, func(name string) []string {
		var out []string
		for _, resources := range m.pods[pod.UID] {
			if a := resources[name]; a != nil {
				out = append(out, a.devices...)
			}
		}
		slices.Sort(out)
		return slices.Compact(out)
	}, func(string, int) []string { return nil })
}

// hints makes the hints of each resource in limits. The caller holds mu.
func (m *Manager) hints(limits corev1.ResourceList, has func(string) []string, reusable func(string, int) []string) numa.Hints {
	out := numa.Hints{}
	for name, q := range limits {
		name := string(name)
		n := int(min(q.Value(), maxDevices))
		r := m.resources[name]
		if n == 0 || !m.managesLocked(name) {
			continue
		}
		if r == nil || !r.aligned() {
			out[name] = nil
			continue
		}
		if had := has(name); len(had) > 0 {
			out[name] = []numa.Hint{}
			if len(had) == n {
				out[name] = m.hintsOf(r, had, nil, n)
			}
			continue
		}
		free := m.free(name, r.healthy())
		reuse := reusable(name, n)
		available := make([]string, 0, len(free))
		for id := range free {
			available = append(available, id)
		}
		out[name] = []numa.Hint{}
		if len(available)+len(reuse) >= n {
			out[name] = m.hintsOf(r, available, reuse, n)
		}
	}
	return out
}

// hintsOf returns the sets of NUMA nodes that have n of the available devices and all that are to be used again.
func (m *Manager) hintsOf(r *extended, available, reuse []string, n int) []numa.Hint {
	nodes := m.nodesWithDevices(r)
	least := len(nodes)
	hints := []numa.Hint{}
	numa.Subsets(nodes, func(mask numa.Set) {
		on := func(id string) bool { return mask.HasAny(nodesOf(r.devices[id])) }
		all := 0
		for id := range r.devices {
			if on(id) {
				all++
			}
		}
		if all >= n {
			least = min(least, mask.Count())
		}
		matching := 0
		for _, id := range reuse {
			if r.devices[id].GetTopology() == nil {
				continue
			}
			if !on(id) {
				return
			}
			matching++
		}
		for _, id := range available {
			if on(id) {
				matching++
			}
		}
		if matching >= n {
			hints = append(hints, numa.Hint{Nodes: mask})
		}
	})
	return numa.Prefer(hints, least)
}

// nodesWithDevices returns the machine's NUMA nodes that have devices of the resource, or all if none has.
func (m *Manager) nodesWithDevices(r *extended) []int {
	var out []int
	for _, node := range m.c.NUMANodes {
		for _, d := range r.devices {
			if slices.Contains(nodesOf(d), node) {
				out = append(out, node)
				break
			}
		}
	}
	if len(out) == 0 {
		return m.c.NUMANodes
	}
	return out
}

// Needs says whether a container of a pod requests a resource of a plugin, or already has devices.
func (m *Manager) Needs(pod *corev1.Pod) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pods[pod.UID] != nil {
		return true
	}
	for c := range podspec.Containers(pod) {
		for name, q := range c.Resources.Limits {
			if !q.IsZero() && m.managesLocked(string(name)) {
				return true
			}
		}
	}
	return false
}
