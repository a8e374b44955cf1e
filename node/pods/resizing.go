package pods

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"

	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/resources"
	"github.com/kontiki/kontiki/node/runtime"
)

// resizing is a running container whose limits are to be changed.
type resizing struct {
	id        string
	container *corev1.Container
	from, to  resources.Limits
}

// resizeOf returns how a running container's limits differ from those allocated, nil if they do not, and whether the container must be
// restarted for that.
func resizeOf(pod *corev1.Pod, o observed, c *corev1.Container, l *runtime.Container) (r *resizing, restart bool) {
	from, known := o.alloc.AppliedTo(l)
	to := resources.LimitsOf(pod, c)
	if from == to {
		return nil, false
	}
	for _, p := range c.ResizePolicy {
		if p.RestartPolicy != corev1.RestartContainer || !known {
			continue
		}
		switch p.ResourceName {
		case corev1.ResourceCPU:
			restart = restart || from.CPULimit != to.CPULimit || from.CPURequest != to.CPURequest
		case corev1.ResourceMemory:
			restart = restart || from.MemoryLimit != to.MemoryLimit || from.MemoryRequest != to.MemoryRequest
		}
	}
	return &resizing{l.ID, c, from, to}, restart
}

// resizeInProgress says whether something of an allocation is still to be set. A container that is not running has the right limits when
// it starts.
func resizeInProgress(pod *corev1.Pod, o observed) bool {
	if o.alloc == nil {
		return false
	}
	if !resources.Same(o.alloc.AppliedPod, resources.ForPod(pod)) {
		return true
	}
	for c, kind := range podspec.Containers(pod) {
		if l := o.latest(c.Name); kind != podspec.Ephemeral && l != nil && l.State == runtime.StateRunning {
			if r, _ := resizeOf(pod, o, c, l); r != nil {
				return true
			}
		}
	}
	return false
}

// noteResize keeps the condition PodResizeInProgress true exactly while a resize is in progress.
func (w *worker) noteResize(pod *corev1.Pod, o observed) {
	doing := resizeInProgress(pod, o)
	w.mu.Lock()
	was := w.doingResize
	switch {
	case doing && was == nil:
		w.doingResize = resizeCondition(corev1.PodResizeInProgress, nil, "", "", pod.Generation)
	case !doing:
		w.doingResize = nil
	}
	w.mu.Unlock()
	if was != nil && !doing {
		w.event("", corev1.EventTypeNormal, "ResizeCompleted", resizeMessage("Pod resize completed", pod, was.ObservedGeneration, ""))
	}
}

// resizeRetry is when a resize that failed is tried again.
const resizeRetry = 10 * time.Second

// resizeContainers sets the allocated limits of running containers and of the pod, and returns when to try again, 0 if it succeeded.
func (w *worker) resizeContainers(ctx context.Context, pod *corev1.Pod, o observed, list []resizing) time.Duration {
	if o.alloc == nil || len(list) == 0 && resources.Same(o.alloc.AppliedPod, resources.ForPod(pod)) {
		return 0
	}
	err := w.setLimits(ctx, pod, o, list)
	if err == nil || ctx.Err() != nil {
		return 0
	}
	w.mu.Lock()
	old := w.doingResize
	generation := pod.Generation
	if old != nil {
		generation = old.ObservedGeneration
	}
	w.doingResize = resizeCondition(corev1.PodResizeInProgress, old, corev1.PodReasonError, shorten(err.Error(), maxText), generation)
	changed := old == nil || old.Reason != w.doingResize.Reason || old.Message != w.doingResize.Message
	w.mu.Unlock()
	if changed {
		w.event("", corev1.EventTypeWarning, "ResizeError", resizeMessage("Pod resize error", pod, generation, err.Error()))
	}
	return resizeRetry
}

