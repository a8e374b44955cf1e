package pods

import (
	"encoding/json"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helper "k8s.io/component-helpers/resource"

	"github.com/kontiki/kontiki/node/fit"
	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/resources"
)

// setPodLocked sets the pod's version in the API. The caller holds mu.
func (w *worker) setPodLocked(pod *corev1.Pod) {
	w.desired = pod
	w.pod = w.alloc.Apply(pod)
}

// setAllocationLocked replaces the allocation. The caller holds mu.
func (w *worker) setAllocationLocked(a *resources.Allocation) {
	w.alloc = a
	w.pod = a.Apply(w.desired)
	w.m.changes.Tell()
	if err := a.Save(w.m.podDir(w.uid)); err != nil {
		w.log.Warn("the resources of the pod could not be written to disk", "err", err)
	}
}

// wantsResize says whether the pod requires other resources than it was granted, and whether that may be possible.
func (w *worker) wantsResize() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.wantsResizeLocked()
}

func (w *worker) wantsResizeLocked() bool {
	if !w.active || w.removed || w.stop != nil || w.alloc == nil {
		return false
	}
	if w.alloc.Granted(w.desired) {
		w.pendingResize = nil // it may have been taken back
		return false
	}
	p := w.pendingResize
	return p == nil || p.Reason != corev1.PodReasonInfeasible || p.ObservedGeneration != w.desired.Generation
}

// resize grants pods the resources that their changed specs require, if they fit. It is called when a pod's spec has changed, when a
// pod has freed resources, and from time to time. What does not fit is deferred.
func (m *Manager) resize() {
	m.admission.Lock()
	defer m.admission.Unlock()
	m.mu.Lock()
	var waiting []*worker
	for _, w := range m.workers {
		if w.wantsResize() {
			waiting = append(waiting, w)
		}
	}
	m.mu.Unlock()
	if len(waiting) == 0 {
		return
	}
	type request struct {
		w   *worker
		key []int64
	}
	var requests []request
	for _, w := range waiting {
		requests = append(requests, request{w, w.resizeOrder()})
	}
	slices.SortStableFunc(requests, func(a, b request) int { return slices.Compare(a.key, b.key) })
	node := m.nodeForFit()
	for _, r := range requests {
		r.w.tryResize(m.active(r.w), node)
	}
}

// resizeOrder returns the place of a pod among those that wait to be resized: first those that need nothing more, then by priority,
// by QoS class, and by how long they have waited.
func (w *worker) resizeOrder() []int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, after := helper.PodRequests(w.pod, helper.PodResourcesOptions{}), helper.PodRequests(w.desired, helper.PodResourcesOptions{})
	var more, priority, class, since int64
	if after.Memory().Cmp(*before.Memory()) > 0 || after.Cpu().Cmp(*before.Cpu()) > 0 {
		more = 1
	}
	if p := w.desired.Spec.Priority; p != nil {
		priority = int64(*p)
	}
	if podspec.QOS(w.desired) != corev1.PodQOSGuaranteed {
		class = 1
	}
	since = 1 << 62
	if p := w.pendingResize; p != nil {
		since = p.LastTransitionTime.UnixNano()
	}
	return []int64{more, -priority, class, since}
}

// tryResize grants the pod what its spec requires, or defers that. The caller holds the manager's lock on admission.
func (w *worker) tryResize(others []*corev1.Pod, node *corev1.Node) {
	w.mu.Lock()
	if !w.wantsResizeLocked() {
		w.mu.Unlock()
		return
	}
	pod := w.desired
	if w.m.c.Hardware != nil {
		if why := w.m.c.Hardware.Fixed(w.pod, pod); why != "" {
			w.pendingResize = resizeCondition(corev1.PodResizePending, w.pendingResize, corev1.PodReasonInfeasible, why, pod.Generation)
			w.mu.Unlock()
			w.event("", corev1.EventTypeWarning, "ResizeInfeasible", resizeMessage("Pod resize Infeasible", pod, pod.Generation, why))
			w.poke()
			return
		}
	}
	r := fit.Check(pod, others, node)
	if r == nil {
		w.pendingResize = nil
		w.doingResize = resizeCondition(corev1.PodResizeInProgress, nil, "", "", pod.Generation)
		w.setAllocationLocked(w.alloc.Grant(pod))
		w.mu.Unlock()
		w.event("", corev1.EventTypeNormal, "ResizeStarted", resizeMessage("Pod resize started", pod, pod.Generation, ""))
		w.poke()
		return
	}
	old := w.pendingResize
	w.pendingResize = resizeCondition(corev1.PodResizePending, old, corev1.PodReasonDeferred, r.Message, pod.Generation)
	w.mu.Unlock()
	if old == nil || old.Reason != corev1.PodReasonDeferred || old.ObservedGeneration != pod.Generation {
		w.event("", corev1.EventTypeWarning, "ResizeDeferred", resizeMessage("Pod resize "+r.Reason, pod, pod.Generation, r.Message))
	}
	if old == nil || *old != *w.pendingResize {
		w.poke()
	}
}

func resizeCondition(t corev1.PodConditionType, old *corev1.PodCondition, reason, message string, generation int64) *corev1.PodCondition {
	now := metav1.Now().Rfc3339Copy()
	c := &corev1.PodCondition{Type: t, Status: corev1.ConditionTrue, Reason: reason, Message: message, ObservedGeneration: generation, LastProbeTime: now, LastTransitionTime: now}
	if old != nil && old.Reason == reason {
		c.LastTransitionTime = old.LastTransitionTime
		if old.Message == message && old.ObservedGeneration == generation {
			c.LastProbeTime = old.LastProbeTime // a look alone is not reported
		}
	}
	return c
}

// resizeMessage returns the kubelet's message of an event about a resize.
func resizeMessage(prefix string, pod *corev1.Pod, generation int64, problem string) string {
	type container struct {
		Name      string                      `json:"name"`
		Resources corev1.ResourceRequirements `json:"resources,omitempty"`
	}
	var all struct {
		Init       []container `json:"initContainers,omitempty"`
		Containers []container `json:"containers,omitempty"`
		Generation int64       `json:"generation"`
		Error      string      `json:"error,omitempty"`
	}
	all.Generation, all.Error = generation, problem
	for c, kind := range podspec.Containers(pod) {
		switch kind {
		case podspec.Init:
			all.Init = append(all.Init, container{c.Name, c.Resources})
		case podspec.Regular:
			all.Containers = append(all.Containers, container{c.Name, c.Resources})
		}
	}
	b, err := json.Marshal(all)
	if err != nil {
		return prefix
	}
	return prefix + ": " + string(b)
}

// resizeConditionsLocked returns the conditions about a resize that the pod's status has. The caller holds mu.
func (w *worker) resizeConditionsLocked() []corev1.PodCondition {
	var out []corev1.PodCondition
	for _, c := range []*corev1.PodCondition{w.pendingResize, w.doingResize} {
		if c != nil {
			out = append(out, *c)
		}
	}
	return out
}
