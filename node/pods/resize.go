package pods

import (
	"cmp"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helper "k8s.io/component-helpers/resource"

	"github.com/kontiki/kontiki/internal/amount"
	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/runtime"
)

// allocation is the CPU and memory that the node has granted to a pod, and what of it is set in the cgroups. A change of the pod's
// spec is granted when it fits beside the other pods (Manager.resize), and then set by the pod's worker (worker.resizeContainers).
// It is stored in the pod's directory and never changed: a new allocation replaces it.
type allocation struct {
	Pod        *corev1.ResourceRequirements           `json:"pod,omitempty"`
	Containers map[string]corev1.ResourceRequirements `json:"containers"`
	// AppliedPod is set in the pod's cgroup, Applied in those of containers that were resized since they were created, by ID. The
	// label of any other container has its values.
	AppliedPod runtime.Resources `json:"appliedPod"`
	Applied    map[string]limits `json:"applied,omitempty"`
	// Round counts how often all containers of the pod were restarted by a rule.
	Round int `json:"round,omitempty"`
	// Handler is what the pod's RuntimeClass named when its sandbox was created, nil before that.
	Handler *string `json:"handler,omitempty"`
}

// limits are one container's CPU, in thousandths, and memory in bytes. What the container does not limit, its pod may.
type limits struct {
	CPURequest    int64 `json:"cpuRequest,omitempty"`
	CPULimit      int64 `json:"cpuLimit,omitempty"`
	MemoryRequest int64 `json:"memoryRequest,omitempty"`
	MemoryLimit   int64 `json:"memoryLimit,omitempty"`
}

// limitsOf returns a container's limits, where those of the pod hold for what the container does not limit.
func limitsOf(pod *corev1.Pod, c *corev1.Container) limits {
	req, lim := c.Resources.Requests, c.Resources.Limits
	l := limits{CPURequest: amount.Milli(req.Cpu()), CPULimit: amount.Milli(lim.Cpu()), MemoryRequest: amount.Value(req.Memory()), MemoryLimit: amount.Value(lim.Memory())}
	if r := pod.Spec.Resources; r != nil {
		if l.CPULimit == 0 {
			l.CPULimit = amount.Milli(r.Limits.Cpu())
		}
		if l.MemoryLimit == 0 {
			l.MemoryLimit = amount.Value(r.Limits.Memory())
		}
	}
	return l
}

// labelLimits has the limits with which a container was created.
const labelLimits = "limits"

func (l limits) label() string {
	b, _ := json.Marshal(l) // cannot fail
	return string(b)
}

// allocate grants a pod what its spec requires.
func allocate(pod *corev1.Pod) *allocation {
	a := &allocation{Pod: pod.Spec.Resources, Containers: map[string]corev1.ResourceRequirements{}, AppliedPod: podResources(pod)}
	for c, kind := range podspec.Containers(pod) {
		if kind != podspec.Ephemeral {
			a.Containers[c.Name] = c.Resources
		}
	}
	return a
}

// grant returns an allocation of what a pod's spec requires, with nothing of the change set yet.
func (a *allocation) grant(pod *corev1.Pod) *allocation {
	next := allocate(pod)
	next.AppliedPod, next.Applied, next.Round, next.Handler = a.AppliedPod, a.Applied, a.Round, a.Handler
	return next
}

// granted says whether the allocation is what a pod's spec requires.
func (a *allocation) granted(pod *corev1.Pod) bool { return a.apply(pod) == pod }

// apply returns the pod with the allocated resources in its spec: pod itself if they are the same.
func (a *allocation) apply(pod *corev1.Pod) *corev1.Pod {
	if a == nil {
		return pod
	}
	out := pod
	change := func() *corev1.Pod {
		if out == pod {
			out = pod.DeepCopy()
		}
		return out
	}
	if !equality.Semantic.DeepEqual(a.Pod, pod.Spec.Resources) {
		change().Spec.Resources = a.Pod
	}
	for c, kind := range podspec.Containers(pod) {
		if r, ok := a.Containers[c.Name]; ok && kind != podspec.Ephemeral && !equality.Semantic.DeepEqual(r, c.Resources) {
			mine, _ := podspec.Container(change(), c.Name)
			mine.Resources = r
		}
	}
	return out
}

// applied returns the limits of a container's cgroup, false if they are not known: an earlier version of the agent created it.
func (a *allocation) applied(c *runtime.Container) (l limits, known bool) {
	if a != nil {
		if l, known = a.Applied[c.ID]; known {
			return l, true
		}
	}
	known = json.Unmarshal([]byte(c.Labels[labelLimits]), &l) == nil
	return l, known
}

// with returns the allocation after containers were resized. Containers that no longer run are dropped.
func (a *allocation) with(pod runtime.Resources, containers map[string]limits, running func(id string) bool) *allocation {
	next := *a
	next.AppliedPod, next.Applied = pod, maps.Clone(a.Applied)
	if next.Applied == nil {
		next.Applied = map[string]limits{}
	}
	maps.Copy(next.Applied, containers)
	maps.DeleteFunc(next.Applied, func(id string, _ limits) bool { return !running(id) })
	return &next
}

// allocationFile stores a pod's allocation. It need not survive a crash of the host, after which nothing of the pod is running.
const allocationFile = "allocation.json"

func (a *allocation) save(dir string) error {
	b, err := json.Marshal(a)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	path := filepath.Join(dir, allocationFile)
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// loadAllocation returns the stored allocation, nil if there is none.
func loadAllocation(dir string) (*allocation, error) {
	b, err := os.ReadFile(filepath.Join(dir, allocationFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	a := &allocation{}
	if err == nil {
		err = json.Unmarshal(b, a)
	}
	if err != nil {
		return nil, err
	}
	return a, nil
}

// setPodLocked sets the pod's version in the API. The caller holds mu.
func (w *worker) setPodLocked(pod *corev1.Pod) {
	w.desired = pod
	w.pod = w.alloc.apply(pod)
}

// setAllocationLocked replaces the allocation. The caller holds mu.
func (w *worker) setAllocationLocked(a *allocation) {
	w.alloc = a
	w.pod = a.apply(w.desired)
	if err := a.save(w.m.podDir(w.uid)); err != nil {
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
	if w.alloc.granted(w.desired) {
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
	if qosOf(w.desired) != corev1.PodQOSGuaranteed {
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
	r := fit(pod, others, node)
	if r == nil {
		w.pendingResize = nil
		w.doingResize = resizeCondition(corev1.PodResizeInProgress, nil, "", "", pod.Generation)
		w.setAllocationLocked(w.alloc.grant(pod))
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

// less orders limits, where 0 means none and is more than any other.
func less(a, b int64) bool { return compareLimits(a, b) < 0 }

func compareLimits(a, b int64) int {
	switch {
	case a == b:
		return 0
	case a == 0:
		return 1
	case b == 0:
		return -1
	}
	return cmp.Compare(a, b)
}
