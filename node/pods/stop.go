package pods

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/runtime"
)

// grace is the remaining grace period of a pod. It can be shortened while it runs, never lengthened.
type grace struct {
	ctx    context.Context
	cancel context.CancelFunc
	mu     sync.Mutex
	timer  *time.Timer
	end    time.Time
}

func newGrace(ctx context.Context, d time.Duration) *grace {
	g := &grace{end: time.Now().Add(d)}
	g.ctx, g.cancel = context.WithCancel(ctx)
	g.timer = time.AfterFunc(d, g.cancel)
	return g
}

func (g *grace) shorten(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if d = max(d, leastPodGrace); time.Now().Add(d).Before(g.end) {
		g.end = time.Now().Add(d)
		g.timer.Reset(d)
	}
}

func (g *grace) stop() { g.timer.Stop(); g.cancel() }

const (
	// leastPodGrace is the shortest time for hooks and processes of a pod together.
	leastPodGrace = time.Second
	// minGrace is the shortest time between a process's stop signal and its kill, however long its hook took.
	minGrace = 2 * time.Second
)

// Stop says why and how a pod is stopped permanently.
type Stop struct {
	// Reason and Message make the pod Failed once nothing of it is running any more. Without a Reason its phase follows from how
	// its containers ended.
	Reason  string `json:"reason,omitempty"`
	Message string `json:"message,omitempty"`
	// Condition is added to the pod's status at once: DisruptionTarget for an eviction.
	Condition *corev1.PodCondition `json:"condition,omitempty"`
	// Grace is the grace period, nil for the pod's own.
	Grace *time.Duration `json:"grace,omitempty"`
}

// Stop stops a pod permanently. It returns before the pod has ended, and returns false if the pod is not known. If it is called
// several times, the first reason and the shortest grace period apply.
func (m *Manager) Stop(uid types.UID, s Stop) bool {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w == nil {
		return false
	}
	w.mu.Lock()
	w.endLocked(s)
	w.mu.Unlock()
	w.poke()
	return true
}

// Active returns the pods that use resources of the node. Those that were not admitted before are asked for by Config.Closed.
func (m *Manager) Active() []*corev1.Pod {
	m.admission.Lock()
	defer m.admission.Unlock()
	return m.active(nil)
}

// Over returns a channel that is closed when nothing of a pod uses the node any more: no process, no volume.
func (m *Manager) Over(uid types.UID) <-chan struct{} {
	m.mu.Lock()
	w := m.workers[uid]
	m.mu.Unlock()
	if w == nil {
		over := make(chan struct{})
		close(over)
		return over
	}
	return w.over
}

func isClosed(c chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// endLocked begins the end of a pod, in all cases: deleted, removed, refused, evicted, past its deadline or finished. It cancels
// the running sync step. The caller holds mu.
func (w *worker) endLocked(s Stop) {
	if w.stop == nil {
		w.stop = &Stop{}
	}
	if w.stop.Reason == "" && !isTerminal(w.status.Phase) {
		w.stop.Reason, w.stop.Message = s.Reason, s.Message
	}
	if w.stop.Condition == nil {
		w.stop.Condition = s.Condition
	}
	if s.Grace != nil && (w.stop.Grace == nil || *s.Grace < *w.stop.Grace) {
		w.stop.Grace = s.Grace
		w.endAt = time.Time{}
	}
	if s.Reason != "" {
		w.saveStop()
	}
	if w.cancelSync != nil {
		w.cancelSync()
	}
	if w.grace != nil && s.Grace != nil {
		w.grace.shorten(*s.Grace)
	}
}

func (w *worker) end(s Stop) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endLocked(s)
}

// stopFile stores a stop with a reason, so that a restarted agent continues with it.
const stopFile = "stop.json"

func (w *worker) saveStop() {
	if w.m.static(w.uid) { // it is tried again when the agent starts, as by a kubelet
		return
	}
	b, err := json.Marshal(w.stop)
	if err == nil {
		dir := w.m.podDir(w.uid)
		if err = os.MkdirAll(dir, 0o755); err == nil {
			err = os.WriteFile(filepath.Join(dir, stopFile), b, 0o600)
		}
	}
	if err != nil {
		w.log.Warn("the reason for stopping the pod could not be written to disk", "err", err)
	}
}

