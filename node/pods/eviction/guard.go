// Package eviction keeps a node from running out of memory, disk, inodes and process ids, by the kubelet's thresholds and messages: it looks
// at what is available, says which conditions of pressure hold, removes images that no container uses, and evicts pods, one at a time.
package eviction

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
	helper "k8s.io/component-helpers/resource"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/internal/amount"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/runtime"
)

const (
	// Period is how often the node is checked; one pod is evicted each time, at most.
	Period = 10 * time.Second
	// Holds is how long a condition stays after it was last seen, so that pods are not bound and evicted in turns.
	Holds = 5 * time.Minute
)

// Runtime is what is asked of the container runtime.
type Runtime interface {
	ListContainers(ctx context.Context, pod string) ([]runtime.Container, error)
	Usage(ctx context.Context, id string) (runtime.Usage, error)
	Stats(ctx context.Context, id string) (runtime.Stats, error)
	ListImages(ctx context.Context) ([]runtime.Image, error)
	RemoveImage(ctx context.Context, id string) error
}

// Pods are the pods of the node.
type Pods interface {
	// Evictable returns those that run and may be evicted.
	Evictable() []Candidate
	// Evict begins to end a pod for what the message says.
	Evict(pod *corev1.Pod, message string)
	// DiskUse returns how many bytes on disk a folder occupies.
	DiskUse(ctx context.Context, dir string) (int64, error)
}

// Candidate is a pod that may be evicted, and the folders of its volumes that are mounted, by name.
type Candidate struct {
	Pod     *corev1.Pod
	Volumes map[string]string
}

// Config has the parameters of a Guard.
type Config struct {
	// Rooms returns what is available of each signal on the node.
	Rooms      func(ctx context.Context) map[Signal]Room
	Thresholds []Threshold
	Images     ImageGC
	Runtime    Runtime
	Pods       Pods
	// Present is told from time to time which images there are, by ID.
	Present func(images map[string]bool)
}

// Guard keeps the node from running out of memory, disk, inodes and process ids. Its methods are safe for concurrent use.
type Guard struct {
	c      Config
	images imageUse

	mu    sync.Mutex
	since map[int]time.Time // when a threshold, by its index, was first undercut
	seen  map[corev1.NodeConditionType]time.Time
	now   []corev1.NodeConditionType
}

// New creates a Guard.
func New(c Config) *Guard {
	return &Guard{c: c, images: imageUse{seen: map[string]time.Time{}, used: map[string]time.Time{}}, since: map[int]time.Time{}, seen: map[corev1.NodeConditionType]time.Time{}}
}

// Pressure returns which of the conditions MemoryPressure, DiskPressure and PIDPressure hold.
func (g *Guard) Pressure() []corev1.NodeConditionType {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now
}

// Run guards the node until ctx ends.
func (g *Guard) Run(ctx context.Context) {
	tick := time.NewTicker(Period)
	defer tick.Stop()
	images := time.NewTicker(ImagesPeriod)
	defer images.Stop()
	for {
		err := contain.Run(func() error { return g.relieve(ctx) })
		if err != nil && ctx.Err() == nil {
			slog.Warn("the node's resources could not be guarded", "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-images.C:
			if err := contain.Run(func() error { return g.collectImages(ctx) }); err != nil && ctx.Err() == nil {
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
func (g *Guard) relieve(ctx context.Context) error {
	rooms := g.c.Rooms(ctx)
	under := g.observe(rooms, time.Now())
	if len(under) == 0 {
		return nil
	}
	worst := under[0]
	slog.Warn("attempting to reclaim "+string(worst.resource), "signal", worst.Signal, "available", worst.room.Available)
	if signals[worst.rank].condition == corev1.NodeDiskPressure {
		if err := g.freeImages(ctx, 1<<62); err != nil {
			slog.Warn("unused images could not be removed", "err", err)
		}
		room := g.c.Rooms(ctx)[worst.Signal]
		if least := worst.least(room.Capacity); room.Available >= least.Value() {
			return nil
		}
	}
	return g.evictOne(ctx, worst)
}

// observe updates the node's conditions and returns the thresholds that are undercut for longer than their period of grace, the first to
// be relieved first.
func (g *Guard) observe(rooms map[Signal]Room, now time.Time) []undercut {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []undercut
	for i, t := range g.c.Thresholds {
		rank := slices.IndexFunc(signals, func(s about) bool { return s.signal == t.Signal })
		room, known := rooms[t.Signal]
		least := t.least(room.Capacity)
		if rank < 0 || !known || room.Available >= least.Value() {
			delete(g.since, i)
			continue
		}
		if _, before := g.since[i]; !before {
			g.since[i] = now
		}
		g.seen[signals[rank].condition] = now
		if now.Sub(g.since[i]) >= t.Grace {
			out = append(out, undercut{t, i, rank, signals[rank].resource, room})
		}
	}
	g.now = nil
	for _, c := range []corev1.NodeConditionType{corev1.NodeDiskPressure, corev1.NodeMemoryPressure, corev1.NodePIDPressure} {
		if seen, ok := g.seen[c]; ok && now.Sub(seen) < Holds {
			g.now = append(g.now, c)
		}
	}
	slices.SortStableFunc(out, func(a, b undercut) int { return cmp.Compare(a.rank, b.rank) })
	return out
}

// load is what a pod uses of a resource.
type load struct {
	pod        *corev1.Pod
	used       int64
	request    int64
	containers map[string]int64
}

func (l load) exceeds() bool { return l.used > l.request }

// evictOne evicts the pod that comes first: one that uses more than it requested, of low priority, that exceeds its request by most.
func (g *Guard) evictOne(ctx context.Context, u undercut) error {
	var loads []load
	for _, c := range g.c.Pods.Evictable() {
		l, err := g.loadOf(ctx, c, u.resource)
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
		return cmp.Or(byRequest, cmp.Compare(ptr.Deref(a.pod.Spec.Priority, 0), ptr.Deref(b.pod.Spec.Priority, 0)), cmp.Compare(b.used-b.request, a.used-a.request), cmp.Compare(a.pod.UID, b.pod.UID))
	})
	if len(loads) == 0 {
		slog.Warn("unable to evict any pods from the node", "resource", u.resource)
		return nil
	}
	worst := loads[0]
	message := evictionMessage(u, worst)
	slog.Warn("evicting pod", "namespace", worst.pod.Namespace, "pod", worst.pod.Name, "message", message)
	g.c.Pods.Evict(worst.pod, message)
	return nil
}

func (g *Guard) loadOf(ctx context.Context, candidate Candidate, name corev1.ResourceName) (load, error) {
	pod, volumes := candidate.Pod, candidate.Volumes
	l := load{pod: pod, containers: map[string]int64{}}
	request := helper.PodRequests(pod, helper.PodResourcesOptions{})[name]
	l.request = amount.Value(&request)
	list, err := g.c.Runtime.ListContainers(ctx, string(pod.UID))
	if err != nil {
		return l, err
	}
	for _, c := range list {
		if c.State != runtime.StateRunning {
			continue
		}
		var s runtime.Stats
		if name == corev1.ResourceMemory || name == "pids" {
			s.Usage, err = g.c.Runtime.Usage(ctx, c.ID)
		} else {
			s, err = g.c.Runtime.Stats(ctx, c.ID) // walks the container's files
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
			used, err := g.c.Pods.DiskUse(ctx, volumes[v.Name])
			if err != nil {
				slog.Info("the size of a volume could not be measured", "namespace", pod.Namespace, "pod", pod.Name, "volume", v.Name, "err", err)
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
