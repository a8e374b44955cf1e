// Package cpus gives processors of their own to containers of Guaranteed pods that request whole processors: the kubelet's CPU manager with
// the policy static (KEP-3570).
//
// All other containers share the rest, among them the reserved processors, which nobody gets as his own. When processors are given away or
// freed, the containers that are running move (Run). What containers have is on disk before they start.
package cpus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
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

// Runtime moves running containers to other processors.
type Runtime interface {
	ListContainers(ctx context.Context, podUID string) ([]runtime.Container, error)
	UpdateResources(ctx context.Context, id string, r runtime.Resources) error
}

// Config has what a Manager needs.
type Config struct {
	Machine *numa.Machine
	Options Options
	// Reserved are processors that no container gets as its own. There must be one at least.
	Reserved cpuset.CPUSet
	// File has what containers have.
	File    string
	Runtime Runtime
	// Period is how often Run checks all containers; 0 means 10 s, as with the kubelet.
	Period time.Duration
}

// Manager gives processors to containers. Its methods are safe for concurrent use.
type Manager struct {
	c Config
	// whole are all processors of the cores that have reserved ones.
	whole cpuset.CPUSet
	wake  chan struct{}

	mu    sync.Mutex
	pods  map[types.UID]map[string]cpuset.CPUSet
	moved map[string]string // the set of each running container, by ID; only Run's goroutine uses it
}

// state is what the file has: sets of processors, by pod and container.
type state struct {
	Assignments map[types.UID]map[string]string `json:"assignments"`
}

// New returns a manager that knows what the previous one has given away. Errors: the reserved processors are not some of the machine's, or
// what is on disk does not fit the machine any more.
func New(c Config) (*Manager, error) {
	if c.Period == 0 {
		c.Period = 10 * time.Second
	}
	all := c.Machine.All()
	if c.Reserved.IsEmpty() {
		return nil, errors.New("the CPU manager policy static requires reserved CPUs: set --reserved-cpus")
	}
	if !c.Reserved.IsSubsetOf(all) || c.Options.StrictReservation && c.Reserved.Equals(all) {
		return nil, fmt.Errorf("reserved CPUs %s: this machine has %s", c.Reserved, all)
	}
	m := &Manager{c: c, wake: make(chan struct{}, 1), pods: map[types.UID]map[string]cpuset.CPUSet{}, moved: map[string]string{}}
	cores := map[int]bool{}
	for _, cpu := range c.Machine.CPUs {
		if c.Reserved.Contains(cpu.ID) {
			cores[cpu.Core] = true
		}
	}
	m.whole = c.Machine.Set(func(cpu numa.CPU) bool { return cores[cpu.Core] })
	if err := m.load(); err != nil {
		return nil, fmt.Errorf("%s: %w: drain the node and remove the file", c.File, err)
	}
	return m, nil
}

