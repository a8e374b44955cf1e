package devices

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/kontiki/kontiki/node/numa"
	"github.com/kontiki/kontiki/node/podspec"
)

type set = map[string]bool

// Allocate chooses devices for one container and asks the plugins what the container must get for them. The caller goes through a pod's init
// containers and then the regular ones, in order, one call at a time for all pods. What the container already has stays.
//
// near is the NUMA nodes to prefer; none if it has none. A failed call keeps nothing that it allocated.
func (m *Manager) Allocate(ctx context.Context, pod *corev1.Pod, c *corev1.Container, near numa.Hint) error {
	var made []string
	for _, name := range slices.Sorted(maps.Keys(c.Resources.Limits)) {
		want := c.Resources.Limits[name]
		if want.IsZero() || byClaim(pod, c.Name, string(name)) || !m.Manages(name) {
			continue
		}
		n, exact := want.AsInt64()
		if !exact || n < 0 || n > maxDevices {
			return m.undo(pod.UID, c.Name, made, fmt.Errorf("requested number of devices unavailable for %s. Requested: %s", name, want.String()))
		}
		added, err := m.allocate(ctx, pod, c, string(name), int(n), near)
		if err != nil {
			return m.undo(pod.UID, c.Name, made, err)
		}
		if added {
			made = append(made, string(name))
		}
	}
	if len(made) == 0 {
		return nil
	}
	if err := m.save(); err != nil {
		return m.undo(pod.UID, c.Name, made, fmt.Errorf("failed to write checkpoint file: %w", err))
	}
	return nil
}

func (m *Manager) undo(uid types.UID, container string, made []string, err error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range made {
		m.removeLocked(uid, container, name)
	}
	return err
}

// byClaim says whether an extended resource of a container was allocated by the scheduler as a ResourceClaim.
func byClaim(pod *corev1.Pod, container, resource string) bool {
	s := pod.Status.ExtendedResourceClaimStatus
	return s != nil && slices.ContainsFunc(s.RequestMappings, func(m corev1.ContainerExtendedResourceRequest) bool {
		return m.ContainerName == container && m.ResourceName == resource
	})
}

// allocate allocates n devices of a resource. It returns false if the container has them already.
func (m *Manager) allocate(ctx context.Context, pod *corev1.Pod, c *corev1.Container, name string, n int, near numa.Hint) (bool, error) {
	m.mu.Lock()
	r := m.resources[name]
	had := m.pods[pod.UID][c.Name][name]
	switch {
	case had != nil && len(had.devices) != n:
		m.mu.Unlock()
		return false, fmt.Errorf("pod %q container %q changed request for resource %q from %d to %d", pod.UID, c.Name, name, len(had.devices), n)
	case r == nil:
		m.mu.Unlock()
		return false, fmt.Errorf("cannot allocate unregistered device %s", name)
	}
	healthy := r.healthy()
	switch {
	case len(healthy) == 0:
		m.mu.Unlock()
		return false, fmt.Errorf("no healthy devices present; cannot allocate unhealthy devices %s", name)
	case had != nil && slices.ContainsFunc(had.devices, func(id string) bool { return !healthy[id] }):
		m.mu.Unlock()
		return false, fmt.Errorf("previously allocated devices are no longer healthy; cannot allocate unhealthy devices %s", name)
	case had != nil:
		m.mu.Unlock()
		return false, nil
	}
	p := r.plugins[len(r.plugins)-1]
	ids := m.reusable(pod, c, name, n)
	free := m.free(name, healthy)
	if len(free) < n-len(ids) {
		m.mu.Unlock()
		return false, fmt.Errorf("requested number of devices unavailable for %s. Requested: %d, Available: %d", name, n-len(ids), len(free))
	}
	groups := r.byNearness(free, near)
	m.mu.Unlock()

	ids, err := choose(ctx, p, ids, free, groups, n)
	if err != nil {
		return false, err
	}
	slices.Sort(ids)
	m.mu.Lock()
	a := &allocation{devices: ids, nodes: r.nodesOf(ids)}
	m.insertLocked(pod.UID, c.Name, name, a) // nobody else gets them meanwhile
	m.mu.Unlock()
	answer, err := p.allocate(ctx, ids)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.removeLocked(pod.UID, c.Name, name)
		return false, err
	}
	a.answer = answer
	return true, nil
}

// reusable returns up to n devices of the pod's init containers that have ended when this container starts, and that no other container of
// the pod that runs beside this one has. The caller holds mu.
func (m *Manager) reusable(pod *corev1.Pod, c *corev1.Container, name string, n int) []string {
	reuse := set{}
	for other, kind := range podspec.Containers(pod) {
		if other.Name == c.Name {
			break
		}
		a := m.pods[pod.UID][other.Name][name]
		if a == nil {
			continue
		}
		for _, id := range a.devices {
			if kind == podspec.Init && !podspec.IsSidecar(other) {
				reuse[id] = true
			} else {
				delete(reuse, id)
			}
		}
	}
	ids := slices.Sorted(maps.Keys(reuse))
	return ids[:min(n, len(ids))]
}

