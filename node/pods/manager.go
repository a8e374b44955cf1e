package pods

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/broadcast"
	"github.com/kontiki/kontiki/node/fit"
	"github.com/kontiki/kontiki/node/pods/eviction"
	"github.com/kontiki/kontiki/node/pulls"
	"github.com/kontiki/kontiki/node/resources"
	"github.com/kontiki/kontiki/node/runtime"
)

// Manager manages the workers. Create it with New, then call Run; the other methods may be called before and during Run.
type Manager struct {
	c         Config
	began     time.Time
	features  runtime.Features
	starts    chan struct{}
	pulls     chan struct{} // slots for pulling images
	pulled    *pulls.Records
	guard     *eviction.Guard
	measures  chan struct{} // slots for measuring pods' local storage
	measuring measureLimits
	admission sync.Mutex       // serializes admission, so that two pods do not get the same resources
	refusals  backOff          // by the owner's UID; guarded by admission
	changes   broadcast.Signal // of what Pods returns

	mu       sync.Mutex
	ctx      context.Context // of Run; nil before
	wg       sync.WaitGroup
	workers  map[types.UID]*worker
	swept    bool
	stopping bool
	pending  []func()
	probed   *probeMetrics
}

// New makes a manager.
func New(c Config) *Manager {
	if c.Starts == 0 {
		c.Starts = 4
	}
	if c.Seccomp == "" {
		c.Seccomp = "/var/lib/kubelet/seccomp"
	}
	if c.Pulls == 0 {
		c.Pulls = 5
	}
	if c.ImageGC == (eviction.ImageGC{}) {
		c.ImageGC = eviction.DefaultImageGC
	}
	m := &Manager{c: c, began: time.Now(), pulls: make(chan struct{}, c.Pulls), pulled: pulls.Open(c.PullDir), features: c.Runtime.Features(),
		starts: make(chan struct{}, c.Starts), measures: make(chan struct{}, measuresAtOnce), measuring: defaultMeasureLimits, probed: newProbeMetrics(),
		workers: map[types.UID]*worker{}}
	m.guard = eviction.New(eviction.Config{Rooms: c.Rooms, Thresholds: c.Eviction, Images: c.ImageGC, Runtime: c.Runtime, Pods: evictions{m}, Present: m.pulled.Retain})
	return m
}

// foundRunning says whether a previous agent started the container.
func (m *Manager) foundRunning(c *runtime.Container) bool { return c.StartedAt.Before(m.began) }

// Run runs the workers until ctx ends. Containers go on; a new Manager finds them again.
func (m *Manager) Run(ctx context.Context) error {
	m.mu.Lock()
	m.ctx = ctx
	for _, f := range m.pending {
		f()
	}
	m.pending = nil
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.stopping = true // later changes are ignored
		m.mu.Unlock()
		m.wg.Wait()
	}()
	if m.c.Rooms != nil {
		m.wg.Go(func() { m.guard.Run(ctx) })
	}
	for e := range m.c.Runtime.Events(ctx) {
		if e.ContainerID == "" {
			m.Retry()
			continue
		}
		m.mu.Lock()
		w := m.workers[types.UID(e.PodUID)]
		m.mu.Unlock()
		if w != nil {
			w.poke()
		}
	}
	return ctx.Err()
}

// Update adds a pod or passes its changes to its worker. The object is read-only.
func (m *Manager) Update(pod *corev1.Pod) {
	defer m.changes.Tell()
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.workers[pod.UID]
	if w == nil {
		w = newWorker(m, pod)
		m.workers[pod.UID] = w
		m.launch(w)
		return
	}
	w.update(pod)
}

// Remove reports that the pod object is gone: the worker stops what is left of the pod and ends.
func (m *Manager) Remove(uid types.UID) {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w != nil {
		w.remove()
	}
}

// Sweep reports that all pods of the node have been passed to Update: everything else in the runtime is stopped and removed. Only
// the first call has an effect.
func (m *Manager) Sweep() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.swept || m.stopping {
		return
	}
	m.swept = true
	do := func() { m.wg.Go(func() { m.sweep(m.ctx) }) }
	if m.ctx == nil {
		m.pending = append(m.pending, do)
		return
	}
	do()
}

