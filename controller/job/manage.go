package job

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/pods"
)

// manage creates or deletes pods until as many run as should.
func (s *syncing) manage(ctx context.Context) error {
	if suspended(s.job) {
		return s.delete(ctx, s.active, true)
	}
	wanted := s.wanted()
	if surplus := s.surplus(int(s.running - wanted)); len(surplus) > 0 {
		return s.delete(ctx, surplus[:min(len(surplus), maxCreateDelete)], true)
	}
	missing := wanted - s.running
	if replacesOnlyFailed(s.job) {
		missing -= s.terminating
	}
	if missing <= 0 {
		return nil
	}
	if !s.limitsPerIndex() {
		if wait := s.delay(s.backoff.failures, s.backoff.last); wait > 0 {
			s.wake(wait)
			return nil
		}
	}
	return s.create(ctx, int(min(missing, maxCreateDelete)))
}

// wanted returns how many pods should run: never more than completions are missing. Without a number of completions none are
// started after the first success.
func (s *syncing) wanted() int32 {
	switch completions := s.job.Spec.Completions; {
	case completions != nil:
		return max(0, min(*s.job.Spec.Parallelism, *completions-s.succeeded))
	case s.succeeded > 0:
		return s.running
	}
	return *s.job.Spec.Parallelism
}

// surplus returns the pods that are to be deleted: in an Indexed Job those without a valid index, and of several with one index all
// but one; and further ones until there are at least count, the least useful first.
func (s *syncing) surplus(count int) (surplus []*member) {
	if count <= 0 && !s.wrongIndexes() {
		return nil
	}
	sorted := slices.Clone(s.active)
	slices.SortStableFunc(sorted, leastUseful)
	left := sorted
	if indexed(s.job) {
		left = nil
		kept := map[int]bool{none: true}
		for _, m := range slices.Backward(sorted) { // so the most useful pod of an index is kept
			if kept[m.index] {
				surplus = append(surplus, m)
			} else {
				left = append(left, m)
			}
			kept[m.index] = true
		}
		slices.Reverse(surplus)
		slices.Reverse(left)
	}
	if more := min(count-len(surplus), len(left)); more > 0 {
		surplus = append(surplus, left[:more]...)
	}
	return surplus
}

// wrongIndexes says whether pods of an Indexed Job have no valid index, or the same one.
func (s *syncing) wrongIndexes() bool {
	if !indexed(s.job) {
		return false
	}
	before := none
	for _, m := range s.active { // in the order of their indexes
		if m.index == before { // also none, which comes first
			return true
		}
		before = m.index
	}
	return false
}

// leastUseful orders pods as upstream's controller.ActivePods does: not assigned, pending, not ready, ready for a shorter time,
// restarted more often, younger.
func leastUseful(a, b *member) int {
	return cmp.Or(
		falseFirst(a.Spec.NodeName != "", b.Spec.NodeName != ""),
		cmp.Compare(phaseRank(a), phaseRank(b)),
		falseFirst(pods.Ready(a.Pod), pods.Ready(b.Pod)),
		readySince(b).Compare(readySince(a)),
		cmp.Compare(restarts(b), restarts(a)),
		b.CreationTimestamp.Compare(a.CreationTimestamp.Time),
	)
}

func falseFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

func phaseRank(m *member) int {
	switch m.Status.Phase {
	case corev1.PodPending:
		return 0
	case corev1.PodUnknown:
		return 1
	}
	return 2
}

func readySince(m *member) (since time.Time) {
	if c := pods.ReadyCondition(m.Pod); c != nil && c.Status == corev1.ConditionTrue {
		since = c.LastTransitionTime.Time
	}
	return since
}

func restarts(m *member) (n int32) {
	for _, c := range m.Status.ContainerStatuses {
		n = max(n, c.RestartCount)
	}
	return n
}

// deleteActive deletes the pods of a Job that ends. They keep the finalizer until they are counted.
func (s *syncing) deleteActive(ctx context.Context) error { return s.delete(ctx, s.active, false) }