func loadStop(dir string) *Stop {
	b, err := os.ReadFile(filepath.Join(dir, stopFile))
	if err != nil {
		return nil
	}
	s := &Stop{}
	if json.Unmarshal(b, s) != nil {
		return nil
	}
	return s
}

// seconds returns a duration, at most maxGrace: a period of any length may be asked for.
func seconds(n int64) time.Duration {
	return time.Duration(max(0, min(n, int64(maxGrace/time.Second)))) * time.Second
}

// maxGrace is longer than anything that is waited for: 100 years.
const maxGrace = 100 * 365 * 24 * time.Hour

// gracePeriod returns the pod's grace period: that of its deletion or of the stop, or else that of its spec.
func gracePeriod(pod *corev1.Pod, s *Stop) time.Duration {
	period := corev1.DefaultTerminationGracePeriodSeconds * time.Second
	if len(pod.Spec.Containers) == 0 {
		period = leastPodGrace // its object is gone
	}
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		period = seconds(*s)
	}
	if s := pod.DeletionGracePeriodSeconds; pod.DeletionTimestamp != nil && s != nil {
		period = seconds(*s)
	}
	if s != nil && s.Grace != nil {
		period = min(period, *s.Grace)
	}
	return max(period, leastPodGrace)
}

// terminate stops everything of the pod and frees its resources, except for exited containers. The pod is reported as Succeeded or
// Failed only when nothing of it is running any more.
func (w *worker) terminate(ctx context.Context) error {
	w.mu.Lock()
	pod := w.pod
	g := newGrace(ctx, gracePeriod(pod, w.stop))
	w.grace = g
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		w.grace = nil
		w.mu.Unlock()
		g.stop()
	}()
	w.probes.stopFatal()
	o, err := w.look(ctx)
	if err != nil {
		return err
	}
	w.publish(pod, o)
	begun, seen := pod, o
	w.during(ctx, func() { err = w.killAll(ctx, g, begun, seen) })
	if err != nil {
		return err
	}
	w.probes.stopAll()
	w.mu.Lock()
	pod = w.pod
	w.mu.Unlock()
	if o, err = w.look(ctx); err != nil {
		return err
	}
	w.stopped = true
	if err := w.free(ctx, pod); err != nil {
		w.publish(pod, o) // freeing resources may take long; that the pod has ended is already known
		return err
	}
	w.mu.Lock()
	w.active = false
	if !isClosed(w.over) {
		close(w.over)
	}
	w.mu.Unlock()
	w.m.resize() // others may grow now
	w.ready = false
	w.stage = terminated
	w.publish(pod, o)
	return nil
}

// free releases the resources of a pod without processes.
func (w *worker) free(ctx context.Context, pod *corev1.Pod) error {
	if !pod.Spec.HostNetwork {
		if err := w.m.c.Network.DelPod(ctx, string(w.uid)); err != nil {
			return fmt.Errorf("free network: %w", err)
		}
	}
	if err := w.m.c.Volumes.TearDown(ctx, string(w.uid)); err != nil {
		return fmt.Errorf("remove volumes: %w", err)
	}
	if err := w.m.c.Runtime.RemoveSandbox(ctx, string(w.uid)); err != nil {
		return fmt.Errorf("remove sandbox: %w", err)
	}
	if w.m.c.Hardware != nil {
		if err := w.m.c.Hardware.Release(ctx, w.uid); err != nil {
			return fmt.Errorf("free devices: %w", err)
		}
	}
	return nil
}

// during runs f concurrently with the worker, which continues to report status until f returns.
func (w *worker) during(ctx context.Context, f func()) {
	done := make(chan struct{})
	var failed error
	go func() {
		defer close(done)
		failed = contain.Run(func() error { f(); return nil })
	}()
	woken := false
	for {
		select {
		case <-done:
			if woken {
				w.poke() // wake-ups during f must not be lost for the next step
			}
			if failed != nil {
				panic(failed) // so that step recovers it
			}
			return
		case <-w.wake:
			woken = true
		}
		w.mu.Lock()
		pod := w.pod
		w.mu.Unlock()
		if o, err := w.look(context.WithoutCancel(ctx)); err == nil {
			w.publish(pod, o)
		}
	}
}

