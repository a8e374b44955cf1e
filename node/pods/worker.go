package pods

import (
	"context"
	"log/slog"
	"maps"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/resources"
	"github.com/kontiki/kontiki/node/runtime"
)

type stage uint8

const (
	syncing stage = iota
	terminating
	terminated
)

// worker runs one pod. The fields below "owned" are used only by its goroutine.
type worker struct {
	m         *Manager
	uid       types.UID
	namespace string
	wake      chan struct{}
	log       *slog.Logger

	mu         sync.Mutex
	pod        *corev1.Pod           // with the allocated resources
	desired    *corev1.Pod           // as the API has it
	alloc      *resources.Allocation // nil before it is admitted
	removed    bool
	readded    *corev1.Pod        // assigned again after it was removed
	cancelSync context.CancelFunc // cancels the running sync step when the pod should stop
	stop       *Stop              // why and how it ends, nil while it should run
	grace      *grace             // while it terminates
	// conditions about a resize of the pod, nil if there is none
	pendingResize, doingResize *corev1.PodCondition
	active                     bool          // admitted and not yet without processes: its resources are reserved
	over                       chan struct{} // closed when nothing of the pod uses the node any more, guarded by mu
	status                     corev1.PodStatus
	reported                   bool
	objects                    bool     // objects that the pod may refer to have changed
	retry                      bool     // what setup waits for may exist now
	stale                      []string // volumes to update
	probes                     *prober
	endAt                      time.Time         // before which ending is not tried again after a failure
	mounted                    map[string]string // volumes, once they are mounted
	measuring                  atomic.Bool       // its local storage is being measured
	measured                   atomic.Int64      // duration of the last measurement, in nanoseconds
	unmeasured                 atomic.Int64      // measurements that failed in a row

	// owned
	stage       stage
	seen        time.Time // when this agent was first sent it
	adopted     bool      // a previous agent admitted it
	wasReady    bool
	waits       map[string]waiting
	restarts    backOff
	pulls       backOff
	pulling     map[string]*pullState
	podIPs      []string
	ready       bool // volumes, sandbox and network exist
	endTries    int  // to terminate or to forget, that failed
	setupTries  int
	setupAt     time.Time
	setupBegan  time.Time // the first of these attempts
	volumes     map[string]string
	imageMounts map[string]bool   // volumes whose image is mounted
	storageAt   time.Time         // when its local storage is to be measured
	sandbox     string            // the sandbox's generation
	messages    map[string]string // termination messages by container id
	rejected    bool              // it was not admitted
	refusedAt   time.Time         // when it was first refused
	refusalSaid string
	stopped     bool // everything was stopped permanently
	backOffSaid map[string]time.Time
	lastPull    map[string]pullError
}

func newWorker(m *Manager, pod *corev1.Pod) *worker {
	w := &worker{m: m, over: make(chan struct{}), uid: pod.UID, namespace: pod.Namespace, wake: make(chan struct{}, 1), pod: pod, desired: pod, status: *pod.Status.DeepCopy(),
		log:   slog.With("namespace", pod.Namespace, "pod", pod.Name, "uid", pod.UID),
		waits: map[string]waiting{}, pulling: map[string]*pullState{}, messages: map[string]string{}, backOffSaid: map[string]time.Time{}}
	w.probes = newProber(w, &pod.Status)
	w.seen = time.Now()
	if dir := m.podDir(pod.UID); isDir(dir) { // a previous agent admitted it
		w.adopted = true
		w.active, w.stop = !isTerminal(pod.Status.Phase), loadStop(dir)
		w.findAllocation(dir)
	}
	for _, ip := range pod.Status.PodIPs {
		w.podIPs = append(w.podIPs, ip.IP)
	}
	return w
}

// findAllocation restores what a previous agent granted to the pod.
func (w *worker) findAllocation(dir string) {
	a, err := resources.LoadAllocation(dir)
	if err != nil {
		w.log.Warn("the resources of the pod could not be read from disk", "err", err)
	}
	if a == nil {
		a = resources.Allocate(w.desired)
	}
	w.alloc, w.pod = a, a.Apply(w.desired)
	for i := range w.desired.Status.Conditions {
		switch c := &w.desired.Status.Conditions[i]; c.Type {
		case corev1.PodResizePending:
			w.pendingResize = c
		case corev1.PodResizeInProgress:
			w.doingResize = c
		}
	}
}

// poke makes the worker check its pod. It never blocks.
func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *worker) refresh(objects bool) {
	w.mu.Lock()
	w.objects = w.objects || objects
	w.retry = true
	w.mu.Unlock()
	w.poke()
}

func (w *worker) refreshVolumes(volumes []string) {
	w.markStale(volumes)
	w.poke()
}