// delete deletes pods, and before that removes their finalizer if uncounted says that they are not to be counted.
func (s *syncing) delete(ctx context.Context, list []*member, uncounted bool) error {
	var deleted, ready atomic.Int32
	err := controller.Each(list, func(m *member) error {
		if uncounted {
			if err := untrackCounted(ctx, s.Client, m.Pod); err != nil {
				return err
			}
		}
		if err := s.control.Delete(ctx, s.job, m.Pod); err != nil {
			return err
		}
		m.tracked = m.tracked && !uncounted
		deleted.Add(1)
		if pods.Ready(m.Pod) {
			ready.Add(1)
		}
		return nil
	})
	s.running -= deleted.Load()
	s.terminating += deleted.Load()
	s.ready -= ready.Load()
	return err
}

// create creates pods, in an Indexed Job for the lowest indexes that need one.
func (s *syncing) create(ctx context.Context, count int) error {
	list := make([]int, count)
	for i := range list {
		list[i] = none
	}
	if indexed(s.job) {
		if list = s.creatable(count); len(list) == 0 {
			return nil
		}
	}
	template := s.template()
	made, err := pods.SlowStart(list, func(index int) error {
		return s.control.Create(ctx, s.job, s.pod(template, index))
	})
	s.running += int32(made)
	return err
}

// creatable returns the lowest indexes that need a pod, without those that a failure still delays.
func (s *syncing) creatable(count int) []int {
	var taken []int
	for _, m := range s.members {
		if pods.Active(m.Pod) || replacesOnlyFailed(s.job) && !pods.Finished(m.Pod) {
			taken = append(taken, m.index)
		}
	}
	need := indexesOf(taken).union(s.succeededIndexes, s.failedIndexes).missing(s.completions(), count)
	return slices.DeleteFunc(need, func(index int) bool {
		last := s.replaceable[index]
		if last == nil {
			return false
		}
		wait := s.delay(last.allFailures()+1, notAfter(s.Now(), endedAt(last.Pod), last.Pod))
		if wait > 0 {
			s.wake(wait)
		}
		return wait > 0
	})
}

const completionIndexEnv = "JOB_COMPLETION_INDEX"

// template returns what the Job's pods have in common.
func (s *syncing) template() *corev1.PodTemplateSpec {
	template := s.job.Spec.Template.DeepCopy()
	addFinalizer(&template.ObjectMeta)
	if !indexed(s.job) {
		return template
	}
	for _, list := range [][]corev1.Container{template.Spec.InitContainers, template.Spec.Containers} {
		for i := range list {
			c := &list[i]
			if slices.ContainsFunc(c.Env, func(v corev1.EnvVar) bool { return v.Name == completionIndexEnv }) {
				continue
			}
			c.Env = append(c.Env, corev1.EnvVar{Name: completionIndexEnv, ValueFrom: &corev1.EnvVarSource{
				FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels['" + batchv1.JobCompletionIndexAnnotation + "']"}}})
		}
	}
	return template
}

// pod returns a new pod for an index, or for none.
func (s *syncing) pod(template *corev1.PodTemplateSpec, index int) *corev1.Pod {
	pod := pods.FromTemplate(template, s.job, controllerKind)
	if index == none {
		return pod
	}
	text := strconv.Itoa(index)
	pod.Labels, pod.Annotations = orEmpty(pod.Labels), orEmpty(pod.Annotations)
	pod.Labels[batchv1.JobCompletionIndexAnnotation] = text
	pod.Annotations[batchv1.JobCompletionIndexAnnotation] = text
	pod.Spec.Hostname = s.job.Name + "-" + text
	pod.GenerateName = indexedPrefix(s.job.Name, text)
	if s.limitsPerIndex() {
		var counted, ignored int32
		if last := s.replaceable[index]; last != nil {
			counted, ignored = last.indexFailures()
			if last.verdict.ignored {
				ignored++
			} else {
				counted++
			}
		}
		maps.Copy(pod.Annotations, failureAnnotations(counted, ignored))
	}
	return pod
}

func orEmpty(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func failureAnnotations(counted, ignored int32) map[string]string {
	out := map[string]string{batchv1.JobIndexFailureCountAnnotation: fmt.Sprint(counted)}
	if ignored > 0 {
		out[batchv1.JobIndexIgnoredFailureCountAnnotation] = fmt.Sprint(ignored)
	}
	return out
}

// maxGeneratedPrefix is how much of generateName is kept before the random part of a name.
const maxGeneratedPrefix = 58

// indexedPrefix returns the prefix of the names of pods of an index, which keeps the index however long the Job's name is.
func indexedPrefix(job, index string) string {
	end := "-" + index + "-"
	return job[:min(len(job), maxGeneratedPrefix-len(end))] + end
}
