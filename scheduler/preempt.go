package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/types"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/scheduler/framework"
	victims "github.com/kontiki/kontiki/scheduler/preemption"
)

// mostWrites limits the pods of one preemption that are written or deleted at the same time.
const mostWrites = 16

// preemption is what is done to make room for a pod, or for those of a gang. Until it has ended, no other pods are chosen for them.
type preemption struct {
	pods []*framework.PodInfo
	// unseen are the victims whose deletion the loop has not observed: for as long they seem to be there to stay.
	unseen map[types.UID]bool
	// victims are how many there are.
	victims int
	// written means that all writes have ended, err why some have failed.
	written bool
	err     error
}

// eviction is a pod that is deleted for another one, on its node.
type eviction struct {
	victim    *framework.PodInfo
	preemptor *corev1.Pod
	node      string
}

// preempt makes room for a pod. The pod is nominated to run on the node at once, so that no other of its priority or a lower one takes
// the room.
func (s *Scheduler) preempt(ctx context.Context, d *decision) {
	node := d.nomination.Node
	s.yield(d.pod, node)
	s.cluster.Nominate(d.pod, node)
	s.reporter.note(d.pod, d.refusal.Message())
	var evictions []eviction
	for _, victim := range d.nomination.Victims {
		evictions = append(evictions, eviction{victim, d.pod.Pod, node})
	}
	s.carryOut(ctx, []*framework.PodInfo{d.pod}, []report{{d.pod.Pod, corev1.PodReasonUnschedulable, d.refusal.Message(), &node}}, evictions)
}

// carryOut starts a preemption, in a goroutine of its own: the decisions for other pods go on. There is a report for each pod, with the
// node that it is nominated for.
func (s *Scheduler) carryOut(ctx context.Context, pods []*framework.PodInfo, reports []report, evictions []eviction) {
	pr := &preemption{pods: pods, unseen: map[types.UID]bool{}}
	s.preemptions[pr] = true
	for _, p := range pods {
		s.preempting[p.UID] = true
		s.reporter.supersede(p.UID)
	}
	evictions = slices.DeleteFunc(evictions, func(e eviction) bool { return s.cluster.Leaves(e.victim) })
	pr.victims = len(evictions)
	s.Metrics.victims.Observe(float64(pr.victims))
	for _, e := range evictions {
		pr.unseen[e.victim.UID] = true
		s.cluster.Preempted[e.victim.UID] = true
	}
	s.writes.Go(func() {
		stay, err := s.evict(ctx, reports, evictions)
		s.inbox.post(func() {
			for _, uid := range stay {
				delete(pr.unseen, uid)
				delete(s.cluster.Preempted, uid)
			}
			pr.written, pr.err = true, err
			s.endPreemption(pr)
		})
	})
}

// sawLeave notes that a pod is being deleted or gone.
func (s *Scheduler) sawLeave(uid types.UID) {
	delete(s.cluster.Preempted, uid)
	for pr := range s.preemptions {
		if pr.unseen[uid] {
			delete(pr.unseen, uid)
			s.endPreemption(pr)
		}
	}
}

// endPreemption ends a preemption for which nothing is left to do. If it failed, or all victims are gone already, there may be no event
// that wakes the pods, so they are tried again.
func (s *Scheduler) endPreemption(pr *preemption) {
	if !pr.written || len(pr.unseen) > 0 || !s.preemptions[pr] {
		return
	}
	delete(s.preemptions, pr)
	if pr.err != nil {
		p := pr.pods[0]
		s.Log.Warn("preemption failed, trying again", "pod", p.Namespace+"/"+p.Name, "error", pr.err, "stack", contain.Stack(pr.err))
	}
	for _, p := range pr.pods {
		delete(s.preempting, p.UID)
		n := s.cluster.Node(s.cluster.NominatedNode(p.UID))
		if gone := pr.victims > 0 && (n == nil || !victims.AwaitsRoom(p, n)); gone || pr.err != nil {
			s.queue.Activate(p.UID)
		}
	}
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

var errNotNeeded = errors.New("a pod that room was to be made for was deleted or placed meanwhile")

// evict writes where the pods are nominated, and then deletes the victims: if the leader fails in between, the next one knows whom the
// room is for. The victims of a gang are deleted only if all of its pods still need the room. It returns the victims that were not
// deleted.
func (s *Scheduler) evict(ctx context.Context, reports []report, evictions []eviction) (stay []types.UID, err error) {
	var mu sync.Mutex
	for _, e := range evictions {
		stay = append(stay, e.victim.UID)
	}
	nominations, writing := errgroup.WithContext(ctx)
	nominations.SetLimit(mostWrites)
	for _, r := range reports {
		nominations.Go(func() error { return contain.Run(func() error { return s.reporter.write(writing, r) }) })
	}
	if err := nominations.Wait(); err != nil {
		return stay, err
	}
	for _, r := range reports {
		current, ok := client.Get[*corev1.Pod](s.Client.View(), r.pod.Namespace, r.pod.Name)
		if !ok || current.UID != r.pod.UID || current.DeletionTimestamp != nil || current.Spec.NodeName != "" {
			return stay, errNotNeeded
		}
	}
	deletions := errgroup.Group{}
	deletions.SetLimit(mostWrites)
	for _, e := range evictions {
		deletions.Go(func() error {
			err := contain.Run(func() error { return s.evictOne(ctx, e) })
			if err == nil {
				mu.Lock()
				defer mu.Unlock()
				stay = slices.DeleteFunc(stay, func(uid types.UID) bool { return uid == e.victim.UID })
			}
			return err
		})
	}
	err = deletions.Wait()
	return stay, err
}

func (s *Scheduler) evictOne(ctx context.Context, e eviction) error {
	victim := e.victim
	const attempts = 3 // the node writes the pod too
	for attempt := 1; ; attempt++ {
		current, ok := client.Get[*corev1.Pod](s.Client.View(), victim.Namespace, victim.Name)
		if !ok || current.UID != victim.UID || current.DeletionTimestamp != nil || framework.Finished(current) {
			return nil
		}
		updated := current.DeepCopy()
		client.SetPodCondition(updated, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler,
			Message:            fmt.Sprintf("%s: preempting to accommodate a higher priority pod", e.preemptor.Spec.SchedulerName),
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
	s.Recorder.Eventf(victim.Pod, corev1.EventTypeNormal, "Preempted", "Preempted by pod %v on node %v", e.preemptor.UID, e.node)
	return nil
}