// setLimits sets memory first, then CPU. A pod's limit is raised before those of its containers and lowered after them, and containers
// that get less are first, so that at no time the containers may use more than the pod.
func (w *worker) setLimits(ctx context.Context, pod *corev1.Pod, o observed, list []resizing) (err error) {
	rt := w.m.c.Runtime
	have, want := o.alloc.AppliedPod, resources.ForPod(pod)
	if err := w.checkMemory(ctx, o, list, have, want); err != nil {
		return err
	}
	done := map[string]resources.Limits{}
	for _, r := range list {
		done[r.id] = r.from
	}
	defer func() { // also after a failure: part of it may have been set
		running := func(id string) bool {
			for _, attempts := range o.byName {
				for _, c := range attempts {
					if c.ID == id {
						return c.State == runtime.StateRunning
					}
				}
			}
			return false
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.setAllocationLocked(w.alloc.With(have, done, running))
	}()
	setPod := func(due bool, change runtime.Resources, record func()) error {
		if !due {
			return nil
		}
		if err := rt.UpdateSandbox(ctx, string(w.uid), change); err != nil {
			return err
		}
		record()
		return nil
	}
	setContainers := func(order func(a, b resizing) int, differs func(resizing) bool, change func(resizing) runtime.Resources, record func(*resources.Limits, resizing)) error {
		sorted := slices.Clone(list)
		slices.SortStableFunc(sorted, order)
		for _, r := range sorted {
			if !differs(r) {
				continue
			}
			if err := rt.UpdateResources(ctx, r.id, change(r)); err != nil && !errors.Is(err, runtime.ErrNotRunning) && !errors.Is(err, runtime.ErrNotFound) {
				return fmt.Errorf("resize container %q: %w", r.container.Name, err)
			}
			l := done[r.id]
			record(&l, r)
			done[r.id] = l
		}
		return nil
	}

	memory := runtime.Resources{MemoryLimit: want.MemoryLimit}
	setMemory := func(due bool) error {
		return setPod(due && want.MemoryLimit > 0, memory, func() { have.MemoryLimit = want.MemoryLimit })
	}
	if err := setMemory(resources.Less(have.MemoryLimit, want.MemoryLimit)); err != nil {
		return err
	}
	err = setContainers(func(a, b resizing) int {
		return resources.ByGrowth(a.from.MemoryLimit, a.to.MemoryLimit, b.from.MemoryLimit, b.to.MemoryLimit)
	},
		func(r resizing) bool { return r.from.MemoryLimit != r.to.MemoryLimit && r.to.MemoryLimit > 0 },
		func(r resizing) runtime.Resources {
			return runtime.Resources{MemoryLimit: r.to.MemoryLimit, Swap: w.m.swapOf(pod, r.to)}
		},
		func(l *resources.Limits, r resizing) { l.MemoryLimit = r.to.MemoryLimit })
	if err != nil {
		return err
	}
	for _, r := range list { // a request is in no cgroup
		l := done[r.id]
		l.MemoryRequest, l.MemoryLimit = r.to.MemoryRequest, r.to.MemoryLimit
		done[r.id] = l
	}
	if err := setMemory(resources.Less(want.MemoryLimit, have.MemoryLimit)); err != nil {
		return err
	}

	setQuota := func(due bool) error {
		return setPod(due && want.CPUQuota > 0, runtime.Resources{CPUQuota: want.CPUQuota, CPUPeriod: want.CPUPeriod}, func() { have.CPUQuota, have.CPUPeriod = want.CPUQuota, want.CPUPeriod })
	}
	setShares := func(due bool) error {
		return setPod(due, runtime.Resources{CPUShares: want.CPUShares}, func() { have.CPUShares = want.CPUShares })
	}
	if err := setQuota(resources.Less(have.CPUQuota, want.CPUQuota)); err != nil {
		return err
	}
	if err := setShares(have.CPUShares < want.CPUShares); err != nil {
		return err
	}
	err = setContainers(func(a, b resizing) int {
		return resources.ByGrowth(a.from.CPULimit, a.to.CPULimit, b.from.CPULimit, b.to.CPULimit)
	},
		func(r resizing) bool { return r.from.CPULimit != r.to.CPULimit || r.from.CPURequest != r.to.CPURequest },
		func(r resizing) runtime.Resources {
			all := resources.ForContainer(pod, r.container, 0)
			return runtime.Resources{CPUShares: all.CPUShares, CPUQuota: all.CPUQuota, CPUPeriod: all.CPUPeriod}
		},
		func(l *resources.Limits, r resizing) { l.CPURequest, l.CPULimit = r.to.CPURequest, r.to.CPULimit })
	if err != nil {
		return err
	}
	if err := setShares(have.CPUShares > want.CPUShares); err != nil {
		return err
	}
	return setQuota(resources.Less(want.CPUQuota, have.CPUQuota))
}

// checkMemory refuses to lower a memory limit below what is in use, before anything is changed.
func (w *worker) checkMemory(ctx context.Context, o observed, list []resizing, have, want runtime.Resources) error {
	var errs []error
	lower := map[string]int64{}
	for _, r := range list {
		if resources.Less(r.to.MemoryLimit, r.from.MemoryLimit) {
			lower[r.id] = r.to.MemoryLimit
		}
	}
	podLower := want.MemoryLimit > 0 && resources.Less(want.MemoryLimit, have.MemoryLimit)
	if len(lower) == 0 && !podLower {
		return nil
	}
	var sum uint64
	for _, attempts := range o.byName {
		for i := range attempts {
			c := &attempts[i]
			if c.State != runtime.StateRunning {
				continue
			}
			s, err := w.m.c.Runtime.Usage(ctx, c.ID)
			if err != nil {
				continue // it has ended meanwhile
			}
			sum += s.MemoryBytes
			if limit, ok := lower[c.ID]; ok && s.MemoryBytes >= uint64(limit) {
				errs = append(errs, fmt.Errorf("attempting to set container %q memory limit (%d) below current usage (%d)", c.Name, limit, s.MemoryBytes))
			}
		}
	}
	if podLower && sum >= uint64(want.MemoryLimit) {
		errs = append([]error{fmt.Errorf("attempting to set pod memory limit (%d) below current usage (%d)", want.MemoryLimit, sum)}, errs...)
	}
	if len(errs) > 0 {
		return fmt.Errorf("cannot decrease memory limits: %w", utilerrors.NewAggregate(errs))
	}
	return nil
}