// killAll stops all containers. All hooks start at once. Sidecars get the stop signal when the containers that they serve have
// ended, last started first, or when the grace period is over.
func (w *worker) killAll(ctx context.Context, g *grace, pod *corev1.Pod, o observed) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	stop := func(c runtime.Container, before []<-chan struct{}) <-chan struct{} {
		ended := make(chan struct{})
		spec, _ := podspec.Container(pod, c.Name)
		wg.Go(func() {
			defer close(ended)
			err := contain.Run(func() error {
				return w.stopContainer(ctx, g.ctx, pod, spec, c, "Stopping container "+c.Name, before)
			})
			if err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
		return ended
	}
	running := func(name string) iter.Seq[runtime.Container] {
		return func(yield func(runtime.Container) bool) {
			for _, c := range o.byName[name] {
				if c.State == runtime.StateRunning && !yield(c) {
					return
				}
			}
		}
	}
	sidecars := map[string]bool{}
	for i := range pod.Spec.InitContainers {
		sidecars[pod.Spec.InitContainers[i].Name] = isSidecar(&pod.Spec.InitContainers[i])
	}
	var before []<-chan struct{}
	for name := range o.byName {
		if !sidecars[name] {
			for c := range running(name) {
				before = append(before, stop(c, nil))
			}
		}
	}
	for i := len(pod.Spec.InitContainers) - 1; i >= 0; i-- {
		if name := pod.Spec.InitContainers[i].Name; sidecars[name] {
			for c := range running(name) {
				before = append(before, stop(c, slices.Clone(before)))
			}
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

// killForRestart stops one container of a pod that continues to run.
func (w *worker) killForRestart(ctx context.Context, pod *corev1.Pod, k kill) {
	period := gracePeriod(pod, nil)
	if k.probe != nil && k.probe.TerminationGracePeriodSeconds != nil {
		period = max(seconds(*k.probe.TerminationGracePeriodSeconds), leastPodGrace)
	}
	c, err := w.m.c.Runtime.Container(ctx, k.id)
	if err != nil || c.State != runtime.StateRunning {
		return
	}
	g := newGrace(ctx, period)
	defer g.stop()
	if err := w.stopContainer(ctx, g.ctx, pod, k.container, c, k.message, nil); err != nil && ctx.Err() == nil {
		w.log.Warn("stopping container", "container", k.container.Name, "err", err)
	}
}

// stopContainer stops one container: it runs the hook, sends the stop signal when the containers in before have ended, and kills
// the container when the grace period is over. spec may be nil.
func (w *worker) stopContainer(ctx, graceCtx context.Context, pod *corev1.Pod, spec *corev1.Container, c runtime.Container, message string, before []<-chan struct{}) error {
	rt := w.m.c.Runtime
	if spec != nil {
		w.containerEvent(pod, spec, corev1.EventTypeNormal, "Killing", message)
	}
	// Watch before sending the signal, so that the exit cannot be missed.
	ectx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := rt.Events(ectx)
	if spec != nil && spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil {
		if err := w.hook(graceCtx, pod, spec, c.ID, spec.Lifecycle.PreStop); err != nil {
			w.log.Info("preStop hook failed", "container", spec.Name, "err", err)
			w.containerEvent(pod, spec, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
		}
	}
	for _, ended := range before {
		select {
		case <-ended:
		case <-graceCtx.Done():
		}
	}
	signal := c.StopSignal
	if spec != nil && spec.Lifecycle != nil && spec.Lifecycle.StopSignal != nil {
		signal = string(*spec.Lifecycle.StopSignal)
	}
	if signal == "" {
		signal = "SIGTERM"
	}
	if err := rt.SignalContainer(ctx, c.ID, signal); err != nil && !errors.Is(err, runtime.ErrNotRunning) && !errors.Is(err, runtime.ErrNotFound) {
		w.log.Warn("stop signal", "container", c.Name, "err", err)
	}
	atLeast := time.NewTimer(minGrace)
	defer atLeast.Stop()
	graceDone := graceCtx.Done()
	var atLeastDone <-chan time.Time
	tick := time.NewTicker(time.Second) // in case an event is lost
	defer tick.Stop()
	for {
		if now, err := rt.Container(ctx, c.ID); err != nil || now.State != runtime.StateRunning {
			if errors.Is(err, runtime.ErrNotFound) {
				return nil
			}
			return err
		}
		select {
		case <-events:
		case <-tick.C:
		case <-graceDone:
			graceDone, atLeastDone = nil, atLeast.C
		case <-atLeastDone:
			return rt.KillContainer(ctx, c.ID)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
