package job

import (
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/pods"
)

// backoff is what delays the next pod of a Job: how many pods failed since the last success, and when the last of them did.
type backoff struct {
	job      types.UID
	failures int32
	last     time.Time
}

// backoffs has the back-off of each Job that was synchronized since the controller started; for others it is computed from their pods.
type backoffs struct {
	mu sync.Mutex
	of map[controller.Key]backoff
}

func (b *backoffs) get(key controller.Key, job types.UID) (backoff, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	got, ok := b.of[key]
	return got, ok && got.job == job
}

func (b *backoffs) set(key controller.Key, to backoff) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.of == nil {
		b.of = map[controller.Key]backoff{}
	}
	b.of[key] = to
}

func (b *backoffs) forget(key controller.Key) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.of, key)
}

// after returns the back-off after more pods have ended, at the latest now.
func (b backoff) after(succeeded, failed []*corev1.Pod, now time.Time) backoff {
	endedAt := func(pod *corev1.Pod) time.Time { return notAfter(now, endedAt(pod), pod) }
	var success time.Time
	if len(succeeded) > 0 {
		b.failures, b.last = 0, time.Time{}
		for _, pod := range succeeded {
			if at := endedAt(pod); at.After(success) {
				success = at
			}
		}
	}
	for _, pod := range failed {
		if at := endedAt(pod); len(succeeded) == 0 || at.After(success) {
			b.failures++
			if at.After(b.last) {
				b.last = at
			}
		}
	}
	return b
}

// notAfter returns when a pod ended, or now if that is in the future because its node's clock is a little ahead. A time that is far
// ahead is not believed: the pod's creation, by the cluster's own clock, is used instead.
func notAfter(now, ended time.Time, pod *corev1.Pod) time.Time {
	switch {
	case ended.After(now.Add(time.Minute)):
		return pod.CreationTimestamp.Time
	case ended.After(now):
		return now
	}
	return ended
}

// delay returns how long no pod is created after a number of failures.
func (r *reconciler) delay(failures int32, last time.Time) time.Duration {
	if failures <= 0 {
		return 0
	}
	wait := r.FirstBackoff
	for i := int32(1); i < failures && wait < r.LongestBackoff; i++ {
		wait *= 2
	}
	return max(0, min(wait, r.LongestBackoff)-r.Now().Sub(last))
}

// endedAt returns when a pod ended: when the last of its containers did; else since when it is not ready; else when its deletion was
// asked for; else when it was created.
func endedAt(pod *corev1.Pod) time.Time {
	if at := containersEndedAt(pod); !at.IsZero() {
		return at
	}
	if c := pods.ReadyCondition(pod); c != nil && c.Status == corev1.ConditionFalse && !c.LastTransitionTime.IsZero() {
		return c.LastTransitionTime.Time
	}
	if pod.DeletionTimestamp != nil {
		at := pod.DeletionTimestamp.Time
		if grace := pod.DeletionGracePeriodSeconds; grace != nil {
			at = at.Add(-time.Duration(*grace) * time.Second)
		}
		return at
	}
	return pod.CreationTimestamp.Time
}

// containersEndedAt returns when the last container or sidecar ended; zero if one has not ended.
func containersEndedAt(pod *corev1.Pod) (latest time.Time) {
	running := false
	see := func(status *corev1.ContainerStatus) {
		ended := status.State.Terminated
		if ended == nil || ended.FinishedAt.IsZero() {
			running = true
		} else if ended.FinishedAt.After(latest) {
			latest = ended.FinishedAt.Time
		}
	}
	for i := range pod.Status.ContainerStatuses {
		see(&pod.Status.ContainerStatuses[i])
	}
	for i := range pod.Status.InitContainerStatuses {
		status := &pod.Status.InitContainerStatuses[i]
		if slices.ContainsFunc(pod.Spec.InitContainers, func(c corev1.Container) bool {
			return c.Name == status.Name && c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
		}) {
			see(status)
		}
	}
	if running {
		return time.Time{}
	}
	return latest
}
