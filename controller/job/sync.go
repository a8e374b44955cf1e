package job

import (
	"context"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/pods"
)

// syncing is one synchronization of a Job.
type syncing struct {
	*reconciler
	key     controller.Key
	job     *batchv1.Job // a copy, whose status is changed
	members []*member    // in the order of their indexes
	active  []*member
	// uncounted are the pods of the stored status that are being counted.
	uncounted struct{ succeeded, failed sets.Set[types.UID] }
	// ready and terminating count pods, and follow what the synchronization does.
	ready, running, terminating int32
	// succeeded and failed count all pods that ended, also those that are not in the stored counters yet.
	succeeded, failed int32
	// In an Indexed Job: the indexes that have succeeded by the stored status, by the pods, and those that have failed.
	succeededBefore, succeededIndexes, failedIndexes indexes
	// replaceable has the failed pod of each index whose successor will take over its count of failures: it is not released before.
	replaceable map[int]*member
	backoff     backoff
	// end is why the Job ends; nil as long as it does not. Its type is FailureTarget or SuccessCriteriaMet.
	end *batchv1.JobCondition
	// after is when to synchronize again without a change; 0 is never.
	after time.Duration
}

// look computes the state of a Job from its pods.
func (r *reconciler) look(ctx context.Context, v client.View, key controller.Key, j *batchv1.Job) (*syncing, error) {
	claimed, err := r.claim(ctx, v, j)
	if err != nil {
		return nil, err
	}
	s := &syncing{reconciler: r, key: key, job: j}
	if j.Status.UncountedTerminatedPods == nil {
		j.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	s.uncounted.succeeded = sets.New(j.Status.UncountedTerminatedPods.Succeeded...)
	s.uncounted.failed = sets.New(j.Status.UncountedTerminatedPods.Failed...)
	s.succeeded = j.Status.Succeeded + int32(len(s.uncounted.succeeded))
	s.failed = j.Status.Failed + int32(len(s.uncounted.failed))
	s.members = make([]*member, len(claimed))
	for i, pod := range claimed {
		s.members[i] = newMember(j, pod)
	}
	slices.SortStableFunc(s.members, func(a, b *member) int { return a.index - b.index })
	var newlySucceeded, newlyFailed []*corev1.Pod
	for _, m := range s.members {
		pod := m.Pod
		switch {
		case pods.Active(pod):
			s.active = append(s.active, m)
			if pods.Ready(pod) {
				s.ready++
			}
		case !pods.Finished(pod):
			s.terminating++
		}
		if !m.tracked || !m.counts(j) {
			continue
		}
		if pod.Status.Phase == corev1.PodSucceeded && !s.uncounted.succeeded.Has(pod.UID) {
			newlySucceeded = append(newlySucceeded, pod)
			s.succeeded++
		}
		if m.failed && !s.uncounted.failed.Has(pod.UID) {
			newlyFailed = append(newlyFailed, pod)
			if !m.verdict.ignored {
				s.failed++
			}
		}
	}
	s.running = int32(len(s.active))
	if indexed(j) {
		s.lookAtIndexes()
	}
	if !s.limitsPerIndex() {
		s.backoff = r.backoffOf(v, key, j, s).after(newlySucceeded, newlyFailed, r.Now())
	}
	return s, nil
}

// backoffOf returns a Job's back-off without the pods that are not counted yet. That of a Job which this controller has not
// synchronized before is computed from the pods that were counted, as far as they still exist.
func (r *reconciler) backoffOf(v client.View, key controller.Key, j *batchv1.Job, s *syncing) backoff {
	if b, ok := r.backoffs.get(key, j.UID); ok {
		return b
	}
	b := backoff{job: j.UID}
	if j.Status.Failed == 0 && len(s.uncounted.failed) == 0 {
		return b
	}
	var succeeded, failed []*corev1.Pod
	for _, pod := range pods.Controlled(v, j.UID) {
		counted := !tracked(pod) || s.uncounted.succeeded.Has(pod.UID) || s.uncounted.failed.Has(pod.UID)
		switch {
		case counted && pod.Status.Phase == corev1.PodSucceeded:
			succeeded = append(succeeded, pod)
		case counted && pod.Status.Phase == corev1.PodFailed:
			failed = append(failed, pod)
		}
	}
	return b.after(succeeded, failed, r.Now())
}

func (s *syncing) completions() int { return int(*s.job.Spec.Completions) }

func (s *syncing) limitsPerIndex() bool { return s.job.Spec.BackoffLimitPerIndex != nil }

// lookAtIndexes computes the state of an Indexed Job's indexes.
func (s *syncing) lookAtIndexes() {
	s.succeededBefore = parseIndexes(s.job.Status.CompletedIndexes, s.completions())
	var succeeded, failed []int
	for _, m := range s.members {
		if m.index == none || !m.tracked {
			continue
		}
		if m.Status.Phase == corev1.PodSucceeded {
			succeeded = append(succeeded, m.index)
		}
		if m.failed && s.limitsPerIndex() && s.failsIndex(m) {
			failed = append(failed, m.index)
		}
	}
	s.succeededIndexes = s.succeededBefore.union(indexesOf(succeeded))
	s.succeeded = int32(s.succeededIndexes.count())
	if s.limitsPerIndex() {
		s.failedIndexes = parseIndexes(ptr.Deref(s.job.Status.FailedIndexes, ""), s.completions()).union(indexesOf(failed))
		s.findReplaceable()
	}
}

// failsIndex says whether no other pod is created for the index of a failed one.
func (s *syncing) failsIndex(m *member) bool {
	before, _ := m.indexFailures()
	return m.verdict.failsIndex || !m.verdict.ignored && before >= *s.job.Spec.BackoffLimitPerIndex
}

// findReplaceable finds, for each index that needs another pod, the one that failed last.
func (s *syncing) findReplaceable() {
	s.replaceable = map[int]*member{}
	active := sets.New[int]()
	for _, m := range s.active {
		active.Insert(m.index)
	}
	for _, m := range s.members {
		if !m.failed || !m.tracked || m.index == none || active.Has(m.index) || s.succeededIndexes.has(m.index) || s.failedIndexes.has(m.index) {
			continue
		}
		last := s.replaceable[m.index]
		if last == nil || m.allFailures() >= last.allFailures() && !endedAt(m.Pod).Before(endedAt(last.Pod)) {
			s.replaceable[m.index] = m
		}
	}
}

// allFailures returns how many pods of the index failed before this one.
func (m *member) allFailures() int32 {
	counted, ignored := m.indexFailures()
	return counted + ignored
}

// sync brings the Job one step further.
func (s *syncing) sync(ctx context.Context) error {
	j := s.job
	if j.Status.StartTime == nil && !suspended(j) {
		j.Status.StartTime = ptr.To(metav1.NewTime(s.Now()))
	}
	s.decide()
	changed := false
	var managing error
	if s.end != nil {
		if managing = s.deleteActive(ctx); managing != nil {
			s.end = nil // there may be pods left: it ends in a later synchronization
		}
	} else {
		if j.DeletionTimestamp == nil {
			managing = s.manage(ctx)
		}
		if s.complete() {
			s.end = s.condition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
		} else if j.DeletionTimestamp == nil {
			changed = s.suspendOrResume()
		}
	}
	changed = changed || s.running != j.Status.Active || !ptr.Equal(&s.ready, j.Status.Ready) || !ptr.Equal(&s.terminating, j.Status.Terminating)
	j.Status.Active, j.Status.Ready, j.Status.Terminating = s.running, &s.ready, &s.terminating
	if err := s.track(ctx, changed); err != nil {
		s.backoffs.forget(s.key) // it may lack what was counted: the next synchronization computes it again
		return fmt.Errorf("tracking status: %w", err)
	}
	return managing
}

func (s *syncing) condition(kind batchv1.JobConditionType, reason, message string) *batchv1.JobCondition {
	now := metav1.NewTime(s.Now())
	return &batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue, Reason: reason, Message: message, LastProbeTime: now, LastTransitionTime: now}
}

