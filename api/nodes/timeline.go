package nodes

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/timeline"
)

// noteDelivered keeps which pods the worker was sent for the first time. began is when their binding reached the session.
func (s *session) noteDelivered(events []client.Event, began time.Time) {
	if s.Timeline == nil {
		return
	}
	for _, event := range events {
		pod, ok := event.New.(*corev1.Pod)
		if !ok || pod == nil || pod.Spec.NodeName != s.node {
			continue
		}
		if old, ok := event.Old.(*corev1.Pod); ok && old != nil && old.Spec.NodeName == s.node {
			continue
		}
		s.Timeline.AddOnce(timeline.PodOf(pod), timeline.Since(timeline.Deliver, "", began, "to "+s.node, nil))
	}
}

// noteReported keeps when it was stored that a pod has become ready, from when the report was about to be written.
func (s *session) noteReported(before, after *corev1.Pod, began time.Time) {
	if s.Timeline != nil && !podReady(before) && podReady(after) {
		s.Timeline.AddOnce(timeline.PodOf(after), timeline.Since(timeline.Report, "", began, "", nil))
	}
}

func podReady(pod *corev1.Pod) bool {
	c := find(pod.Status.Conditions, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}
