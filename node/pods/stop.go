package pods

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/runtime"
)

// grace is the time that a pod has to end by itself. It can be shortened while it runs, never lengthened.
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
	if d = max(d, minGrace); time.Now().Add(d).Before(g.end) {
		g.end = time.Now().Add(d)
		g.timer.Reset(d)
	}
}

func (g *grace) stop() { g.timer.Stop(); g.cancel() }

// minGrace is what a process gets at least after its stop signal.
const minGrace = time.Second

// gracePeriod is the pod's: what its deletion asks for, else what its spec says.
func gracePeriod(pod *corev1.Pod) time.Duration {
	seconds := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if len(pod.Spec.Containers) == 0 {
		seconds = 1 // nothing is known of it any more
	}
	if s := pod.Spec.TerminationGracePeriodSeconds; s != nil {
		seconds = *s
	}
	if s := pod.DeletionGracePeriodSeconds; pod.DeletionTimestamp != nil && s != nil {
		seconds = *s
	}
	return max(time.Duration(seconds)*time.Second, minGrace)
}

// terminate stops everything of the pod and frees what it holds, except for exited containers.
func (w *worker) terminate(ctx context.Context) error {
	w.mu.Lock()
	pod := w.pod
	g := newGrace(ctx, gracePeriod(pod))
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

	done := make(chan error, 1)
	begun, seen := pod, o
	go func() { done <- w.killAll(ctx, g, begun, seen) }()
	for running := true; running; {
		select {
		case err = <-done:
			running = false
		case <-w.wake:
		}
		w.mu.Lock()
		pod = w.pod
		w.mu.Unlock()
		if o, lerr := w.look(context.WithoutCancel(ctx)); lerr == nil {
			w.publish(pod, o)
		}
	}
	if err != nil {
		return err
	}
	w.probes.stopAll()
	w.stopped = true
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
	if o, err = w.look(ctx); err != nil {
		return err
	}
	w.ready = false
	w.stage = terminated
	w.publish(pod, o)
	return nil
}

// killAll stops the regular containers together, then the sidecars, last started first.
func (w *worker) killAll(ctx context.Context, g *grace, pod *corev1.Pod, o observed) error {
	sidecar := map[string]bool{}
	for i := range pod.Spec.InitContainers {
		sidecar[pod.Spec.InitContainers[i].Name] = isSidecar(&pod.Spec.InitContainers[i])
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	stop := func(c runtime.Container) {
		spec := specOf(pod, c.Name)
		if err := w.stopContainer(ctx, g.ctx, pod, spec, c, "Stopping container "+c.Name); err != nil {
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
		}
	}
	for name, attempts := range o.byName {
		for _, c := range attempts {
			if c.State == runtime.StateRunning && !sidecar[name] {
				wg.Go(func() { stop(c) })
			}
		}
	}
	wg.Wait()
	for i := len(pod.Spec.InitContainers) - 1; i >= 0; i-- {
		for _, c := range o.byName[pod.Spec.InitContainers[i].Name] {
			if c.State == runtime.StateRunning && sidecar[c.Name] {
				stop(c)
			}
		}
	}
	return errors.Join(errs...)
}

func specOf(pod *corev1.Pod, name string) *corev1.Container {
	for _, l := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range l {
			if l[i].Name == name {
				return &l[i]
			}
		}
	}
	return nil
}

// killForRestart stops one container of a living pod.
func (w *worker) killForRestart(ctx context.Context, pod *corev1.Pod, k kill) {
	period := gracePeriod(pod)
	if k.probe != nil && k.probe.TerminationGracePeriodSeconds != nil {
		period = max(time.Duration(*k.probe.TerminationGracePeriodSeconds)*time.Second, minGrace)
	}
	c, err := w.m.c.Runtime.Container(ctx, k.id)
	if err != nil || c.State != runtime.StateRunning {
		return
	}
	g := newGrace(ctx, period)
	defer g.stop()
	if err := w.stopContainer(ctx, g.ctx, pod, k.container, c, k.message); err != nil && ctx.Err() == nil {
		w.log.Warn("stopping container", "container", k.container.Name, "err", err)
	}
}

// stopContainer ends one container: hook, stop signal, and when the grace is over the kill. spec may be nil.
func (w *worker) stopContainer(ctx, graceCtx context.Context, pod *corev1.Pod, spec *corev1.Container, c runtime.Container, message string) error {
	rt := w.m.c.Runtime
	if spec != nil {
		w.containerEvent(pod, spec, corev1.EventTypeNormal, "Killing", message)
	}
	// Watch from before the signal, so that the exit cannot be missed.
	ectx, cancel := context.WithCancel(ctx)
	defer cancel()
	events := rt.Events(ectx)
	if spec != nil && spec.Lifecycle != nil && spec.Lifecycle.PreStop != nil {
		if err := w.hook(graceCtx, pod, spec, c.ID, spec.Lifecycle.PreStop); err != nil {
			w.log.Info("preStop hook failed", "container", spec.Name, "err", err)
			w.containerEvent(pod, spec, corev1.EventTypeWarning, "FailedPreStopHook", "PreStopHook failed")
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
	tick := time.NewTicker(time.Second) // a net below the events
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
