package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/timeline"
	"github.com/kontiki/kontiki/scheduler/framework"
	"github.com/kontiki/kontiki/scheduler/queue"
)

const (
	// bindingWorkers write bindings: while one waits for its command, another collects and prepares the next.
	bindingWorkers = 2
	// mostInBatch limits the bindings of a command. A larger batch would make its pods wait longer for each other than it saves.
	mostInBatch = 128
	// bindingTimeout limits a command. A scheduler that ends waits for its commands: the next one must see their outcome, or it would
	// give the room away again.
	bindingTimeout = 30 * time.Second
	// mostUnbound limits the assumed pods that are not bound, so that decisions do not get far ahead of what can be written.
	mostUnbound = 2048
)

// assumption is a pod that was placed, and whose binding has not been confirmed.
type assumption struct {
	entry     *queue.Entry
	pod       *framework.PodInfo
	node      string
	reservers []framework.Reserver
	// began is when it was decided about, waited how long it had waited for that since it could first be tried.
	began  time.Time
	waited time.Duration
	placed time.Time             // when a node had been chosen
	before []framework.PreBinder // what is done before the binding
	// cancel ends what is done before the binding.
	cancel context.CancelFunc
}

// assume places a pod and starts its binding.
func (s *Scheduler) assume(ctx context.Context, d *decision) {
	a := s.reserve(d)
	if a == nil {
		return
	}
	if len(a.before) > 0 {
		ctx, a.cancel = context.WithCancel(ctx)
	}
	s.binder.start(ctx, a)
}

// reserve places a pod. It returns nil if something that the pod needs cannot be reserved; then the pod is tried again later.
func (s *Scheduler) reserve(d *decision) *assumption {
	a := &assumption{
		entry: d.entry, pod: d.pod, node: d.node.Name, before: d.evaluation.PreBinders(), cancel: func() {}, began: d.began, waited: s.now().Sub(d.entry.Ready), placed: s.now(),
	}
	if d.held == nil { // those of a gang hold it since they were decided about
		if status := d.hold(); status != nil {
			s.queue.Retry(d.entry, s.now())
			s.reporter.report(d.pod, corev1.PodReasonSchedulerError, notReserved(status), nil)
			return nil
		}
	}
	a.reservers = d.held
	s.cluster.Place(a.pod, a.node)
	s.cluster.Nominate(a.pod, "")
	s.assumed[a.pod.UID] = a
	s.queue.Remove(a.pod.UID)
	s.leaveGang(a.pod.Pod, true)
	return a
}

func notReserved(s *framework.Status) string {
	return fmt.Sprintf("running Reserve plugin %q: %s", s.Plugin, s.Message())
}

func unreserve(reservers []framework.Reserver) {
	for i := len(reservers) - 1; i >= 0; i-- {
		reservers[i].Unreserve()
	}
}

// undo takes back what was written before a binding that failed.
func (b *binder) undo(ctx context.Context, a *assumption) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bindingTimeout)
	defer cancel()
	for _, p := range a.before {
		undoer, ok := p.(framework.Undoer)
		if !ok {
			continue
		}
		if err := contain.Run(func() error { return undoer.Undo(ctx) }); err != nil {
			b.s.Log.Warn("what was written before a binding that failed could not be taken back", "pod", a.pod.Namespace+"/"+a.pod.Name, "error", err, "stack", contain.Stack(err))
		}
	}
}

// failed undoes bindings that failed, and tells the loop of all at once: it must not see a part of a gang.
func (b *binder) failed(ctx context.Context, members []*assumption, err error) {
	tell := func() {
		b.s.inbox.post(func() { b.s.unbound(members, err) })
	}
	if !slices.ContainsFunc(members, func(a *assumption) bool { return len(a.before) > 0 }) {
		tell()
		return
	}
	b.s.writes.Go(func() {
		for _, a := range members {
			b.undo(ctx, a)
		}
		tell()
	})
}

// binder writes bindings in batches.
type binder struct {
	s *Scheduler

	mu      sync.Mutex
	pending []*assumption
	units   []*together
	unbound int // those that were added and are not finished
	more    chan struct{}
}

func newBinder(s *Scheduler) *binder { return &binder{s: s, more: make(chan struct{}, bindingWorkers)} }

// hasRoom says whether more pods may be placed now. When that changes, the loop is woken.
func (b *binder) hasRoom() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.unbound < mostUnbound
}

