package pods

import (
	"log/slog"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/fit"
)

// A critical pod that was bound to the node without a scheduler that makes room, or that is a static pod, ends others if their resources are
// what it lacks, as with a kubelet (pkg/kubelet/preemption, whose choices these are).

const (
	reasonPreempting = "Preempting"
	preemptAgain     = time.Second // how often a critical pod looks whether there is room yet
)

// preemptable says whether a critical pod may end another.
func (m *Manager) preemptable(pod, other *corev1.Pod) bool {
	return !m.critical(other) || pod.Spec.Priority != nil && other.Spec.Priority != nil && *pod.Spec.Priority > *other.Spec.Priority
}

// preempt ends pods if a critical pod lacks nothing but their resources. It returns the refusal to report, and whether the pod fits once pods
// that are ending now have ended.
func (m *Manager) preempt(w *worker, pod *corev1.Pod, r *fit.Refusal, node *corev1.Node) (*fit.Refusal, bool) {
	others := m.active(w)
	l := fit.Lacking(pod, others, node.Status.Allocatable)
	if len(l) == 0 || !m.critical(pod) {
		return r, false
	}
	if place := fit.CheckPlace(pod, others, node); place != nil {
		return place, false
	}
	var ending, candidates []*corev1.Pod
	for _, o := range others {
		switch {
		case m.isEnding(o):
			ending = append(ending, o)
		case m.preemptable(pod, o):
			candidates = append(candidates, o)
		}
	}
	wait := &fit.Refusal{Reason: reasonPreempting, Message: "Waiting for other pods to end, as this critical pod needs their resources"}
	if l = l.Without(ending...); len(l) == 0 {
		return wait, true
	}
	chosen := fit.Victims(candidates, l)
	if chosen == nil {
		return &fit.Refusal{Reason: "UnexpectedAdmissionError", Message: "Unexpected error while attempting to recover from admission failure: preemption: " +
			"error finding a set of pods to preempt: no set of running pods found to reclaim resources: " + l.Without(candidates...).String()}, false
	}
	const message = "Preempted in order to admit critical pod"
	for _, v := range chosen {
		slog.Warn("ending a pod for a critical one", "namespace", v.Namespace, "pod", v.Name, "for", pod.Namespace+"/"+pod.Name, "lacking", l)
		m.c.Sink.Event(Event{Pod: v, Type: corev1.EventTypeWarning, Reason: reasonPreempting, Message: message})
		m.Stop(v.UID, Stop{Reason: reasonPreempting, Message: message, Condition: &corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
			Reason: corev1.PodReasonTerminationByKubelet, Message: "Pod was preempted by Kubelet to accommodate a critical pod.", ObservedGeneration: v.Generation}})
	}
	return wait, true
}

// isEnding says whether a pod of the node is being ended.
func (m *Manager) isEnding(pod *corev1.Pod) bool {
	m.mu.Lock()
	w := m.workers[pod.UID]
	m.mu.Unlock()
	if w == nil {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stop != nil
}