func (w *worker) markStale(volumes []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, v := range volumes {
		if !slices.Contains(w.stale, v) {
			w.stale = append(w.stale, v)
		}
	}
}

// update sets a new version of the pod. A version that differs only in the status that this worker reported wakes nothing.
func (w *worker) update(pod *corev1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.removed { // it was removed before: this worker ends the old run first, and then starts a new one
		w.readded = pod
		return
	}
	old := w.desired
	w.setPodLocked(pod)
	if old.Generation == pod.Generation && pod.Generation != 0 && old.DeletionTimestamp.Equal(pod.DeletionTimestamp) &&
		equality.Semantic.DeepEqual(old.DeletionGracePeriodSeconds, pod.DeletionGracePeriodSeconds) &&
		maps.Equal(old.Labels, pod.Labels) && maps.Equal(old.Annotations, pod.Annotations) &&
		equality.Semantic.DeepEqual(foreignConditions(old), foreignConditions(pod)) {
		return
	}
	if !maps.Equal(old.Labels, pod.Labels) || !maps.Equal(old.Annotations, pod.Annotations) {
		w.objects = true // volumes may contain these fields
	}
	if pod.DeletionTimestamp != nil {
		w.endLocked(deletion(pod))
	}
	w.poke()
}

// deletion returns the stop for a deleted pod.
func deletion(pod *corev1.Pod) Stop {
	var s Stop
	if n := pod.DeletionGracePeriodSeconds; n != nil {
		grace := seconds(*n)
		s.Grace = &grace
	}
	return s
}

func (w *worker) reconcile() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.reported {
		return
	}
	theirs, ours := &w.pod.Status, &w.status
	a, b := condition(theirs.Conditions, corev1.PodReady), condition(ours.Conditions, corev1.PodReady)
	if theirs.Phase != ours.Phase || a == nil || b == nil || a.Status != b.Status {
		w.reported = false
		w.poke()
	}
}

func (w *worker) remove() {
	w.mu.Lock()
	w.removed, w.readded = true, nil
	w.endLocked(Stop{})
	w.mu.Unlock()
	w.poke()
}

// object returns the pod with its present status.
func (w *worker) object() *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := *w.pod
	p.Status = w.status
	return &p
}

// run is the worker's goroutine. It returns when ctx ends or nothing of the pod is left.
func (w *worker) run(ctx context.Context) {
	defer w.probes.stopAll()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case <-timer.C:
		}
		next := w.contained(ctx)
		for next == again && ctx.Err() == nil {
			next = w.contained(ctx)
		}
		if next < 0 {
			return
		}
		if next == 0 || next > resync {
			next = resync
		}
		timer.Reset(next)
	}
}

// contained is step, with panics recovered: a panic delays this pod, and does not affect others.
func (w *worker) contained(ctx context.Context) (next time.Duration) {
	err := contain.Run(func() error { next = w.step(ctx); return nil })
	if err != nil {
		w.log.Error("a pod's worker panicked", "err", err, "stack", contain.Stack(err))
		w.event("", corev1.EventTypeWarning, "FailedSync", "error determining status: "+err.Error())
		return afterPanic
	}
	return next
}

// afterPanic is the delay of a pod whose worker panicked.
const afterPanic = 10 * time.Second

// again means that the next step is due at once.
const again = time.Nanosecond

// step does what is to be done now, and returns when to check again; 0 means on the next event, negative that the worker is done.
func (w *worker) step(ctx context.Context) time.Duration {
	if w.wantsResize() {
		w.m.resize()
	}
	w.mu.Lock()
	pod, removed := w.pod, w.removed
	if w.stop == nil && (removed || pod.DeletionTimestamp != nil) {
		w.endLocked(deletion(pod))
	}
	if w.stage == syncing && w.stop != nil {
		w.stage = terminating
	}
	stage, left := w.stage, time.Until(w.endAt)
	sctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if stage == syncing {
		w.cancelSync = cancel
	}
	w.mu.Unlock()

	if stage != syncing && left > 0 {
		return left
	}
	switch stage {
	case syncing:
		var next time.Duration
		if next = w.admit(sctx, pod); next == 0 {
			if w.held(sctx, pod) {
				next = w.hold(sctx, pod)
			} else {
				next = w.sync(sctx, pod)
			}
		}
		w.mu.Lock()
		w.cancelSync = nil
		stopping := w.stop != nil
		w.mu.Unlock()
		if stopping && ctx.Err() == nil {
			return again
		}
		return next
	case terminating:
		if err := w.terminate(ctx); err != nil {
			if ctx.Err() != nil {
				return 0
			}
			delay := w.endFailed()
			w.log.Warn("stopping pod", "err", shorten(err.Error(), maxText), "next", delay)
			w.event("", corev1.EventTypeWarning, "FailedKillPod", "error killing pod: "+err.Error())
			return delay
		}
		w.endTries = 0
		return again
	}
	// Terminated: the status was reported; the containers stay until the pod object is gone.
	if pod.DeletionTimestamp != nil || removed {
		w.report(pod, w.current(), true)
		if err := w.forget(ctx); err != nil {
			if ctx.Err() != nil {
				return 0
			}
			delay := w.endFailed()
			w.log.Warn("removing what is left of pod", "err", shorten(err.Error(), maxText), "next", delay)
			return delay
		}
		w.endTries = 0
		if removed {
			return -1
		}
	}
	return 0
}

