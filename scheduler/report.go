package scheduler

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// reportWorkers write conditions: enough to fill raft's batches.
const reportWorkers = 16

// reporter writes why pods could not be scheduled: as events, and into their conditions. Of several reports about a pod only the last
// one is written.
type reporter struct {
	s *Scheduler

	mu      sync.Mutex
	pending map[types.UID]report
	order   []types.UID
	more    chan struct{}
}

// report is what is to be written about a pod.
type report struct {
	pod *corev1.Pod
	// reason and message are for the condition, which stays as it is without a reason.
	reason, message string
	// nominated is the node that the pod waits for, if that is to be changed.
	nominated *string
}

func newReporter(s *Scheduler) *reporter {
	return &reporter{s: s, pending: map[types.UID]report{}, more: make(chan struct{}, reportWorkers)}
}

// report records an event and puts off the write. nominated is the node that the pod waits for, nil to leave that as it is. It does not
// block.
func (r *reporter) report(p *framework.PodInfo, reason, message string, nominated *string) {
	r.note(p, message)
	r.add(report{p.Pod, reason, message, nominated})
}

// note records an event.
func (r *reporter) note(p *framework.PodInfo, message string) {
	r.s.Recorder.Event(p.Pod, corev1.EventTypeWarning, "FailedScheduling", message)
}

// add puts off a write.
func (r *reporter) add(next report) {
	r.mu.Lock()
	last, waits := r.pending[next.pod.UID]
	if !waits {
		r.order = append(r.order, next.pod.UID)
	}
	if next.nominated == nil {
		next.nominated = last.nominated
	}
	if next.reason == "" {
		next.reason, next.message = last.reason, last.message
	}
	r.pending[next.pod.UID] = next
	r.mu.Unlock()
	r.wake()
}

// supersede drops what is still to be written about a pod: something newer is written at once.
func (r *reporter) supersede(uid types.UID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if waits, ok := r.pending[uid]; ok {
		r.pending[uid] = report{pod: waits.pod}
	}
}

func (r *reporter) wake() {
	select {
	case r.more <- struct{}{}:
	default:
	}
}

func (r *reporter) take() (report, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.order) == 0 {
		r.order = nil
		return report{}, false
	}
	uid := r.order[0]
	r.order = r.order[1:]
	next := r.pending[uid]
	delete(r.pending, uid)
	return next, true
}

// run writes reports until the context ends.
func (r *reporter) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-r.more:
		}
		for next, ok := r.take(); ok && ctx.Err() == nil; next, ok = r.take() {
			err := contain.Run(func() error { return r.write(ctx, next) })
			if err != nil && ctx.Err() == nil {
				r.s.Log.Warn("a pod's condition could not be written", "pod", next.pod.Namespace+"/"+next.pod.Name, "error", err, "stack", contain.Stack(err))
			}
		}
	}
}

// write sets the pod's condition PodScheduled to False, and the node that it waits for.
func (r *reporter) write(ctx context.Context, report report) (err error) {
	const attempts = 3 // other components write the pod too
	for range attempts {
		current, ok := client.Get[*corev1.Pod](r.s.Client.View(), report.pod.Namespace, report.pod.Name)
		if !ok || current.UID != report.pod.UID || current.Spec.NodeName != "" {
			return nil
		}
		renominated := report.nominated != nil && current.Status.NominatedNodeName != *report.nominated
		if !renominated && says(current, report) {
			return nil
		}
		updated := current.DeepCopy()
		if report.reason != "" {
			client.SetPodCondition(updated, corev1.PodCondition{
				Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: report.reason, Message: report.message,
				LastTransitionTime: metav1.Now(), ObservedGeneration: updated.Generation,
			})
		}
		if renominated {
			updated.Status.NominatedNodeName = *report.nominated
		}
		if _, err = client.UpdateStatus(ctx, r.s.Client, updated); !apierrors.IsConflict(err) {
			break
		}
	}
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// says says whether a pod's condition already is the reported one.
func says(pod *corev1.Pod, report report) bool {
	if report.reason == "" {
		return true
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled {
			return c.Status == corev1.ConditionFalse && c.Reason == report.reason && c.Message == report.message
		}
	}
	return false
}
