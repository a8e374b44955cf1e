package scheduler

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/scheduler/framework"
	"github.com/kontiki/kontiki/scheduler/queue"
)

// decision is the result for a pod: a node, or why there is none.
type decision struct {
	entry      *queue.Entry
	pod        *framework.PodInfo
	node       *framework.NodeInfo
	evaluation *framework.Evaluation
	refusal    *framework.Refusal
	// nomination is the room that can be made for the pod.
	nomination *framework.Nomination
	began      time.Time
	// failure is an internal error that prevented a decision.
	failure string
	// held are the filters that have taken something for the pod.
	held []framework.Reserver
}

// hold takes what the pod needs on its node. It returns why that is not possible, and then nothing is held.
func (d *decision) hold() *framework.Status {
	for _, r := range d.evaluation.Reservers() {
		if status := r.Reserve(d.node); status != nil {
			d.letGo()
			return status
		}
		d.held = append(d.held, r)
	}
	return nil
}

// letGo gives back what is held.
func (d *decision) letGo() {
	unreserve(d.held)
	d.held = nil
}

// scheduleOne takes one pod from the queue and decides about it; it returns false if the queue is empty.
func (s *Scheduler) scheduleOne(ctx context.Context) bool {
	next := s.queue.Pop()
	if next == nil {
		return false
	}
	if until := s.searchPaused(next.Pod); !until.IsZero() {
		s.queue.Hold(next, until)
		if next.Attempts == 0 { // otherwise its condition says what its last attempt lacked
			s.reporter.add(report{pod: next.Pod.Pod, reason: corev1.PodReasonSchedulerError, message: searchesPaused})
		}
		return true
	}
	if key, ok := framework.GangOf(next.Pod.Pod); ok && s.gangs[key] != nil {
		s.scheduleGang(ctx, next, s.gangs[key])
		return true
	}
	d := s.decideOn(next)
	switch {
	case d.failure != "":
		s.queue.Retry(d.entry, s.now())
		s.reporter.report(d.pod, corev1.PodReasonSchedulerError, d.failure, nil)
	case d.node != nil:
		s.assume(ctx, d)
	default:
		s.queue.Refused(d.entry, d.refusal.Plugins(), s.now())
		s.refuse(ctx, d)
	}
	return true
}

// refuse reports why a pod fits nowhere, and makes room for it if there is a way.
func (s *Scheduler) refuse(ctx context.Context, d *decision) {
	n := d.nomination
	switch {
	case n != nil && n.Node != "":
		s.preempt(ctx, d)
	case n != nil && n.Do != nil:
		s.reporter.report(d.pod, corev1.PodReasonUnschedulable, d.refusal.Message(), nil)
		s.help(ctx, d)
	case n != nil && n.Hopeless && s.cluster.NominatedNode(d.pod.UID) != "":
		s.withdraw(d.pod.Pod)
		none := ""
		s.reporter.report(d.pod, corev1.PodReasonUnschedulable, d.refusal.Message(), &none)
	default:
		s.reporter.report(d.pod, corev1.PodReasonUnschedulable, d.refusal.Message(), nil)
	}
}

// help carries out what a PostFilterPlugin found, and then tries the pod again.
func (s *Scheduler) help(ctx context.Context, d *decision) {
	s.writes.Go(func() {
		if err := contain.Run(func() error { return d.nomination.Do(ctx) }); err != nil {
			s.Log.Warn("making a pod schedulable failed, trying again later", "pod", d.pod.Namespace+"/"+d.pod.Name, "error", err, "stack", contain.Stack(err))
		}
		s.inbox.post(func() {
			d.nomination.Done()
			if s.queue.Waits(d.pod.UID) {
				s.queue.Retry(s.queue.Get(d.pod.UID), s.now())
			}
		})
	})
}

// decideOn finds a node for a pod.
func (s *Scheduler) decideOn(next *queue.Entry) *decision {
	d := &decision{entry: next, pod: next.Pod, began: time.Now()}
	began := s.now()
	err := contain.Run(func() error {
		s.place(d)
		return nil
	})
	if err != nil {
		s.Log.Error("placing a pod panicked, trying again later", "pod", d.pod.Namespace+"/"+d.pod.Name, "error", err, "stack", contain.Stack(err))
		d.failure, d.node, d.refusal = "the scheduler failed on this pod; it is tried again", nil, nil
		s.cluster.Invalidate() // an evaluation may have been left half-way
	}
	next.Took = s.chargeSearch(d.pod, began)
	switch {
	case d.failure != "":
		s.Metrics.tried(failed, d.pod.Spec.SchedulerName, d.began)
	case d.node == nil:
		s.Metrics.tried(unschedulable, d.pod.Spec.SchedulerName, d.began)
	}
	return d
}

// place finds the best node for a pod.
func (s *Scheduler) place(d *decision) {
	d.evaluation = s.evaluation(d.pod)
	if n := s.cluster.Node(s.cluster.NominatedNode(d.pod.UID)); n != nil && d.evaluation.Passes(d.pod, n) {
		d.node = n // room was made for it there
		return
	}
	node, refusal := d.evaluation.Choose(d.pod)
	if refusal == nil {
		d.node = node
		return
	}
	if failed := refusal.Failure(); failed != nil {
		d.failure = "running plugin \"" + failed.Plugin + "\": " + failed.Message()
		return
	}
	d.refusal = refusal
	if _, inGang := framework.GangOf(d.pod.Pod); inGang || refusal.Nodes == 0 || s.preempting[d.pod.UID] {
		return // room is made for a whole gang only
	}
	for _, plugin := range s.profiles[d.pod.Spec.SchedulerName].PostFilters {
		s.Metrics.preempting.Inc()
		if d.nomination = plugin.PostFilter(s.cluster, d.pod, d.evaluation, refusal); d.nomination != nil {
			refusal.Added = d.nomination.Message
			return
		}
	}
}

// evaluation returns an evaluation of a pod that is up to date: that of another pod of its template, if there is one.
func (s *Scheduler) evaluation(p *framework.PodInfo) *framework.Evaluation {
	return s.kept.Evaluation(s.cluster, s.profiles[p.Spec.SchedulerName], p)
}
