package pods

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/probe"
	"github.com/kontiki/kontiki/node/runtime"
)

type probeKind uint8

const (
	liveness probeKind = iota
	readiness
	startup
)

func (k probeKind) title() string { return [...]string{"Liveness", "Readiness", "Startup"}[k] }

// prober runs the probes of one pod: one goroutine for each container and kind of probe, while the container is running.
type prober struct {
	w    *worker
	mu   sync.Mutex
	runs map[probeKey]*probeRun
	// earlier holds what a previous agent last reported of containers that are still running. It applies until the first result of a
	// probe, so that a restart of the agent makes no pod unready.
	earlier map[probeKey]verdict
	wg      sync.WaitGroup
	done    bool
	// fatalOff means that liveness and startup probes are ignored: the pod is stopping.
	fatalOff bool
}

type probeKey struct {
	id   string
	kind probeKind
}

type probeRun struct {
	cancel context.CancelFunc
	result verdict
}

// newProber makes the prober of a pod with the status that its object has.
func newProber(w *worker, s *corev1.PodStatus) *prober {
	p := &prober{w: w, runs: map[probeKey]*probeRun{}, earlier: map[probeKey]verdict{}}
	for _, list := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses} {
		for i := range list {
			c := &list[i]
			id, ok := strings.CutPrefix(c.ContainerID, containerIDPrefix)
			if !ok {
				continue
			}
			if c.Ready {
				p.earlier[probeKey{id, readiness}] = probeSuccess
			}
			if c.Started != nil && *c.Started {
				p.earlier[probeKey{id, startup}] = probeSuccess
			}
		}
	}
	return p
}

// results sets the probes' results so far.
func (p *prober) results(o *observed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o.liveness, o.readiness, o.startup = map[string]verdict{}, map[string]verdict{}, map[string]verdict{}
	set := func(k probeKey, v verdict) {
		switch k.kind {
		case liveness:
			o.liveness[k.id] = v
		case readiness:
			o.readiness[k.id] = v
		case startup:
			o.startup[k.id] = v
		}
	}
	for k, v := range p.earlier {
		set(k, v)
	}
	for k, r := range p.runs {
		set(k, r.result)
	}
}

// ensure starts the probes of running containers and forgets those of others.
func (p *prober) ensure(pod *corev1.Pod, o observed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.done {
		return
	}
	alive := map[string]bool{}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; isSidecar(c) {
			p.ensureOne(pod, o, c, alive)
		}
	}
	for i := range pod.Spec.Containers {
		p.ensureOne(pod, o, &pod.Spec.Containers[i], alive)
	}
	for k, r := range p.runs {
		if !alive[k.id] {
			r.cancel()
			delete(p.runs, k)
		}
	}
}

func (p *prober) ensureOne(pod *corev1.Pod, o observed, c *corev1.Container, alive map[string]bool) {
	l := o.latest(c.Name)
	if l == nil || l.State != runtime.StateRunning {
		return
	}
	alive[l.ID] = true
	begin := func(kind probeKind, spec *corev1.Probe) {
		key := probeKey{l.ID, kind}
		if spec == nil || p.runs[key] != nil || p.fatalOff && kind != readiness {
			return
		}
		ctx, cancel := context.WithCancel(context.Background())
		r := &probeRun{cancel: cancel, result: p.earlier[key]}
		p.runs[key] = r
		p.wg.Go(func() {
			if err := contain.Run(func() error { p.loop(ctx, pod, c, *l, kind, spec, r); return nil }); err != nil {
				p.w.log.Error("probing a container", "container", c.Name, "err", err, "stack", contain.Stack(err))
			}
		})
	}
	begin(startup, c.StartupProbe)
	begin(liveness, c.LivenessProbe)
	begin(readiness, c.ReadinessProbe)
}

func (w *worker) oldStatus(name string) *corev1.ContainerStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := podspec.ContainerStatus(&w.status, name); s != nil {
		c := *s
		return &c
	}
	return nil
}