// start binds a pod, after what is to be done before.
func (b *binder) start(ctx context.Context, a *assumption) {
	if len(a.before) > 0 {
		b.prepare(ctx, a)
		return
	}
	b.add(a)
}

func (b *binder) add(a *assumption) {
	b.mu.Lock()
	b.unbound++
	b.pending = append(b.pending, a)
	b.mu.Unlock()
	b.wake()
}

// together are pods that are bound with one command, or not at all.
type together struct {
	gang    framework.GangKey
	members []*assumption
	// after are pods that are bound one by one once the others are, or not at all.
	after  []*assumption
	broken bool
}

var errGangTooLarge = fmt.Errorf("its pods are together larger than one command may be (%d MiB); make the pods or the gang smaller", kv.MaxCommandBytes>>20)

func (u *together) all() []*assumption { return slices.Concat(u.members, u.after) }

// addTogether does what is to be done before, and then binds the pods with one command.
func (b *binder) addTogether(ctx context.Context, unit *together) {
	b.mu.Lock()
	b.unbound += len(unit.members) + len(unit.after)
	b.mu.Unlock()
	b.s.writes.Go(func() {
		err := contain.Run(func() error {
			group, ctx := errgroup.WithContext(ctx)
			for _, a := range unit.members {
				for _, p := range a.before {
					group.Go(func() error { return contain.Run(func() error { return p.PreBind(ctx, a.node) }) })
				}
			}
			return group.Wait()
		})
		if err != nil {
			b.finish(ctx, unit.all(), err)
			return
		}
		b.mu.Lock()
		b.units = append(b.units, unit)
		b.mu.Unlock()
		b.wake()
	})
}

// finish ends the bindings of pods, and tells the loop if they failed.
func (b *binder) finish(ctx context.Context, members []*assumption, err error) {
	b.mu.Lock()
	b.unbound -= len(members)
	b.mu.Unlock()
	if err != nil {
		b.failed(ctx, members, err)
	}
	b.s.inbox.wake()
}

func (b *binder) takeUnit() *together {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.units) == 0 {
		return nil
	}
	unit := b.units[0]
	b.units = b.units[1:]
	return unit
}

func (b *binder) wake() {
	select {
	case b.more <- struct{}{}:
	default:
	}
}

func (b *binder) take() []*assumption {
	b.mu.Lock()
	defer b.mu.Unlock()
	n := min(len(b.pending), mostInBatch)
	batch := b.pending[:n:n]
	if b.pending = b.pending[n:]; len(b.pending) > 0 {
		b.wake()
	} else {
		b.pending = nil
	}
	return batch
}

// prepare does what is to be done before a pod is bound, in a goroutine of its own, since it may take long.
func (b *binder) prepare(ctx context.Context, a *assumption) {
	b.s.writes.Go(func() {
		err := contain.Run(func() error {
			for _, p := range a.before {
				if err := p.PreBind(ctx, a.node); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			b.failed(ctx, []*assumption{a}, err)
			return
		}
		b.add(a)
	})
}

// run writes batches until the context ends.
func (b *binder) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-b.more:
		}
		for unit := b.takeUnit(); unit != nil; unit = b.takeUnit() {
			b.bindTogether(ctx, unit)
		}
		if batch := b.take(); len(batch) > 0 {
			b.bind(ctx, batch)
			b.finish(ctx, batch, nil)
		}
	}
}

func bindingsOf(batch []*assumption) []client.Binding {
	bindings := make([]client.Binding, len(batch))
	for i, a := range batch {
		bindings[i] = client.Binding{Pod: a.pod.Pod, Node: a.node}
	}
	return bindings
}

func (b *binder) bindTogether(ctx context.Context, unit *together) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), bindingTimeout)
	defer cancel()
	err := contain.Run(func() error { return b.s.Client.BindTogether(limited, bindingsOf(unit.members)) })
	if apierrors.IsRequestEntityTooLargeError(err) {
		err = fmt.Errorf("gang %q: %w", unit.gang.Name, errGangTooLarge)
	}
	if err == nil {
		for _, a := range unit.members {
			b.s.recordBound(a)
		}
		for _, a := range unit.after {
			b.start(ctx, a)
		}
		b.s.inbox.post(func() { b.s.gangBound(unit.gang) })
	}
	b.finish(ctx, unit.all(), err)
}

