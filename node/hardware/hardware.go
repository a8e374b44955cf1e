// Package hardware gives pods what only one of them can have at a time: devices of plugins (node/devices), devices that were claimed
// (node/dra), processors (node/cpus) and memory of NUMA nodes (node/memory). It aligns these on NUMA nodes (node/numa), which makes it what
// the kubelet's container manager and topology manager are.
package hardware

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/turn"
	"github.com/kontiki/kontiki/node/numa"
	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/runtime"
)

// Provider has something to give away. The methods that allocate are called for one pod at a time.
type Provider interface {
	// Needs says whether a pod can get anything: for all others, nothing of the provider is asked.
	Needs(pod *corev1.Pod) bool
	// Hints and PodHints say on which NUMA nodes the request of a container, or of a whole pod, can be satisfied.
	Hints(pod *corev1.Pod, c *corev1.Container) numa.Hints
	PodHints(pod *corev1.Pod) numa.Hints
	// Allocate gives a container what it requests, near these NUMA nodes. It is idempotent.
	Allocate(ctx context.Context, pod *corev1.Pod, c *corev1.Container, near numa.Hint) error
	// Release frees what a pod has. An unknown uid is not an error.
	Release(uid types.UID) error
	// Pods returns the pods that have something.
	Pods() []types.UID
	// Container returns what a container of the pod gets.
	Container(ctx context.Context, pod *corev1.Pod, container string) (runtime.Edits, error)
}

// Counter is a Provider that checks itself whether there is enough of a resource.
type Counter interface {
	Manages(name corev1.ResourceName) bool
}

// Fixer is a Provider that keeps the resources of some pods from being changed while they run.
type Fixer interface {
	Fixed(pod, next *corev1.Pod) string
}

// Reporter is a Provider that says in what state its devices are.
type Reporter interface {
	Health(pod *corev1.Pod, container string) []corev1.ResourceStatus
}

// Claims prepares devices that pods claim (DRA).
type Claims interface {
	Prepare(ctx context.Context, pod *corev1.Pod) error
	Unprepare(ctx context.Context, uid types.UID) error
	Pods() []types.UID
	Container(pod *corev1.Pod, container string) (runtime.Edits, error)
	Health(pod *corev1.Pod, container string) []corev1.ResourceStatus
}

// Config has what a Manager combines.
type Config struct {
	Providers []Provider
	// Claims may be nil: then pods that claim devices cannot start.
	Claims Claims
	Policy *numa.Policy
	// Scope is numa.ScopeContainer or numa.ScopePod.
	Scope string
}

// Manager implements the Hardware of node/pods. Its methods are safe for concurrent use.
type Manager struct {
	c    Config
	turn turn.Turn
}

// New returns a manager.
func New(c Config) *Manager { return &Manager{c: c, turn: make(turn.Turn, 1)} }

// refusal is an error that says why a pod is refused.
type refusal struct{ reason, message string }

func (r refusal) Error() string  { return r.message }
func (r refusal) Reason() string { return r.reason }

// errTopology is the kubelet's.
var errTopology = refusal{"TopologyAffinityError", "Resources cannot be allocated with Topology locality"}

// Manages says whether Allocate checks that there is enough of a resource.
func (m *Manager) Manages(name corev1.ResourceName) bool {
	return slices.ContainsFunc(m.c.Providers, func(p Provider) bool {
		c, ok := p.(Counter)
		return ok && c.Manages(name)
	})
}

// Allocate gives a pod what it requests. It keeps nothing if it fails.
func (m *Manager) Allocate(ctx context.Context, pod *corev1.Pod) error {
	if !slices.ContainsFunc(m.c.Providers, func(p Provider) bool { return p.Needs(pod) }) {
		return nil
	}
	if err := m.turn.Take(ctx); err != nil {
		return err
	}
	defer m.turn.Leave()
	err := m.allocate(ctx, pod)
	if err == nil {
		return nil
	}
	for _, p := range m.c.Providers {
		if undo := p.Release(pod.UID); undo != nil {
			return fmt.Errorf("%w (and what was allocated could not be freed: %w)", err, undo)
		}
	}
	return err
}