func (m *Manager) load() error {
	s, err := durable.Load[state](m.c.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	all := m.c.Machine.All()
	given := map[types.UID]cpuset.CPUSet{}
	for uid, containers := range s.Assignments {
		for name, text := range containers {
			set, err := cpuset.Parse(text)
			if err != nil {
				return err
			}
			if !set.IsSubsetOf(all) {
				return fmt.Errorf("a container of pod %s has CPUs %s, and the machine has %s", uid, set, all)
			}
			if !set.Intersection(m.c.Reserved).IsEmpty() {
				return fmt.Errorf("a container of pod %s has CPUs %s, and %s are reserved", uid, set, m.c.Reserved)
			}
			for other, theirs := range given {
				if other != uid && !theirs.Intersection(set).IsEmpty() {
					return fmt.Errorf("pods %s and %s both have CPUs %s", uid, other, theirs.Intersection(set))
				}
			}
			given[uid] = given[uid].Union(set)
			m.setLocked(uid, name, set)
		}
	}
	return nil
}

// save writes what containers have to disk. The caller holds mu.
func (m *Manager) save() error {
	s := state{Assignments: map[types.UID]map[string]string{}}
	for uid, containers := range m.pods {
		s.Assignments[uid] = map[string]string{}
		for name, set := range containers {
			s.Assignments[uid][name] = set.String()
		}
	}
	return durable.Save(m.c.File, s)
}

func (m *Manager) setLocked(uid types.UID, container string, set cpuset.CPUSet) {
	if m.pods[uid] == nil {
		m.pods[uid] = map[string]cpuset.CPUSet{}
	}
	m.pods[uid][container] = set
}

// shared returns the processors that containers share that have none of their own. The caller holds mu.
func (m *Manager) shared() cpuset.CPUSet {
	out := m.c.Machine.All()
	if m.c.Options.StrictReservation {
		out = out.Difference(m.c.Reserved)
	}
	for _, containers := range m.pods {
		for _, set := range containers {
			out = out.Difference(set)
		}
	}
	return out
}

// available returns the processors that can be given away. The caller holds mu.
func (m *Manager) available() cpuset.CPUSet { return m.shared().Difference(m.c.Reserved) }

// Exclusive returns how many processors of its own a container is entitled to: 0 unless the pod is Guaranteed and the request a whole number.
// Pods with resources of their own (pod-level resources) get none, as with the kubelet's defaults.
func Exclusive(pod *corev1.Pod, c *corev1.Container) int {
	if qos.GetPodQOS(pod) != corev1.PodQOSGuaranteed || helper.IsPodLevelResourcesSet(pod) {
		return 0
	}
	q := c.Resources.Requests[corev1.ResourceCPU]
	if milli := amount.Milli(&q); milli%1000 == 0 {
		return int(milli / 1000)
	}
	return 0
}

// podExclusive returns how many processors a pod needs for all its containers.
func podExclusive(pod *corev1.Pod) int {
	sidecars, first, running := 0, 0, 0
	for c, kind := range podspec.Containers(pod) {
		switch n := Exclusive(pod, c); {
		case kind == podspec.Init && podspec.IsSidecar(c):
			sidecars += n
		case kind == podspec.Init:
			first = max(first, sidecars+n)
		case kind == podspec.Regular:
			running += n
		}
	}
	return max(first, running+sidecars)
}

// Needs says whether a pod is entitled to processors of its own.
func (m *Manager) Needs(pod *corev1.Pod) bool { return podExclusive(pod) > 0 }

// smtAlignmentError is the kubelet's refusal of a request that whole cores cannot satisfy.
type smtAlignmentError struct{ message string }

func (e smtAlignmentError) Error() string { return e.message }
func (smtAlignmentError) Reason() string  { return "SMTAlignmentError" }

// Allocate gives a container processors of its own, near these NUMA nodes. It is idempotent.
func (m *Manager) Allocate(_ context.Context, pod *corev1.Pod, c *corev1.Container, near numa.Hint) error {
	n := Exclusive(pod, c)
	if n == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.pods[pod.UID][c.Name]; ok {
		return nil
	}
	if err := m.checkCores(n); err != nil {
		return err
	}
	free := m.available().Union(m.reusable(pod, c))
	var set cpuset.CPUSet
	if near.Nodes != 0 {
		close := m.c.Machine.On(near.Nodes.Nodes()).Intersection(free)
		var err error
		if set, err = take(m.c.Machine, close, min(n, close.Size()), m.c.Options.AlignCaches); err != nil {
			return err
		}
	}
	rest, err := take(m.c.Machine, free.Difference(set), n-set.Size(), m.c.Options.AlignCaches)
	if err != nil {
		return err
	}
	m.setLocked(pod.UID, c.Name, set.Union(rest))
	if err := m.save(); err != nil {
		return fmt.Errorf("the CPUs of the container cannot be stored: %w", err)
	}
	m.poke()
	return nil
}

// checkCores refuses a request that whole cores cannot satisfy, if only these are given away. The caller holds mu.
func (m *Manager) checkCores(n int) error {
	if !m.c.Options.FullCores {
		return nil
	}
	perCore := m.perCore()
	if n%perCore != 0 {
		return smtAlignmentError{fmt.Sprintf("SMT Alignment Error: requested %d cpus not multiple cpus per core = %d", n, perCore)}
	}
	if free := m.shared().Difference(m.whole).Size(); n > free {
		return smtAlignmentError{fmt.Sprintf("SMT Alignment Error: not enough free physical CPUs: available physical CPUs = %d, requested CPUs = %d, CPUs per core = %d", free, n, perCore)}
	}
	return nil
}

func (m *Manager) perCore() int {
	cores := map[int]bool{}
	for _, c := range m.c.Machine.CPUs {
		cores[c.Core] = true
	}
	return max(1, len(m.c.Machine.CPUs)/max(1, len(cores)))
}

// reusable returns the processors of the pod's init containers that have ended when this container starts, and that no container of the pod
// has that runs beside it. The caller holds mu.
func (m *Manager) reusable(pod *corev1.Pod, c *corev1.Container) cpuset.CPUSet {
	out := cpuset.New()
	for other, kind := range podspec.Containers(pod) {
		if other.Name == c.Name {
			break
		}
		set := m.pods[pod.UID][other.Name]
		if kind == podspec.Init && !podspec.IsSidecar(other) {
			out = out.Union(set)
		} else {
			out = out.Difference(set)
		}
	}
	return out
}

// Release frees the processors of a pod.
func (m *Manager) Release(uid types.UID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pods[uid] == nil {
		return nil
	}
	delete(m.pods, uid)
	m.poke()
	return m.save()
}

// Pods returns the pods that have processors of their own.
func (m *Manager) Pods() []types.UID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.pods))
}