func (p *prober) set(r *probeRun, v verdict) {
	p.mu.Lock()
	changed := r.result != v
	r.result = v
	p.mu.Unlock()
	if changed {
		p.w.poke()
	}
}

// hasStarted says whether the container has passed its startup probe.
func (p *prober) hasStarted(c *corev1.Container, id string) bool {
	if c.StartupProbe == nil {
		return true
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.runs[probeKey{id, startup}]
	return r != nil && r.result == probeSuccess
}

// loop probes one container until ctx ends, or until the verdict is final.
func (p *prober) loop(ctx context.Context, pod *corev1.Pod, c *corev1.Container, l runtime.Container, kind probeKind, spec *corev1.Probe, r *probeRun) {
	period := time.Duration(max(spec.PeriodSeconds, 1)) * time.Second
	if kind == startup && r.result == probeSuccess {
		return
	}
	wait := time.Until(l.StartedAt.Add(time.Duration(spec.InitialDelaySeconds) * time.Second))
	if p.w.m.foundRunning(&l) { // spread out the probes after a restart of the agent
		wait = max(wait, rand.N(period))
	}
	timer := time.NewTimer(max(wait, 0))
	defer timer.Stop()
	run, last := 0, verdict(probeUnknown)
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if kind != startup && !p.hasStarted(c, l.ID) {
			timer.Reset(min(period, 100*time.Millisecond))
			continue
		}
		v, ok := p.once(ctx, pod, c, l, kind, spec)
		if ctx.Err() != nil {
			return
		}
		if ok {
			if v == last {
				run++
			} else {
				last, run = v, 1
			}
			need := max(spec.SuccessThreshold, 1)
			if v == probeFailure {
				need = max(spec.FailureThreshold, 1)
			}
			if run >= int(need) {
				p.set(r, v)
				if kind == startup || kind == liveness && v == probeFailure {
					return
				}
			}
		}
		timer.Reset(period)
	}
}

// once probes, up to three times if the probe itself could not be run.
func (p *prober) once(ctx context.Context, pod *corev1.Pod, c *corev1.Container, l runtime.Container, kind probeKind, spec *corev1.Probe) (verdict, bool) {
	var res probe.Result
	var msg string
	var err error
	began := time.Now()
	for range 3 {
		res, msg, err = probe.Run(ctx, spec, probe.Target{Container: c, PodIP: p.w.podIP(), Exec: p.w.execIn(l.ID)})
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	if ctx.Err() != nil {
		return 0, false
	}
	result := "successful"
	switch {
	case err != nil:
		result = "unknown"
	case res == probe.Failure:
		result = "failed"
	}
	p.w.m.probed.count(pod, c.Name, kind, result, time.Since(began))
	if err != nil {
		if now, cerr := p.w.m.c.Runtime.Container(ctx, l.ID); cerr == nil && now.State == runtime.StateRunning {
			p.w.containerEvent(pod, c, corev1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe errored and resulted in %s state: %s", kind.title(), res, err))
		}
		return 0, false
	}
	switch res {
	case probe.Warning:
		p.w.containerEvent(pod, c, corev1.EventTypeWarning, "ProbeWarning", fmt.Sprintf("%s probe warning: %s", kind.title(), msg))
		return probeSuccess, true
	case probe.Failure:
		p.w.containerEvent(pod, c, corev1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe failed: %s", kind.title(), msg))
		return probeFailure, true
	}
	return probeSuccess, true
}

// stopFatal ends liveness and startup probes because the pod is stopping. Readiness probes continue to the end.
func (p *prober) stopFatal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fatalOff = true
	for k, r := range p.runs {
		if k.kind == readiness {
			continue
		}
		r.cancel()
		if k.kind == liveness {
			delete(p.runs, k)
		}
	}
}

// stopAll ends all probes and waits for them.
func (p *prober) stopAll() {
	p.mu.Lock()
	p.done = true
	for _, r := range p.runs {
		r.cancel()
	}
	p.mu.Unlock()
	p.wg.Wait()
	p.w.m.probed.forget(p.w.uid)
}