// free returns the healthy devices that no container has. The caller holds mu.
func (m *Manager) free(name string, healthy set) set {
	out := maps.Clone(healthy)
	for _, containers := range m.pods {
		for _, resources := range containers {
			if a := resources[name]; a != nil {
				for _, id := range a.devices {
					delete(out, id)
				}
			}
		}
	}
	return out
}

// nearness groups devices by where they are: on the preferred NUMA nodes, on others, or anywhere.
type nearness struct{ near, far, anywhere []string }

// byNearness groups devices. Without a preference, or if no device of the resource says where it is, all are anywhere.
func (r *extended) byNearness(free set, hint numa.Hint) nearness {
	var g nearness
	aligned := hint.Nodes != 0 && r.aligned()
	for _, id := range slices.Sorted(maps.Keys(free)) {
		nodes := nodesOf(r.devices[id])
		switch {
		case !aligned || len(nodes) == 0:
			g.anywhere = append(g.anywhere, id)
		case hint.Nodes.HasAny(nodes):
			g.near = append(g.near, id)
		default:
			g.far = append(g.far, id)
		}
	}
	return g
}

// choose completes the devices of a container to n. Those on the preferred NUMA nodes come first; within what is left to choose from, the
// plugin may say which it prefers.
func choose(ctx context.Context, p *plugin, ids []string, free set, g nearness, n int) ([]string, error) {
	take := func(from []string) bool {
		for _, id := range from {
			if len(ids) == n {
				break
			}
			if free[id] && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
		return len(ids) == n
	}
	if take(nil) {
		return ids, nil
	}
	prefer := func(from []string) ([]string, error) {
		if !p.options.GetGetPreferredAllocationAvailable() {
			return nil, nil
		}
		preferred, err := p.prefer(ctx, append(slices.Clone(from), ids...), ids, n)
		return slices.DeleteFunc(preferred, func(id string) bool { return !slices.Contains(from, id) }), err
	}
	if n-len(ids) < len(g.near) {
		preferred, err := prefer(g.near)
		if err != nil {
			return nil, err
		}
		if take(preferred) || take(g.near) {
			return ids, nil
		}
	}
	if take(g.near) {
		return ids, nil
	}
	preferred, err := prefer(slices.Sorted(maps.Keys(free)))
	if err != nil {
		return nil, err
	}
	if take(preferred) || take(g.far) || take(g.anywhere) {
		return ids, nil
	}
	return nil, fmt.Errorf("unexpectedly allocated less resources than required. Requested: %d, Got: %d", n, len(ids))
}

// prefer asks the plugin which of the available devices it would give to a container that needs n and has some of them.
func (p *plugin) prefer(ctx context.Context, available, included []string, n int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, preferTimeout)
	defer cancel()
	answer, err := p.api.GetPreferredAllocation(ctx, &pluginapi.PreferredAllocationRequest{ContainerRequests: []*pluginapi.ContainerPreferredAllocationRequest{
		{AvailableDeviceIDs: available, MustIncludeDeviceIDs: included, AllocationSize: int32(n)}}})
	if err != nil {
		return nil, fmt.Errorf("device plugin GetPreferredAllocation rpc failed with err: %w", err)
	}
	if len(answer.ContainerResponses) == 0 {
		return nil, nil
	}
	return answer.ContainerResponses[0].GetDeviceIDs(), nil
}

// allocate tells the plugin that a container gets devices, and returns what it must get for them.
func (p *plugin) allocate(ctx context.Context, ids []string) (*pluginapi.ContainerAllocateResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, allocateTimeout)
	defer cancel()
	answer, err := p.api.Allocate(ctx, &pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{{DevicesIds: ids}}})
	if err != nil {
		return nil, err
	}
	if len(answer.ContainerResponses) == 0 || answer.ContainerResponses[0] == nil {
		return nil, fmt.Errorf("no containers return in allocation response %v", answer)
	}
	return answer.ContainerResponses[0], checkAnswer(answer.ContainerResponses[0])
}

func nodesOf(d *pluginapi.Device) []int {
	var out []int
	for _, n := range d.GetTopology().GetNodes() {
		out = append(out, int(n.ID))
	}
	return out
}

// nodesOf returns the NUMA nodes of those devices that say theirs.
func (r *extended) nodesOf(ids []string) map[string][]int {
	out := map[string][]int{}
	for _, id := range ids {
		if nodes := nodesOf(r.devices[id]); len(nodes) > 0 {
			out[id] = nodes
		}
	}
	return out
}