// decide sets end if the Job has failed, or has succeeded by its success policy. What an earlier synchronization decided stays.
func (s *syncing) decide() {
	j := s.job
	for _, kind := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobFailureTarget} {
		if isTrue(j.Status.Conditions, kind) {
			s.end = find(j.Status.Conditions, kind).DeepCopy()
			return
		}
	}
	fail := func(reason, message string) { s.end = s.condition(batchv1.JobFailureTarget, reason, message) }
	for _, m := range s.members {
		if m.verdict.failsJob != "" {
			fail(batchv1.JobReasonPodFailurePolicy, m.verdict.failsJob)
			return
		}
	}
	if s.failed > *j.Spec.BackoffLimit || s.restartedTooOften() {
		fail(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
		return
	}
	if left, limited := s.untilDeadline(); limited {
		if left <= 0 {
			fail(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
			return
		}
		s.wake(left)
	}
	if !indexed(j) {
		return
	}
	if s.limitsPerIndex() {
		failed := s.failedIndexes.count()
		switch {
		case j.Spec.MaxFailedIndexes != nil && failed > int(*j.Spec.MaxFailedIndexes):
			fail(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
			return
		case failed > 0 && failed+s.succeededIndexes.count() >= s.completions():
			fail(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
			return
		}
	}
	if message, met := succeedsBy(j.Spec.SuccessPolicy, s.completions(), s.succeededIndexes); met {
		s.end = s.condition(batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, message)
	}
}

// wake asks for another synchronization after a time.
func (s *syncing) wake(after time.Duration) {
	if s.after == 0 || after < s.after {
		s.after = after
	}
}

// never is a deadline in seconds, a hundred years, that no Job lives to see. A time.Duration has only 292.
const never = 100 * 365 * 24 * 60 * 60

// untilDeadline returns how long the Job may still be active.
func (s *syncing) untilDeadline() (left time.Duration, limited bool) {
	deadline, since := s.job.Spec.ActiveDeadlineSeconds, s.job.Status.StartTime
	if deadline == nil || since == nil || suspended(s.job) {
		return 0, false
	}
	return time.Duration(min(*deadline, never))*time.Second - s.Now().Sub(since.Time), true
}

// restartedTooOften says whether the containers of the running pods were restarted as often as pods may fail, where containers are
// restarted.
func (s *syncing) restartedTooOften() bool {
	if s.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	restarts := int32(0)
	for _, m := range s.members {
		if m.Status.Phase != corev1.PodRunning && m.Status.Phase != corev1.PodPending {
			continue
		}
		for _, list := range [][]corev1.ContainerStatus{m.Status.InitContainerStatuses, m.Status.ContainerStatuses} {
			for i := range list {
				restarts += list[i].RestartCount
			}
		}
	}
	return restarts >= max(1, *s.job.Spec.BackoffLimit)
}

// complete says whether all work is done: without a number of completions, once one pod has succeeded and none runs any more.
func (s *syncing) complete() bool {
	return s.running == 0 && s.succeeded >= ptr.Deref(s.job.Spec.Completions, 1)
}

// suspendOrResume maintains the condition Suspended. A Job that resumes starts anew for its deadline.
func (s *syncing) suspendOrResume() (changed bool) {
	status := &s.job.Status
	if suspended(s.job) {
		if changed = set(&status.Conditions, batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended", s.Now()); changed {
			s.Recorder.Event(s.job, corev1.EventTypeNormal, "Suspended", "Job suspended")
			status.StartTime = nil
		}
		return changed
	}
	if changed = set(&status.Conditions, batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed", s.Now()); changed {
		s.Recorder.Event(s.job, corev1.EventTypeNormal, "Resumed", "Job resumed")
		status.StartTime = ptr.To(metav1.NewTime(s.Now()))
	}
	return changed
}
