package pods

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	helper "k8s.io/component-helpers/resource"

	"github.com/kontiki/kontiki/internal/amount"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/runtime"
)

// Room is what the node has of something, and how much of it is available.
type Room struct{ Available, Capacity int64 }

const (
	// pressurePeriod is how often the node is checked; one pod is evicted each time, at most.
	pressurePeriod = 10 * time.Second
	// pressureHolds is how long a condition stays after it was last seen, so that pods are not bound and evicted in turns.
	pressureHolds = 5 * time.Minute
)

// pressure is what the node runs out of.
type pressure struct {
	mu    sync.Mutex
	since map[int]time.Time // when a threshold, by its index, was first undercut
	seen  map[corev1.NodeConditionType]time.Time
	now   []corev1.NodeConditionType
}

// Pressure returns which of the conditions MemoryPressure, DiskPressure and PIDPressure hold.
func (m *Manager) Pressure() []corev1.NodeConditionType {
	m.pressure.mu.Lock()
	defer m.pressure.mu.Unlock()
	return m.pressure.now
}

// guard keeps the node from running out of memory, disk, inodes and process ids until ctx ends.
func (m *Manager) guard(ctx context.Context) {
	tick := time.NewTicker(pressurePeriod)
	defer tick.Stop()
	images := time.NewTicker(imageGCPeriod)
	defer images.Stop()
	for {
		err := contain.Run(func() error { return m.relieve(ctx) })
		if err != nil && ctx.Err() == nil {
			slog.Warn("the node's resources could not be guarded", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-images.C:
			if err := contain.Run(func() error { return m.collectImages(ctx) }); err != nil && ctx.Err() == nil {
				slog.Warn("unused images could not be removed", "err", err)
			}
		}
	}
}

// undercut is a threshold that is not met now.
type undercut struct {
	Threshold
	index    int
	rank     int // of the signal
	resource corev1.ResourceName
	room     Room
}

// relieve looks at the node once. If something has run out, it frees images, and if that does not help, it evicts a pod.
func (m *Manager) relieve(ctx context.Context) error {
	rooms := m.c.Rooms(ctx)
	under := m.observe(rooms, time.Now())
	if len(under) == 0 {
		return nil
	}
	worst := under[0]
	slog.Warn("attempting to reclaim "+string(worst.resource), "signal", worst.Signal, "available", worst.room.Available)
	if signals[worst.rank].condition == corev1.NodeDiskPressure {
		if err := m.freeImages(ctx, 1<<62); err != nil {
			slog.Warn("unused images could not be removed", "err", err)
		}
		room := m.c.Rooms(ctx)[worst.Signal]
		if least := worst.least(room.Capacity); room.Available >= least.Value() {
			return nil
		}
	}
	return m.evictOne(ctx, worst)
}

// observe updates the node's conditions and returns the thresholds that are undercut for longer than their period of grace, the first to
// be relieved first.
func (m *Manager) observe(rooms map[Signal]Room, now time.Time) []undercut {
	p := &m.pressure
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []undercut
	for i, t := range m.c.Eviction {
		rank := slices.IndexFunc(signals, func(s struct {
			signal    Signal
			condition corev1.NodeConditionType
			resource  corev1.ResourceName
		}) bool {
			return s.signal == t.Signal
		})
		room, known := rooms[t.Signal]
		least := t.least(room.Capacity)
		if rank < 0 || !known || room.Available >= least.Value() {
			delete(p.since, i)
			continue
		}
		if _, before := p.since[i]; !before {
			p.since[i] = now
		}
		p.seen[signals[rank].condition] = now
		if now.Sub(p.since[i]) >= t.Grace {
			out = append(out, undercut{t, i, rank, signals[rank].resource, room})
		}
	}
	p.now = nil
	for _, c := range []corev1.NodeConditionType{corev1.NodeDiskPressure, corev1.NodeMemoryPressure, corev1.NodePIDPressure} {
		if seen, ok := p.seen[c]; ok && now.Sub(seen) < pressureHolds {
			p.now = append(p.now, c)
		}
	}
	slices.SortStableFunc(out, func(a, b undercut) int { return cmp.Compare(a.rank, b.rank) })
	return out
}

// load is what a pod uses of a resource.
type load struct {
	w          *worker
	pod        *corev1.Pod
	used       int64
	request    int64
	containers map[string]int64
}

func (l load) exceeds() bool { return l.used > l.request }

// evictOne evicts the pod that comes first: one that uses more than it requested, of low priority, that exceeds its request by most.
func (m *Manager) evictOne(ctx context.Context, u undercut) error {
	var loads []load
	m.mu.Lock()
	workers := make([]*worker, 0, len(m.workers))
	for _, w := range m.workers {
		workers = append(workers, w)
	}
	m.mu.Unlock()
	for _, w := range workers {
		w.mu.Lock()
		pod, candidate := w.pod, w.active && w.stop == nil && !w.removed
		volumes := w.mounted
		w.mu.Unlock()
		if !candidate || m.critical(pod) {
			continue
		}
		l, err := m.loadOf(ctx, w, pod, volumes, u.resource)
		if err != nil {
			return err
		}
		loads = append(loads, l)
	}
	slices.SortFunc(loads, func(a, b load) int {
		byRequest := 0
		if a.exceeds() != b.exceeds() && u.resource != "pids" {
			byRequest = 1
			if a.exceeds() {
				byRequest = -1
			}
		}
		return cmp.Or(byRequest, cmp.Compare(priorityOf(a.pod), priorityOf(b.pod)), cmp.Compare(b.used-b.request, a.used-a.request), cmp.Compare(a.pod.UID, b.pod.UID))
	})
	if len(loads) == 0 {
		slog.Warn("unable to evict any pods from the node", "resource", u.resource)
		return nil
	}
	worst := loads[0]
	message := evictionMessage(u, worst)
	grace := time.Duration(0) // as the kubelet, also for soft thresholds unless it is configured
	worst.w.event("", corev1.EventTypeWarning, "Evicted", message)
	slog.Warn("evicting pod", "namespace", worst.pod.Namespace, "pod", worst.pod.Name, "message", message)
	m.Stop(worst.pod.UID, Stop{Reason: "Evicted", Message: message, Grace: &grace, Condition: &corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
		Reason: corev1.PodReasonTerminationByKubelet, Message: message, ObservedGeneration: worst.pod.Generation}})
	return nil
}