func (m *Manager) sweep(ctx context.Context) {
	defer m.sweepLogLinks()
	orphans := map[types.UID]*corev1.Pod{}
	orphan := func(uid, namespace, name string) {
		pod := &corev1.Pod{}
		pod.UID, pod.Namespace, pod.Name = types.UID(uid), namespace, name
		orphans[pod.UID] = pod
	}
	containers, err := m.c.Runtime.ListContainers(ctx, "")
	for _, c := range containers {
		orphan(c.PodUID, c.PodNamespace, c.PodName)
	}
	sandboxes, sandboxErr := m.c.Runtime.ListSandboxes(ctx)
	for _, s := range sandboxes {
		orphan(s.UID, s.Namespace, s.Name)
	}
	if m.c.Hardware != nil {
		for _, uid := range m.c.Hardware.Pods() {
			if _, ok := orphans[uid]; !ok {
				orphan(string(uid), "", "")
			}
		}
	}
	if err = errors.Join(err, sandboxErr); err != nil {
		slog.Warn("pods of a previous agent could not be listed", "err", err)
	}
	if entries, err := os.ReadDir(m.c.RootDir); err == nil {
		for _, e := range entries {
			if _, ok := orphans[types.UID(e.Name())]; !ok && e.IsDir() {
				orphan(e.Name(), "", "")
			}
		}
	}
	keep := m.removeOrphans(orphans)
	if err == nil { // otherwise a running pod could lose its network
		if err := m.c.Network.Sweep(ctx, keep); err != nil {
			slog.Warn("the network of pods that no longer exist could not be freed", "err", err)
		}
	}
}

// removeOrphans starts workers that remove what is left of pods that are not assigned, and returns all pods that have a worker.
func (m *Manager) removeOrphans(orphans map[types.UID]*corev1.Pod) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for uid, pod := range orphans {
		if m.workers[uid] != nil {
			continue
		}
		slog.Info("removing what is left of a pod", "namespace", pod.Namespace, "pod", pod.Name, "uid", uid)
		w := newWorker(m, pod)
		w.removed = true
		m.workers[uid] = w
		m.launch(w)
	}
	keep := make([]string, 0, len(m.workers))
	for uid := range m.workers {
		keep = append(keep, string(uid))
	}
	return keep
}

// launch starts a worker. The caller holds mu.
func (m *Manager) launch(w *worker) {
	if m.stopping {
		return
	}
	start := func() {
		ctx := m.ctx
		m.wg.Go(func() {
			w.run(ctx)
			m.mu.Lock()
			defer m.mu.Unlock()
			if ctx.Err() != nil {
				return
			}
			delete(m.workers, w.uid)
			m.changes.Tell()
			w.mu.Lock()
			readded := w.readded
			w.mu.Unlock()
			if readded != nil {
				next := newWorker(m, readded)
				m.workers[w.uid] = next
				m.launch(next)
			}
		})
	}
	if m.ctx == nil {
		m.pending = append(m.pending, start)
		return
	}
	start()
}

// Refresh reports that Secrets or ConfigMaps of these namespaces changed, or, if namespaces is nil, that an object changed which pods of
// any namespace may use: their pods' volumes are updated, and containers that were waiting for one are tried again.
func (m *Manager) Refresh(namespaces map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		if namespaces == nil || namespaces[w.namespace] {
			w.refresh(true)
		}
	}
}

// RefreshVolumes lets volumes of a pod be updated.
func (m *Manager) RefreshVolumes(uid types.UID, volumes []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.workers[uid]; w != nil {
		w.refreshVolumes(volumes)
	}
}

// Retry reports a change that may allow waiting pods to start: of the network, or the services. It costs running pods next to
// nothing.
func (m *Manager) Retry() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		w.refresh(false)
	}
}

// Reconcile reports the status of every pod whose object has another one: while the node was disconnected, a master may have marked
// its pods as not ready.
func (m *Manager) Reconcile() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.workers {
		w.reconcile()
	}
}

// Pods returns the pods with their present status.
func (m *Manager) Pods() []*corev1.Pod {
	m.mu.Lock()
	list := make([]*worker, 0, len(m.workers))
	for _, w := range m.workers {
		list = append(list, w)
	}
	m.mu.Unlock()
	var out []*corev1.Pod
	for _, w := range list {
		out = append(out, w.object())
	}
	return out
}

// Changed returns a channel that is closed when what Pods returns changes. Call it before Pods.
func (m *Manager) Changed() <-chan struct{} { return m.changes.Next() }

// Pod returns one pod with its present status: the one with that UID or, if uid is empty, the newest of that name. Several pods may
// have one name for a while, when one is still being stopped and its successor has been assigned.
func (m *Manager) Pod(namespace, name string, uid types.UID) (*corev1.Pod, bool) {
	var found *corev1.Pod
	for _, p := range m.Pods() {
		if p.Namespace != namespace || p.Name != name || uid != "" && p.UID != uid {
			continue
		}
		if found == nil || found.CreationTimestamp.Before(&p.CreationTimestamp) ||
			found.CreationTimestamp.Equal(&p.CreationTimestamp) && found.DeletionTimestamp != nil && p.DeletionTimestamp == nil {
			found = p
		}
	}
	return found, found != nil
}

