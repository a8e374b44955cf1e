package pods

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/timeline"
)

// took keeps a step of the pod's start that began at a time and ends now.
func (w *worker) took(pod *corev1.Pod, name, container string, began time.Time, detail string, err error) {
	if w.m.c.Timeline == nil || w.adopted { // a previous agent began it: the steps that are left would look like all of them
		return
	}
	of := timeline.PodOf(pod)
	w.m.c.Timeline.AddOnce(of, timeline.Step{Name: timeline.Receive, Began: w.seen, Ended: w.seen})
	w.m.c.Timeline.Add(of, timeline.Since(name, container, began, detail, err))
}

// triesSaid says that setting the pod up failed before.
func (w *worker) triesSaid() string {
	if w.setupTries == 0 {
		return ""
	}
	return fmt.Sprintf("%d failed attempts before", w.setupTries)
}

// noteReady keeps when the pod is ready for the first time.
func (w *worker) noteReady(pod *corev1.Pod, s *corev1.PodStatus) {
	if w.m.c.Timeline == nil || w.wasReady {
		return
	}
	if c := condition(s.Conditions, corev1.PodReady); c != nil && c.Status == corev1.ConditionTrue {
		w.wasReady = true
		w.took(pod, timeline.Ready, "", time.Now(), "", nil)
	}
}