// critical says whether a pod is never evicted because of what it uses or the node runs out of.
func (m *Manager) critical(pod *corev1.Pod) bool {
	return priorityOf(pod) >= systemCritical || m.static(pod.UID)
}

func (m *Manager) static(uid types.UID) bool { return m.c.Static != nil && m.c.Static(uid) }

func priorityOf(pod *corev1.Pod) int32 {
	if pod.Spec.Priority == nil {
		return 0
	}
	return *pod.Spec.Priority
}

func (m *Manager) loadOf(ctx context.Context, w *worker, pod *corev1.Pod, volumes map[string]string, name corev1.ResourceName) (load, error) {
	l := load{w: w, pod: pod, containers: map[string]int64{}}
	request := helper.PodRequests(pod, helper.PodResourcesOptions{})[name]
	l.request = amount.Value(&request)
	list, err := m.c.Runtime.ListContainers(ctx, string(pod.UID))
	if err != nil {
		return l, err
	}
	for _, c := range list {
		if c.State != runtime.StateRunning {
			continue
		}
		var s runtime.Stats
		if name == corev1.ResourceMemory || name == "pids" {
			s.Usage, err = m.c.Runtime.Usage(ctx, c.ID)
		} else {
			s, err = m.c.Runtime.Stats(ctx, c.ID) // walks the container's files
		}
		if err != nil {
			continue // it has ended meanwhile
		}
		var used uint64
		switch name {
		case corev1.ResourceMemory:
			used = s.MemoryWorkingSet
		case corev1.ResourceEphemeralStorage:
			used = s.RootfsBytes + s.LogBytes
		case "inodes":
			used = s.RootfsInodes
		case "pids":
			used = s.Processes
		}
		l.containers[c.Name] += int64(used)
		l.used += int64(used)
	}
	if name == corev1.ResourceEphemeralStorage {
		for i := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[i]
			if v.EmptyDir == nil || v.EmptyDir.Medium != corev1.StorageMediumDefault || volumes[v.Name] == "" {
				continue
			}
			used, err := w.diskUse(ctx, volumes[v.Name], 1<<62)
			if err != nil {
				w.log.Info("the size of a volume could not be measured", "volume", v.Name, "err", err)
			}
			l.used += used
		}
	}
	return l, nil
}

// evictionMessage returns the kubelet's message.
func evictionMessage(u undercut, l load) string {
	least := u.least(u.room.Capacity)
	format := func(n int64) string { return resource.NewQuantity(n, resource.BinarySI).String() }
	message := fmt.Sprintf("The node was low on resource: %v. Threshold quantity: %v, available: %v. ", u.resource, least.String(), available(u.room))
	if u.resource != corev1.ResourceMemory && u.resource != corev1.ResourceEphemeralStorage {
		return message
	}
	for c, kind := range podspec.Containers(l.pod) {
		used, ok := l.containers[c.Name]
		request := c.Resources.Requests[u.resource]
		if kind != podspec.Ephemeral && ok && used > amount.Value(&request) {
			message += fmt.Sprintf("Container %s was using %s, request is %s, has larger consumption of %v. ", c.Name, format(used), request.String(), u.resource)
		}
	}
	return message
}

// available returns how much there is, in KiB where that is exact enough.
func available(r Room) string {
	n := r.Available
	if n > 1<<20 {
		n = n &^ 1023
	}
	return resource.NewQuantity(n, resource.BinarySI).String()
}

// admitPressure refuses pods that would add to the node's pressure.
func (m *Manager) admitPressure(pod *corev1.Pod) *Refusal {
	conditions := m.Pressure()
	if len(conditions) == 0 || m.critical(pod) {
		return nil
	}
	if len(conditions) == 1 && conditions[0] == corev1.NodeMemoryPressure {
		if qosOf(pod) != corev1.PodQOSBestEffort || tolerates(pod, &corev1.Taint{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule}) {
			return nil
		}
	}
	return &Refusal{"Evicted", fmt.Sprintf("The node had condition: %v. ", conditions)}
}