// admit decides whether a pod may start, and reserves its resources from then on. A refused pod should be reported as such only
// after wait.
//
// A controller immediately replaces a pod that failed, and a scheduler that does not know the reason binds the next one to this
// node too. To slow that down, the successors of a refused pod are refused with a growing delay, like restarts of containers.
// Meanwhile they may turn out to fit.
func (m *Manager) admit(ctx context.Context, w *worker, pod *corev1.Pod) (r *fit.Refusal, wait time.Duration) {
	r, preempting := m.reserve(w, pod)
	if preempting {
		return r, preemptAgain
	}
	if r == nil {
		if r = m.allocateHardware(ctx, pod); r == nil {
			w.mu.Lock()
			w.setAllocationLocked(resources.Allocate(w.desired)) // on disk, by which another agent knows that the pod has everything
			w.mu.Unlock()
			return nil, 0
		}
		w.mu.Lock()
		w.active = false
		w.mu.Unlock()
	}
	m.admission.Lock()
	defer m.admission.Unlock()
	owner := metav1.GetControllerOf(pod)
	if owner == nil {
		return r, 0
	}
	now := time.Now()
	if w.refusedAt.IsZero() {
		w.refusedAt = now
	}
	if wait = m.refusals.waits(string(owner.UID), w.refusedAt, now); wait > 0 {
		return r, wait
	}
	if len(m.refusals.entries) >= maxRefusals {
		clear(m.refusals.entries)
	}
	m.refusals.next(string(owner.UID), w.refusedAt, now)
	return r, 0
}

// reserve checks whether a pod may run here, and reserves its resources if it may. preempting means that it may once others have ended.
func (m *Manager) reserve(w *worker, pod *corev1.Pod) (_ *fit.Refusal, preempting bool) {
	m.admission.Lock()
	defer m.admission.Unlock()
	var r *fit.Refusal
	if m.c.Closed != nil {
		r = m.c.Closed()
	}
	if r == nil {
		r = m.Admit(pod)
	}
	if r == nil {
		r = m.admitPressure(pod)
	}
	if r == nil {
		node := m.nodeForFit()
		if r = fit.Check(pod, m.active(w), node); r != nil {
			r, preempting = m.preempt(w, pod, r, node)
		}
	}
	if r == nil {
		w.mu.Lock()
		w.active = true
		w.mu.Unlock()
	}
	return r, preempting
}

// allocateHardware gives a pod its devices. It may take as long as their plugins need, and other pods are admitted meanwhile.
func (m *Manager) allocateHardware(ctx context.Context, pod *corev1.Pod) *fit.Refusal {
	if m.c.Hardware == nil {
		return nil
	}
	err := m.c.Hardware.Allocate(ctx, pod)
	if err == nil {
		return nil
	}
	var e interface{ Reason() string }
	if errors.As(err, &e) {
		return &fit.Refusal{Reason: e.Reason(), Message: err.Error()}
	}
	return &fit.Refusal{Reason: reasonUnexpected, Message: fmt.Sprintf("Allocate failed due to %v, which is unexpected", err)}
}

// maxRefusals limits how many owners of refused pods are remembered.
const maxRefusals = 1000

// active returns the pods that use resources of the node, except for one worker's.
func (m *Manager) active(but *worker) []*corev1.Pod {
	m.mu.Lock()
	list := make([]*worker, 0, len(m.workers))
	for _, w := range m.workers {
		if w != but {
			list = append(list, w)
		}
	}
	m.mu.Unlock()
	var out []*corev1.Pod
	for _, w := range list {
		w.mu.Lock()
		if w.active && !w.removed {
			out = append(out, w.pod)
		}
		w.mu.Unlock()
	}
	return out
}

// nodeForFit returns the node with its labels and taints in the cluster, and the resources that the agent found, except for those that
// Hardware counts itself.
func (m *Manager) nodeForFit() *corev1.Node {
	own := m.node()
	if own == nil {
		return nil
	}
	out := *own
	if m.c.ClusterNode != nil {
		if node := m.c.ClusterNode(); node != nil {
			out = *node
		}
	}
	cluster := out.Status.Allocatable
	out.Status.Allocatable = corev1.ResourceList{}
	maps.Copy(out.Status.Allocatable, cluster)
	maps.Copy(out.Status.Allocatable, own.Status.Allocatable)
	if m.c.Hardware != nil {
		maps.DeleteFunc(out.Status.Allocatable, func(name corev1.ResourceName, _ resource.Quantity) bool { return m.c.Hardware.Manages(name) })
	}
	return &out
}

func (m *Manager) node() *corev1.Node {
	if m.c.Node == nil {
		return nil
	}
	return m.c.Node()
}

func (m *Manager) nodeMemory() int64 {
	if n := m.node(); n != nil {
		return n.Status.Capacity.Memory().Value()
	}
	return 0
}

// slot takes a slot for starting containers; the returned function releases it.
func (m *Manager) slot(ctx context.Context) (func(), error) {
	select {
	case m.starts <- struct{}{}:
		return func() { <-m.starts }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (m *Manager) podDir(uid types.UID) string { return filepath.Join(m.c.RootDir, string(uid)) }

func (m *Manager) podLogDir(pod *corev1.Pod) string {
	return filepath.Join(m.c.LogDir, pod.Namespace+"_"+pod.Name+"_"+string(pod.UID))
}

// resync is how often a worker checks its pod without an event, in case one was lost.
const resync = time.Minute