// maxEndDelay is the longest time between two attempts to end a pod or to remove what is left of it.
const maxEndDelay = time.Minute

// endFailed counts a failure to end the pod, and returns when to try again: after 1 s, doubled with each failure.
func (w *worker) endFailed() time.Duration {
	delay := min(time.Second<<min(w.endTries, 10), maxEndDelay)
	w.endTries++
	w.mu.Lock()
	defer w.mu.Unlock()
	w.endAt = time.Now().Add(delay)
	return delay
}

func (w *worker) current() corev1.PodStatus {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

func (w *worker) event(fieldPath, kind, reason, message string) {
	w.mu.Lock()
	pod := w.pod
	w.mu.Unlock()
	w.m.c.Sink.Event(Event{Pod: pod, FieldPath: fieldPath, Type: kind, Reason: reason, Message: shorten(message, maxText)})
}

func (w *worker) containerEvent(pod *corev1.Pod, c *corev1.Container, kind, reason, message string) {
	w.event(podspec.FieldPath(pod, c.Name), kind, reason, message)
}

// admit decides once whether the node accepts the pod, and ends a pod that it refuses. It returns 0 for an accepted pod, otherwise
// when to check again.
func (w *worker) admit(ctx context.Context, pod *corev1.Pod) time.Duration {
	w.mu.Lock()
	known := w.active || isTerminal(w.status.Phase)
	w.mu.Unlock()
	if known {
		return 0
	}
	r, wait := w.m.admit(ctx, w, pod)
	if r == nil {
		return 0
	}
	if ctx.Err() != nil { // that is no reason to refuse the pod
		return again
	}
	if said := r.Reason + ": " + r.Message; w.refusalSaid != said {
		w.refusalSaid = said
		w.event("", corev1.EventTypeWarning, r.Reason, r.Message)
	}
	if wait > 0 {
		return wait
	}
	w.rejected = true
	w.end(Stop{Reason: r.Reason, Message: "Pod was rejected: " + r.Message})
	return again
}

// look reads the state of the containers, and the results of the probes.
func (w *worker) look(ctx context.Context) (observed, error) {
	list, err := w.m.c.Runtime.ListContainers(ctx, string(w.uid))
	if err != nil {
		return observed{}, err
	}
	o := observe(list)
	o.sandbox = w.sandbox
	w.mu.Lock()
	o.alloc = w.alloc
	w.mu.Unlock()
	w.probes.results(&o)
	return o, nil
}

// publish computes the status and reports it if it has changed. It returns the status that the pod will have when nothing of it is
// running any more: no terminal phase is reported before that, because others then consider the pod's resources free.
func (w *worker) publish(pod *corev1.Pod, o observed) corev1.PodStatus {
	w.mu.Lock()
	old := w.status
	var stop Stop
	if w.stop != nil {
		stop = *w.stop
	}
	resize := w.resizeConditionsLocked()
	w.mu.Unlock()
	var devices func(string) []corev1.ResourceStatus
	if w.m.c.Hardware != nil {
		devices = func(container string) []corev1.ResourceStatus { return w.m.c.Hardware.Health(pod, container) }
	}
	s := makeStatus(statusInput{devices: devices, pod: pod, old: old, o: o, waits: w.waits, message: func(c runtime.Container) string { return w.terminationMessage(pod, c) },
		hostIP: w.m.c.NodeIP.String(), podIPs: w.podIPs, sandbox: w.ready, terminal: w.stopped, now: metav1.Now().Rfc3339Copy(),
		stop: stop, rejected: w.rejected, readOnly: w.m.features.RecursiveReadOnly, resize: resize})
	shown := s
	if isTerminal(s.Phase) && !isTerminal(old.Phase) && !w.stopped {
		shown.Phase, shown.Reason, shown.Message = old.Phase, old.Reason, old.Message
		if shown.Phase == "" {
			shown.Phase = corev1.PodPending
		}
	}
	w.noteReady(pod, &shown)
	w.report(pod, shown, w.stage == terminated)
	return s
}

func (w *worker) report(pod *corev1.Pod, s corev1.PodStatus, end bool) {
	w.mu.Lock()
	same := w.reported && sameStatus(&w.status, &s)
	w.status, w.reported = s, true
	w.mu.Unlock()
	if !same {
		w.m.changes.Tell()
	}
	if (!same || end) && len(pod.Spec.Containers) > 0 {
		w.m.c.Sink.PodStatus(pod, s, end)
	}
}

// sync brings the pod one step closer to its desired state.
func (w *worker) sync(ctx context.Context, pod *corev1.Pod) time.Duration {
	o, err := w.look(ctx)
	if err != nil {
		w.log.Warn("listing containers", "err", err)
		return time.Second
	}
	var next time.Duration
	if d := pod.Spec.ActiveDeadlineSeconds; d != nil {
		if start := w.current().StartTime; start != nil {
			left := time.Until(start.Add(seconds(*d)))
			if left <= 0 && !isTerminal(w.current().Phase) {
				s := Stop{Reason: "DeadlineExceeded", Message: "Pod was active on the node longer than the specified deadline"}
				w.event("", corev1.EventTypeNormal, s.Reason, s.Message)
				w.end(s)
				return 0
			}
			next = soonest(next, left)
		}
	}
	if restartsAll(pod, o) {
		return w.restartAll(ctx, pod, o)
	}
	w.noteResize(pod, o)
	s := w.publish(pod, o)
	if isTerminal(s.Phase) || onlySidecarsLeft(pod, o) {
		w.end(Stop{})
		return 0
	}
	retry, err := w.setup(ctx, pod)
	next = soonest(next, retry)
	if err != nil {
		if ctx.Err() == nil {
			w.publish(pod, o)
		}
		return next
	}
	if o, err = w.look(ctx); err != nil { // the sandbox is known now
		return time.Second
	}
	w.probes.ensure(pod, o)
	next = soonest(next, w.watchStorage(pod, o))
	a := computeActions(pod, o)
	if len(a.kill) > 0 {
		w.killForRestarts(ctx, pod, a.kill)
	}
	if o.alloc != nil && (len(a.resize) > 0 || !resources.Same(o.alloc.AppliedPod, resources.ForPod(pod))) {
		if retry := w.resizeContainers(ctx, pod, o, a.resize); retry > 0 {
			next = soonest(next, retry)
		} else {
			next = again
		}
		w.mu.Lock()
		o.alloc = w.alloc
		w.mu.Unlock()
	}
	if len(a.kill) == 0 && len(a.start) == 0 && len(a.ephemeral) == 0 {
		w.publish(pod, o)
		return next
	}
	for _, c := range append(a.ephemeral, a.start...) {
		if ctx.Err() != nil {
			return 0
		}
		retry, err := w.start(ctx, pod, c)
		if err != nil && ctx.Err() == nil {
			w.log.Debug("container not started", "container", c.Name, "err", err)
		}
		next = soonest(next, retry)
		if a.init && err != nil && !isSidecar(c) && !slices.Contains(a.ephemeral, c) {
			break
		}
	}
	if ctx.Err() != nil {
		return 0
	}
	if o, err = w.look(ctx); err == nil {
		w.publish(pod, o)
		w.probes.ensure(pod, o)
		w.prune(ctx, pod, o)
		if then := computeActions(pod, o); a.init && len(then.start) > 0 && !then.init {
			return again // the last init container has finished
		}
	}
	return next
}

// killForRestarts stops containers concurrently.
func (w *worker) killForRestarts(ctx context.Context, pod *corev1.Pod, list []kill) {
	w.during(ctx, func() {
		var wg sync.WaitGroup
		for _, k := range list {
			wg.Go(func() {
				if err := contain.Run(func() error { w.killForRestart(ctx, pod, k); return nil }); err != nil {
					w.log.Error("stopping container", "container", k.container.Name, "err", err, "stack", contain.Stack(err))
				}
			})
		}
		wg.Wait()
	})
}

// soonest returns the smaller of two durations, where 0 means none.
func soonest(a, b time.Duration) time.Duration {
	if a <= 0 {
		return b
	}
	if b <= 0 {
		return a
	}
	return min(a, b)
}

// onlySidecarsLeft says whether all regular containers have finished and only sidecars are running.
func onlySidecarsLeft(pod *corev1.Pod, o observed) bool {
	if len(pod.Spec.Containers) == 0 {
		return false
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		l := o.latest(c.Name)
		if l == nil || l.State != runtime.StateExited || shouldRestart(pod, c, l.ExitCode) {
			return false
		}
	}
	return true
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}
