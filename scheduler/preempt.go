package scheduler

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// evictions limits the victims of one preemption that are deleted at the same time.
const evictions = 16

// preempt makes room for a pod, in a goroutine of its own: the decisions for other pods go on. The pod is nominated to run on the node
// at once, so that no other of its priority or a lower one takes the room.
func (s *Scheduler) preempt(ctx context.Context, d *decision) {
	node := d.nomination.Node
	s.yield(d.pod, node)
	s.cluster.Nominate(d.pod, node)
	s.preempting[d.pod.UID]++
	s.reporter.note(d.pod, d.refusal.Message())
	r := report{d.pod.Pod, corev1.PodReasonUnschedulable, d.refusal.Message(), &node}
	victims := d.nomination.Victims
	s.writes.Go(func() {
		err := contain.Run(func() error { return s.evict(ctx, r, victims) })
		s.inbox.post(func() { s.evicted(ctx, d.pod, err) })
	})
}

// yield withdraws the nominations of pods of lower priority, which may not fit on the node any more. They look for another place.
func (s *Scheduler) yield(p *framework.PodInfo, node string) {
	for _, other := range append([]*framework.PodInfo(nil), s.cluster.Nominated[node]...) {
		if corehelpers.PodPriority(other.Pod) >= corehelpers.PodPriority(p.Pod) {
			continue
		}
		s.cluster.Nominate(other, "")
		none := ""
		s.reporter.add(report{pod: other.Pod, nominated: &none})
		s.queue.Activate(other.UID)
	}
}

// evict writes where the pod is nominated, and then deletes the victims: if the leader fails in between, the next one knows whom the
// room is for.
func (s *Scheduler) evict(ctx context.Context, r report, victims []*framework.PodInfo) error {
	if err := s.reporter.write(ctx, r); err != nil {
		return err
	}
	if current, ok := client.Get[*corev1.Pod](s.Client.View(), r.pod.Namespace, r.pod.Name); !ok || current.UID != r.pod.UID || current.DeletionTimestamp != nil {
		return nil // nobody needs the room any more
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(evictions)
	for _, victim := range victims {
		if victim.DeletionTimestamp == nil {
			group.Go(func() error { return contain.Run(func() error { return s.evictOne(ctx, r.pod, *r.nominated, victim) }) })
		}
	}
	return group.Wait()
}

func (s *Scheduler) evictOne(ctx context.Context, preemptor *corev1.Pod, node string, victim *framework.PodInfo) error {
	const attempts = 3 // the node writes the pod too
	for attempt := 1; ; attempt++ {
		current, ok := client.Get[*corev1.Pod](s.Client.View(), victim.Namespace, victim.Name)
		if !ok || current.UID != victim.UID || current.DeletionTimestamp != nil {
			return nil
		}
		updated := current.DeepCopy()
		client.SetPodCondition(updated, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
			Message:            fmt.Sprintf("%s: preempting to accommodate a higher priority pod", preemptor.Spec.SchedulerName),
			LastTransitionTime: metav1.Now(), ObservedGeneration: updated.Generation,
		})
		_, err := client.UpdateStatus(ctx, s.Client, updated)
		if err == nil {
			break
		}
		if apierrors.IsNotFound(err) {
			return nil
		}
		if !apierrors.IsConflict(err) || attempt == attempts {
			return fmt.Errorf("condition of pod %s/%s: %w", victim.Namespace, victim.Name, err)
		}
	}
	switch err := s.Client.Delete(ctx, victim.Pod, client.IfUID(victim.UID)); {
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err):
		return nil // it is gone, or another pod has its name
	case err != nil:
		return fmt.Errorf("delete pod %s/%s: %w", victim.Namespace, victim.Name, err)
	}
	s.Recorder.Eventf(victim.Pod, corev1.EventTypeNormal, "Preempted", "Preempted by pod %v on node %v", preemptor.UID, node)
	return nil
}

// evicted ends a preemption. If it failed, there may be no event that wakes the pod, so it is tried again.
func (s *Scheduler) evicted(ctx context.Context, p *framework.PodInfo, err error) {
	if s.preempting[p.UID]--; s.preempting[p.UID] <= 0 {
		delete(s.preempting, p.UID)
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	s.Log.Warn("preemption failed, trying again", "pod", p.Namespace+"/"+p.Name, "error", err, "stack", contain.Stack(err))
	s.queue.Activate(p.UID)
}
