package pods

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helper "k8s.io/component-helpers/resource"

	"github.com/kontiki/kontiki/internal/amount"
)

// A critical pod that was bound to the node without a scheduler that makes room, or that is a static pod, ends others if their resources are
// what it lacks, as with a kubelet (pkg/kubelet/preemption, whose choices these are).

const (
	reasonPreempting = "Preempting"
	preemptAgain     = time.Second // how often a critical pod looks whether there is room yet
)

// lack is how much is missing of resources: thousandths of processors, otherwise units.
type lack map[corev1.ResourceName]int64

// without returns what is still missing when pods are gone.
func (l lack) without(pods ...*corev1.Pod) lack {
	rest := lack{}
	for name, missing := range l {
		for _, p := range pods {
			missing -= requestOf(p, name)
		}
		if missing > 0 {
			rest[name] = missing
		}
	}
	return rest
}

// distance is how far a pod's resources are from what is missing; each resource counts the same.
func (l lack) distance(pod *corev1.Pod) (d float64) {
	for name, missing := range l {
		if rest := float64(missing - requestOf(pod, name)); rest > 0 {
			d += rest / float64(missing) * rest / float64(missing)
		}
	}
	return d
}

func (l lack) String() string {
	var b strings.Builder
	names := corev1.ResourceList{}
	for name := range l {
		names[name] = resource.Quantity{}
	}
	for _, name := range inOrder(names) {
		fmt.Fprintf(&b, "(res: %s, q: %d), ", name, l[name])
	}
	return "[" + b.String() + "]"
}

// requestOf returns a pod's request for a resource; a pod is one of "pods".
func requestOf(pod *corev1.Pod, name corev1.ResourceName) int64 {
	if name == corev1.ResourcePods {
		return 1
	}
	return requested(helper.PodRequests(pod, helper.PodResourcesOptions{}), name)
}

func requested(list corev1.ResourceList, name corev1.ResourceName) int64 {
	q := list[name]
	if name == corev1.ResourceCPU {
		return amount.Milli(&q)
	}
	return amount.Value(&q)
}

// lacking returns what a pod lacks beside others.
func lacking(pod *corev1.Pod, others []*corev1.Pod, allocatable corev1.ResourceList) lack {
	out := lack{}
	if n := allocatable.Pods().Value(); n > 0 && int64(len(others))+1 > n {
		out[corev1.ResourcePods] = int64(len(others)) + 1 - n
	}
	for name := range helper.PodRequests(pod, helper.PodResourcesOptions{}) {
		request := requestOf(pod, name)
		if _, known := allocatable[name]; !known || request == 0 {
			continue
		}
		missing := request - requested(allocatable, name)
		for _, o := range others {
			missing += requestOf(o, name)
		}
		if missing > 0 {
			out[name] = missing
		}
	}
	return out
}

// victims chooses the pods to end so that nothing is lacking; nil if there are not enough. Pods that are Guaranteed are chosen only if the others
// do not suffice, then Burstable ones.
func victims(pods []*corev1.Pod, l lack) []*corev1.Pod {
	classes := map[corev1.PodQOSClass][]*corev1.Pod{}
	for _, p := range pods {
		classes[qosOf(p)] = append(classes[qosOf(p)], p)
	}
	if len(l.without(pods...)) > 0 {
		return nil
	}
	bestEffort, burstable := classes[corev1.PodQOSBestEffort], classes[corev1.PodQOSBurstable]
	out := nearest(classes[corev1.PodQOSGuaranteed], l.without(bestEffort...).without(burstable...))
	out = append(out, nearest(burstable, l.without(bestEffort...).without(out...))...)
	return append(out, nearest(bestEffort, l.without(out...))...)
}

// nearest chooses pods, the nearest to what is missing each time; the pods suffice.
func nearest(pods []*corev1.Pod, l lack) (out []*corev1.Pod) {
	pods = slices.Clone(pods)
	for len(l) > 0 && len(pods) > 0 {
		best := 0
		for i, p := range pods {
			if d, least := l.distance(p), l.distance(pods[best]); d < least || d == least && smaller(p, pods[best]) {
				best = i
			}
		}
		l = l.without(pods[best])
		out = append(out, pods[best])
		pods = slices.Delete(pods, best, best+1)
	}
	return out
}

// smaller says whether a pod requests less than another.
func smaller(a, b *corev1.Pod) bool {
	for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceCPU} {
		if x, y := requestOf(a, name), requestOf(b, name); x != y {
			return x < y
		}
	}
	return a.UID < b.UID
}

// preemptable says whether a critical pod may end another.
func (m *Manager) preemptable(pod, other *corev1.Pod) bool {
	return !m.critical(other) || pod.Spec.Priority != nil && other.Spec.Priority != nil && *pod.Spec.Priority > *other.Spec.Priority
}

// preempt ends pods if a critical pod lacks nothing but their resources. It returns the refusal to report, and whether the pod fits once pods
// that are ending now have ended.
func (m *Manager) preempt(w *worker, pod *corev1.Pod, r *Refusal, node *corev1.Node) (*Refusal, bool) {
	others := m.active(w)
	l := lacking(pod, others, node.Status.Allocatable)
	if len(l) == 0 || !m.critical(pod) {
		return r, false
	}
	if place := fitPlace(pod, others, node); place != nil {
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
	wait := &Refusal{reasonPreempting, "Waiting for other pods to end, as this critical pod needs their resources"}
	if l = l.without(ending...); len(l) == 0 {
		return wait, true
	}
	chosen := victims(candidates, l)
	if chosen == nil {
		return &Refusal{"UnexpectedAdmissionError", "Unexpected error while attempting to recover from admission failure: preemption: " +
			"error finding a set of pods to preempt: no set of running pods found to reclaim resources: " + l.without(candidates...).String()}, false
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