func (s *Scheduler) recordBound(a *assumption) {
	s.Metrics.bound(a.entry, a.pod.Spec.SchedulerName, a.began, a.waited+time.Since(a.began))
	s.note(a)
	s.Recorder.Eventf(a.pod.Pod, corev1.EventTypeNormal, "Scheduled", "Successfully assigned %s/%s to %s", a.pod.Namespace, a.pod.Name, a.node)
}

// note keeps the steps of a pod that was bound.
func (s *Scheduler) note(a *assumption) {
	if s.Timeline == nil {
		return
	}
	pod, attempts := timeline.PodOf(a.pod.Pod), ""
	if a.entry.Attempts > 1 {
		attempts = fmt.Sprintf("%d attempts", a.entry.Attempts)
	}
	s.Timeline.Add(pod, timeline.Step{Name: timeline.Queue, Began: a.entry.Ready, Ended: a.began, Detail: attempts})
	s.Timeline.Add(pod, timeline.Step{Name: timeline.Schedule, Began: a.began, Ended: a.placed})
	s.Timeline.Add(pod, timeline.Since(timeline.Bind, "", a.placed, "to "+a.node, nil))
}

func (b *binder) bind(ctx context.Context, batch []*assumption) {
	var errs []error
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bindingTimeout)
	defer cancel()
	err := contain.Run(func() error {
		errs = b.s.Client.BindAll(ctx, bindingsOf(batch))
		return nil
	})
	for i, a := range batch {
		failure := err
		if failure == nil {
			failure = errs[i]
		}
		if failure == nil {
			b.s.recordBound(a)
			continue
		}
		b.failed(ctx, []*assumption{a}, failure)
	}
}

// unbound undoes assumptions whose binding failed: that of a pod, or those of a gang.
func (s *Scheduler) unbound(members []*assumption, failure error) {
	again := 0
	for _, a := range members {
		if s.putBack(a, failure) {
			again++
		}
	}
	first := members[0]
	key, _ := framework.GangOf(first.pod.Pod)
	switch {
	case again == 0:
		s.gangBound(key) // or gone
	case len(members) == 1:
		s.Log.Warn("binding failed, scheduling again", "pod", first.pod.Namespace+"/"+first.pod.Name, "node", first.node, "error", failure, "stack", contain.Stack(failure))
	default:
		s.Log.Warn("binding a gang failed, scheduling again", "gang", key.Namespace+"/"+key.Name, "pods", again, "error", failure, "stack", contain.Stack(failure))
	}
}

// putBack undoes an assumption. The pod is scheduled again later, unless it is gone or already bound; it returns whether it is.
func (s *Scheduler) putBack(a *assumption, failure error) bool {
	unreserve(a.reservers)
	if s.assumed[a.pod.UID] != a {
		return false // it was confirmed or removed meanwhile
	}
	current, ok := client.Get[*corev1.Pod](s.Client.View(), a.pod.Namespace, a.pod.Name)
	if ok && current.UID == a.pod.UID && current.Spec.NodeName != "" {
		return false // its event replaces the assumption
	}
	s.unplace(a.pod.Pod)
	if !ok || current.UID != a.pod.UID || !s.ours(current) {
		s.leaveGang(a.pod.Pod, false)
		return false
	}
	s.Metrics.tried(failed, a.pod.Spec.SchedulerName, a.began)
	a.entry.Pod = framework.NewPodInfo(current)
	s.reportUnbound(a.entry.Pod, failure)
	if node := current.Status.NominatedNodeName; node != "" {
		s.cluster.Nominate(a.entry.Pod, node)
	}
	if gated := s.gate(a.entry.Pod); gated != nil {
		s.queue.Add(a.entry.Pod, gated, s.now())
	} else {
		a.entry.Took = 0 // it found a place
		s.queue.Retry(a.entry, s.now())
	}
	return true
}

// reportUnbound reports that a pod could not be bound. A gang that is too large to be bound at once stays so: its pods say it in their conditions.
func (s *Scheduler) reportUnbound(p *framework.PodInfo, failure error) {
	message := fmt.Sprintf("binding rejected: %v", failure)
	if errors.Is(failure, errGangTooLarge) {
		message = failure.Error()
		s.reporter.report(p, corev1.PodReasonSchedulerError, message, nil)
	} else {
		s.reporter.note(p, message)
	}
	if g := s.gangs.of(p.Pod); g != nil {
		g.why = message
	}
}