func (m *Manager) allocate(ctx context.Context, pod *corev1.Pod) error {
	var near numa.Hint
	align := m.c.Policy.Aligns()
	if align && m.c.Scope == numa.ScopePod {
		hints := make([]numa.Hints, 0, len(m.c.Providers))
		for _, p := range m.c.Providers {
			hints = append(hints, p.PodHints(pod))
		}
		var admit bool
		if near, admit = m.c.Policy.Merge(hints); !admit {
			return errTopology
		}
	}
	for c, kind := range podspec.Containers(pod) {
		if kind == podspec.Ephemeral { // they request nothing
			continue
		}
		if align && m.c.Scope != numa.ScopePod {
			hints := make([]numa.Hints, 0, len(m.c.Providers))
			for _, p := range m.c.Providers {
				hints = append(hints, p.Hints(pod, c))
			}
			var admit bool
			if near, admit = m.c.Policy.Merge(hints); !admit {
				return errTopology
			}
		}
		for _, p := range m.c.Providers {
			if err := p.Allocate(ctx, pod, c, near); err != nil {
				return err
			}
		}
	}
	return nil
}

// Prepare makes the pod's claimed devices usable.
func (m *Manager) Prepare(ctx context.Context, pod *corev1.Pod) error {
	if m.c.Claims == nil {
		if len(pod.Spec.ResourceClaims) > 0 || pod.Status.ExtendedResourceClaimStatus != nil {
			return errors.New("this node has no support for resource claims")
		}
		return nil
	}
	return m.c.Claims.Prepare(ctx, pod)
}

// Container returns what a container of the pod gets.
func (m *Manager) Container(ctx context.Context, pod *corev1.Pod, container string) (runtime.Edits, error) {
	var all runtime.ContainerConfig
	noQuota := false
	for _, p := range m.c.Providers {
		e, err := p.Container(ctx, pod, container)
		if err != nil {
			return runtime.Edits{}, err
		}
		all.Apply(e)
		noQuota = noQuota || e.NoCPUQuota
	}
	if m.c.Claims != nil {
		e, err := m.c.Claims.Container(pod, container)
		if err != nil {
			return runtime.Edits{}, err
		}
		all.Apply(e)
	}
	return runtime.Edits{Env: all.Env, Mounts: all.Mounts, Devices: all.Devices, Annotations: all.Annotations, CDIDevices: all.CDIDevices,
		CPUs: all.Resources.CPUs, Memories: all.Resources.Memories, NoCPUQuota: noQuota}, nil
}

// NoCPUQuota says whether containers of a pod have processors of their own.
func (m *Manager) NoCPUQuota(uid types.UID) bool {
	return slices.ContainsFunc(m.c.Providers, func(p Provider) bool {
		e, ok := p.(interface{ NoCPUQuota(uid types.UID) bool })
		return ok && e.NoCPUQuota(uid)
	})
}

// Release frees what a pod has.
func (m *Manager) Release(ctx context.Context, uid types.UID) error {
	if m.c.Claims != nil {
		if err := m.c.Claims.Unprepare(ctx, uid); err != nil {
			return err
		}
	}
	var errs []error
	for _, p := range m.c.Providers {
		errs = append(errs, p.Release(uid))
	}
	return errors.Join(errs...)
}

// Pods returns the pods that have something.
func (m *Manager) Pods() []types.UID {
	var out []types.UID
	for _, p := range m.c.Providers {
		out = append(out, p.Pods()...)
	}
	if m.c.Claims != nil {
		out = append(out, m.c.Claims.Pods()...)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Fixed returns why the resources of a pod cannot be changed while it runs, "" if they can.
func (m *Manager) Fixed(pod, next *corev1.Pod) string {
	for _, p := range m.c.Providers {
		if f, ok := p.(Fixer); ok {
			if why := f.Fixed(pod, next); why != "" {
				return why
			}
		}
	}
	return ""
}

// Health returns the devices of a container, and whether they are healthy.
func (m *Manager) Health(pod *corev1.Pod, container string) []corev1.ResourceStatus {
	var out []corev1.ResourceStatus
	for _, p := range m.c.Providers {
		if r, ok := p.(Reporter); ok {
			out = append(out, r.Health(pod, container)...)
		}
	}
	if m.c.Claims != nil {
		out = append(out, m.c.Claims.Health(pod, container)...)
	}
	return out
}
