package job

import (
	"context"
	"fmt"
	"slices"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/pods"
)

// openPods finds the pods that a Job has not finished with, by its UID: those that still run, and those that are not counted yet.
// Orphans are found by their namespace and labels.
var openPods = client.NewIndex(func(pod *corev1.Pod, add func(string)) {
	ref := metav1.GetControllerOfNoCopy(pod)
	switch {
	case ref != nil && isJob(ref):
		if !pods.Finished(pod) || tracked(pod) {
			add(string(ref.UID))
		}
	case ref == nil && pod.DeletionTimestamp == nil:
		for _, key := range client.SelectorKeys(pod.Namespace, pod.Labels) {
			add(orphan + key)
		}
	}
})

const orphan = "orphan " // distinguishes the keys of orphans from UIDs

// tracked says whether a pod is not counted yet.
func tracked(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
}

// claim returns the pods that a Job has not finished with. It adopts matching orphans, and releases pods that no longer match.
func (r *reconciler) claim(ctx context.Context, v client.View, j *batchv1.Job) (claimed []*corev1.Pod, failed error) {
	selector := selectorOf(j)
	for _, pod := range openPods.Any(v, string(j.UID), orphan+client.SelectorKey(j.Namespace, selector)) {
		matches := selector.Matches(labels.Set(pod.Labels))
		ref := metav1.GetControllerOfNoCopy(pod)
		var err error
		switch {
		case ref != nil && ref.UID != j.UID:
		case ref != nil && matches:
			claimed = append(claimed, pod)
		case j.DeletionTimestamp != nil:
		case ref != nil:
			_, err = r.edit(ctx, pod, func(pod *corev1.Pod) {
				pod.OwnerReferences = slices.DeleteFunc(pod.OwnerReferences, func(ref metav1.OwnerReference) bool { return ref.UID == j.UID })
				removeFinalizer(pod)
			})
		case matches:
			var adopted *corev1.Pod
			if adopted, err = r.edit(ctx, pod, func(pod *corev1.Pod) {
				pod.OwnerReferences = append(pod.OwnerReferences, *metav1.NewControllerRef(j, controllerKind))
				addFinalizer(&pod.ObjectMeta)
			}); err == nil {
				claimed = append(claimed, adopted)
			}
		}
		if err != nil && failed == nil && !apierrors.IsNotFound(err) {
			failed = fmt.Errorf("claim pod %s: %w", pod.Name, err)
		}
	}
	return claimed, failed
}

// edit stores a change of a pod of the version that was read.
func (r *reconciler) edit(ctx context.Context, pod *corev1.Pod, change func(*corev1.Pod)) (*corev1.Pod, error) {
	changed := pod.DeepCopy()
	change(changed)
	return client.Update(ctx, r.Client, changed)
}

func addFinalizer(meta *metav1.ObjectMeta) {
	if !slices.Contains(meta.Finalizers, batchv1.JobTrackingFinalizer) {
		meta.Finalizers = append(meta.Finalizers, batchv1.JobTrackingFinalizer)
	}
}

func removeFinalizer(pod *corev1.Pod) {
	pod.Finalizers = slices.DeleteFunc(pod.Finalizers, func(f string) bool { return f == batchv1.JobTrackingFinalizer })
}

// untrack removes the finalizer of a pod of the version that was read. It is no error if the pod no longer exists.
func untrack(ctx context.Context, c *client.Client, pod *corev1.Pod) error {
	if !tracked(pod) {
		return nil
	}
	changed := pod.DeepCopy()
	removeFinalizer(changed)
	if _, err := client.Update(ctx, c, changed); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove the tracking finalizer of pod %s: %w", pod.Name, err)
	}
	return nil
}

// untrackCounted removes the finalizer of a pod that is counted, of whatever version it is now: the node may change its status meanwhile.
func untrackCounted(ctx context.Context, c *client.Client, pod *corev1.Pod) error {
	for range 5 {
		if err := untrack(ctx, c, pod); !apierrors.IsConflict(err) {
			return err
		}
		now, ok := client.Get[*corev1.Pod](c.View(), pod.Namespace, pod.Name)
		if !ok || now.UID != pod.UID {
			return nil
		}
		pod = now
	}
	return untrack(ctx, c, pod)
}

// member is a pod of a Job, with what is asked of it repeatedly.
type member struct {
	*corev1.Pod
	index   int  // the completion index in an Indexed Job; none if it is not valid
	tracked bool // it has the finalizer
	failed  bool // it failed, or counts as failed because it is being deleted
	verdict verdict
}

const none = -1

func newMember(j *batchv1.Job, pod *corev1.Pod) *member {
	m := &member{Pod: pod, index: none, tracked: tracked(pod), failed: pod.Status.Phase == corev1.PodFailed}
	if indexed(j) {
		m.index = completionIndex(pod, *j.Spec.Completions)
	}
	if pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodSucceeded && !replacesOnlyFailed(j) {
		m.failed = true // it may never reach the phase Failed
	}
	if m.failed {
		m.verdict = judge(j.Spec.PodFailurePolicy, pod)
	}
	return m
}

// counts says whether the pod's end is to be counted: in an Indexed Job that needs an index.
func (m *member) counts(j *batchv1.Job) bool { return !indexed(j) || m.index != none }

// completionIndex returns the index of a pod; none if it has none in the range.
func completionIndex(pod *corev1.Pod, completions int32) int {
	i, err := strconv.Atoi(pod.Annotations[batchv1.JobCompletionIndexAnnotation])
	if err != nil || i < 0 || i >= int(completions) {
		return none
	}
	return i
}

// indexFailures returns how many pods of the index failed before this one: those that count, and those that the failure policy ignores.
func (m *member) indexFailures() (counted, ignored int32) {
	return annotatedCount(m.Pod, batchv1.JobIndexFailureCountAnnotation), annotatedCount(m.Pod, batchv1.JobIndexIgnoredFailureCountAnnotation)
}

func annotatedCount(pod *corev1.Pod, name string) int32 {
	n, err := strconv.ParseInt(pod.Annotations[name], 10, 32)
	if err != nil || n < 0 {
		return 0
	}
	return int32(n)
}