// NoCPUQuota says whether containers of a pod have processors of their own.
func (m *Manager) NoCPUQuota(uid types.UID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.pods[uid] != nil
}

// Container returns the processors that a container may use. With processors of its own it needs no limit of time.
func (m *Manager) Container(_ context.Context, pod *corev1.Pod, container string) (runtime.Edits, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	set, own := m.pods[pod.UID][container]
	if !own {
		set = m.shared()
	}
	return runtime.Edits{CPUs: set.String(), NoCPUQuota: own}, nil
}

// Fixed refuses to change the processors of a Guaranteed pod while it runs, as the kubelet does.
func (m *Manager) Fixed(pod, next *corev1.Pod) string {
	if qos.GetPodQOS(next) != corev1.PodQOSGuaranteed {
		return ""
	}
	for c := range podspec.Containers(next) {
		if old, _ := podspec.Container(pod, c.Name); old == nil || !old.Resources.Requests.Cpu().Equal(*c.Resources.Requests.Cpu()) {
			return `Resize is infeasible for Guaranteed Pods alongside CPU Manager policy "static"`
		}
	}
	return ""
}

// Hints says on which NUMA nodes a container can get its processors.
func (m *Manager) Hints(pod *corev1.Pod, c *corev1.Container) numa.Hints {
	n := Exclusive(pod, c)
	if n == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if set, ok := m.pods[pod.UID][c.Name]; ok {
		if set.Size() != n {
			return numa.Hints{string(corev1.ResourceCPU): {}}
		}
		return m.hints(set, cpuset.New(), n)
	}
	return m.hints(m.available(), m.reusable(pod, c), n)
}

// PodHints says the same for a whole pod.
func (m *Manager) PodHints(pod *corev1.Pod) numa.Hints {
	n := podExclusive(pod)
	if n == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	has := cpuset.New()
	for _, set := range m.pods[pod.UID] {
		has = has.Union(set)
	}
	if has.Size() == n {
		return m.hints(has, cpuset.New(), n)
	}
	return m.hints(m.available(), has, n)
}

// hints returns the sets of NUMA nodes that have n of the free processors, and all that are to be used again.
func (m *Manager) hints(free, again cpuset.CPUSet, n int) numa.Hints {
	nodes := m.c.Machine.IDs()
	least := len(nodes)
	hints := []numa.Hint{}
	numa.Subsets(nodes, func(mask numa.Set) {
		on := m.c.Machine.On(mask.Nodes())
		if on.Size() >= n {
			least = min(least, mask.Count())
		}
		if again.IsSubsetOf(on) && on.Intersection(free.Union(again)).Size() >= n {
			hints = append(hints, numa.Hint{Nodes: mask})
		}
	})
	return numa.Hints{string(corev1.ResourceCPU): numa.Prefer(hints, least)}
}

func (m *Manager) poke() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

// Run moves running containers to the processors that they may use, whenever these change, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	tick := time.NewTicker(m.c.Period)
	defer tick.Stop()
	for {
		if err := m.move(ctx); err != nil && ctx.Err() == nil {
			slog.Warn("containers cannot be moved to other CPUs", "err", err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-m.wake:
		case <-tick.C:
		}
	}
}

func (m *Manager) move(ctx context.Context) error {
	list, err := m.c.Runtime.ListContainers(ctx, "")
	if err != nil {
		return err
	}
	var errs []error
	seen := map[string]bool{}
	for _, c := range list {
		if c.State != runtime.StateRunning {
			continue
		}
		seen[c.ID] = true
		m.mu.Lock()
		set, own := m.pods[types.UID(c.PodUID)][c.Name]
		if !own {
			set = m.shared()
		}
		m.mu.Unlock()
		if m.moved[c.ID] == set.String() {
			continue
		}
		err := m.c.Runtime.UpdateResources(ctx, c.ID, runtime.Resources{CPUs: set.String()})
		if err != nil && !errors.Is(err, runtime.ErrNotRunning) && !errors.Is(err, runtime.ErrNotFound) {
			errs = append(errs, fmt.Errorf("container %s: %w", c.ID, err))
			continue
		}
		m.moved[c.ID] = set.String()
	}
	maps.DeleteFunc(m.moved, func(id string, _ string) bool { return !seen[id] })
	return errors.Join(errs...)
}
