package job

import (
	"context"
	"fmt"
	"sync"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// track counts pods that have ended, stores the status, and ends the Job once everything is counted. changed says whether the status
// differs already. The order of the writes makes the counters exact: the status names a pod before its finalizer is removed, and a
// pod is added to a counter only when its finalizer is gone, in the same write that removes its name.
func (s *syncing) track(ctx context.Context, changed bool) error {
	withFinalizer := sets.New[types.UID]()
	for _, m := range s.members {
		if m.tracked {
			withFinalizer.Insert(m.UID)
		}
	}
	changed = countReleased(&s.job.Status, withFinalizer) || changed
	ended, full, more := s.nameEnded()
	changed = more || changed
	if indexed(s.job) {
		changed = s.storeIndexes() || changed
	}
	changed = s.announceEnd() || changed
	if changed {
		if err := s.store(ctx); err != nil {
			return fmt.Errorf("adding uncounted pods to status: %w", err)
		}
	}
	if full {
		s.backoffs.forget(s.key) // it contains pods that are not named yet
	} else {
		s.backoffs.set(s.key, s.backoff)
	}
	changed, err := s.release(ctx, ended, withFinalizer)
	if err != nil {
		if changed {
			if err := s.store(ctx); err != nil {
				return fmt.Errorf("removing uncounted pods from status: %w", err)
			}
		}
		return err
	}
	done := !full && s.finish()
	if !changed && !done {
		return nil
	}
	if err := s.store(ctx); err != nil {
		return fmt.Errorf("removing uncounted pods from status: %w", err)
	}
	if done {
		s.recordEnd()
	}
	return nil
}

func (s *syncing) store(ctx context.Context) error {
	stored, err := client.UpdateStatus(ctx, s.Client, s.job.DeepCopy())
	if err == nil {
		s.job = stored.DeepCopy()
	}
	return err
}

// countReleased replaces the names of pods whose finalizer is gone by increments of the counters.
func countReleased(status *batchv1.JobStatus, withFinalizer sets.Set[types.UID]) (changed bool) {
	count := func(names *[]types.UID, counter *int32) {
		var left []types.UID
		for _, uid := range *names {
			if withFinalizer.Has(uid) {
				left = append(left, uid)
			}
		}
		if n := len(*names) - len(left); n > 0 {
			*counter += int32(n)
			*names, changed = left, true
		}
	}
	count(&status.UncountedTerminatedPods.Succeeded, &status.Succeeded)
	count(&status.UncountedTerminatedPods.Failed, &status.Failed)
	return changed
}

// nameEnded adds the pods that have ended to the status, and returns those whose finalizer can be removed. full means that there may
// be more: they are left for the next synchronization.
func (s *syncing) nameEnded() (ended []*member, full, changed bool) {
	uncounted := s.job.Status.UncountedTerminatedPods
	var newIndexes []int
	for _, m := range s.members {
		if !m.tracked || !s.releasable(m) {
			continue
		}
		ended = append(ended, m)
		switch {
		case m.Status.Phase == corev1.PodSucceeded && !s.uncounted.failed.Has(m.UID):
			if indexed(s.job) {
				if m.index != none && !s.succeededBefore.has(m.index) {
					newIndexes = append(newIndexes, m.index)
				}
			} else if !s.uncounted.succeeded.Has(m.UID) {
				uncounted.Succeeded = append(uncounted.Succeeded, m.UID)
				changed = true
			}
		case m.failed || s.end != nil && s.end.Type == batchv1.JobFailureTarget:
			// When a Job fails, all pods that have not ended fail.
			if !s.uncounted.failed.Has(m.UID) && m.counts(s.job) && !m.verdict.ignored {
				uncounted.Failed = append(uncounted.Failed, m.UID)
				changed = true
			}
		}
		if len(newIndexes)+len(uncounted.Succeeded)+len(uncounted.Failed) >= maxUncounted {
			full = true
			break
		}
	}
	if indexed(s.job) {
		// Only what is stored now may be released now.
		s.succeededIndexes = s.succeededBefore.union(indexesOf(newIndexes))
	}
	return ended, full, changed
}

// releasable says whether a pod's finalizer can be removed, once the pod is counted: not while its successor has to take over its
// count of failures.
func (s *syncing) releasable(m *member) bool {
	if s.job.DeletionTimestamp != nil || s.end != nil || m.Status.Phase == corev1.PodSucceeded {
		return true
	}
	return m.failed && (m.index == none || s.replaceable[m.index] != m)
}

// storeIndexes sets what an Indexed Job's status says of its indexes.
func (s *syncing) storeIndexes() (changed bool) {
	status := &s.job.Status
	completed := s.succeededIndexes.String()
	count := int32(s.succeededIndexes.count())
	changed = completed != status.CompletedIndexes || count != status.Succeeded
	status.CompletedIndexes, status.Succeeded = completed, count
	if s.limitsPerIndex() {
		failed := s.failedIndexes.String()
		changed = changed || status.FailedIndexes == nil || *status.FailedIndexes != failed
		status.FailedIndexes = &failed
	}
	return changed
}

// announceEnd adds the condition that the Job will end, before its pods are released.
func (s *syncing) announceEnd() (changed bool) {
	if s.end == nil || isTrue(s.job.Status.Conditions, s.end.Type) {
		return false
	}
	s.job.Status.Conditions = append(s.job.Status.Conditions, *s.end)
	return true
}

// release removes the finalizers of pods, and counts those that were named. It returns whether the status has changed since it was
// stored.
func (s *syncing) release(ctx context.Context, ended []*member, withFinalizer sets.Set[types.UID]) (changed bool, err error) {
	var mu sync.Mutex
	err = controller.Each(ended, func(m *member) error {
		if err := untrackCounted(ctx, s.Client, m.Pod); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		withFinalizer.Delete(m.UID)
		return nil
	})
	return countReleased(&s.job.Status, withFinalizer), err
}

// finish adds the last condition, unless pods are not counted yet or still terminate.
func (s *syncing) finish() bool {
	status := &s.job.Status
	uncounted := status.UncountedTerminatedPods
	if s.end == nil || len(uncounted.Succeeded)+len(uncounted.Failed) > 0 || s.terminating > 0 {
		return false
	}
	kind := batchv1.JobFailed
	if s.end.Type == batchv1.JobSuccessCriteriaMet {
		kind = batchv1.JobComplete
	}
	last := s.condition(kind, s.end.Reason, s.end.Message)
	set(&status.Conditions, kind, corev1.ConditionTrue, last.Reason, last.Message, last.LastTransitionTime.Time)
	if kind == batchv1.JobComplete {
		status.CompletionTime = &last.LastTransitionTime
	}
	return true
}

func (s *syncing) recordEnd() {
	if s.end.Type == batchv1.JobFailureTarget {
		s.Recorder.Event(s.job, corev1.EventTypeWarning, s.end.Reason, s.end.Message)
		return
	}
	if s.job.Spec.Completions != nil && s.job.Status.Succeeded > *s.job.Spec.Completions {
		s.Recorder.Event(s.job, corev1.EventTypeWarning, "TooManySucceededPods", "Too many succeeded pods running after completion count reached")
	}
	s.Recorder.Event(s.job, corev1.EventTypeNormal, "Completed", "Job completed")
}
