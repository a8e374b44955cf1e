package pods

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/node/fit"
	"github.com/kontiki/kontiki/node/pods/eviction"
	"github.com/kontiki/kontiki/node/podspec"
)

// Pressure returns which of the conditions MemoryPressure, DiskPressure and PIDPressure hold.
func (m *Manager) Pressure() []corev1.NodeConditionType { return m.guard.Pressure() }

// admitPressure refuses pods that would add to the node's pressure.
func (m *Manager) admitPressure(pod *corev1.Pod) *fit.Refusal {
	conditions := m.Pressure()
	if len(conditions) == 0 || m.critical(pod) {
		return nil
	}
	if len(conditions) == 1 && conditions[0] == corev1.NodeMemoryPressure {
		if podspec.QOS(pod) != corev1.PodQOSBestEffort || podspec.Tolerates(pod, &corev1.Taint{Key: corev1.TaintNodeMemoryPressure, Effect: corev1.TaintEffectNoSchedule}) {
			return nil
		}
	}
	return &fit.Refusal{Reason: "Evicted", Message: fmt.Sprintf("The node had condition: %v. ", conditions)}
}

// critical says whether a pod is never evicted because of what it uses or the node runs out of.
func (m *Manager) critical(pod *corev1.Pod) bool {
	return ptr.Deref(pod.Spec.Priority, 0) >= systemCritical || m.static(pod.UID)
}

func (m *Manager) static(uid types.UID) bool { return m.c.Static != nil && m.c.Static(uid) }

// evictions are the pods of a Manager for what guards the node.
type evictions struct{ m *Manager }

// Evictable implements eviction.Pods.
func (e evictions) Evictable() []eviction.Candidate {
	var out []eviction.Candidate
	e.m.mu.Lock()
	workers := make([]*worker, 0, len(e.m.workers))
	for _, w := range e.m.workers {
		workers = append(workers, w)
	}
	e.m.mu.Unlock()
	for _, w := range workers {
		w.mu.Lock()
		pod, candidate := w.pod, w.active && w.stop == nil && !w.removed
		volumes := w.mounted
		w.mu.Unlock()
		if candidate && !e.m.critical(pod) {
			out = append(out, eviction.Candidate{Pod: pod, Volumes: volumes})
		}
	}
	return out
}

// Evict implements eviction.Pods.
func (e evictions) Evict(pod *corev1.Pod, message string) {
	grace := time.Duration(0) // as the kubelet, also for soft thresholds unless it is configured
	e.m.c.Sink.Event(Event{Pod: pod, Type: corev1.EventTypeWarning, Reason: "Evicted", Message: shorten(message, maxText)})
	e.m.Stop(pod.UID, Stop{Reason: "Evicted", Message: message, Grace: &grace, Condition: &corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
		Reason: corev1.PodReasonTerminationByKubelet, Message: message, ObservedGeneration: pod.Generation}})
}

// DiskUse implements eviction.Pods.
func (e evictions) DiskUse(ctx context.Context, dir string) (int64, error) {
	return e.m.diskUse(ctx, dir, 1<<62)
}
