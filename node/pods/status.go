package pods

import (
	"fmt"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helper "k8s.io/component-helpers/resource"

	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/resources"
	"github.com/kontiki/kontiki/node/runtime"
)

// containerIDPrefix begins the IDs of containers in statuses, which name the runtime.
const containerIDPrefix = "containerd://"

// waiting is the reason why a container is not running.
type waiting struct {
	reason  error
	message string
}

// statusInput has everything that a pod's status is computed from.
type statusInput struct {
	pod     *corev1.Pod
	old     corev1.PodStatus // the previous status
	o       observed
	waits   map[string]waiting // by container name
	message func(c runtime.Container) string
	hostIP  string
	podIPs  []string
	sandbox bool // the sandbox and its network exist
	// terminal means that the pod has finished or is being stopped, so stopped containers are not started again.
	terminal bool
	now      metav1.Time
	// stop is why the pod ends: its reason makes the phase Failed, its condition is added.
	stop Stop
	// rejected means that the pod was not admitted: nothing of it was ever created.
	rejected bool
	// readOnly means that recursive read-only mounts are supported here.
	readOnly bool
	// resize are conditions about a resize of the pod.
	resize []corev1.PodCondition
	// devices returns the devices of a container, and whether they are healthy; nil if the node has none.
	devices func(container string) []corev1.ResourceStatus
}

// makeStatus computes the status as the API shows it. It is a pure function.
func makeStatus(in statusInput) corev1.PodStatus {
	pod, spec := in.pod, &in.pod.Spec
	s := corev1.PodStatus{
		ObservedGeneration:    pod.Generation,
		QOSClass:              podspec.QOS(pod),
		NominatedNodeName:     "",
		HostIP:                in.hostIP,
		StartTime:             in.old.StartTime,
		Resize:                "",
		ResourceClaimStatuses: pod.Status.ResourceClaimStatuses,
	}
	if s.StartTime == nil {
		s.StartTime = &in.now
	}
	if in.rejected {
		s.HostIP = ""
		s.Phase, s.Reason, s.Message = corev1.PodFailed, in.stop.Reason, in.stop.Message
		s.Conditions = foreignConditions(pod)
		if c := condition(pod.Status.Conditions, corev1.PodScheduled); c != nil {
			s.Conditions = append(s.Conditions, *c)
		}
		return s
	}
	if in.hostIP != "" {
		s.HostIPs = []corev1.HostIP{{IP: in.hostIP}}
	}
	ips := in.podIPs
	if spec.HostNetwork && in.hostIP != "" {
		ips = []string{in.hostIP}
	}
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, corev1.PodIP{IP: ip})
	}
	if len(ips) > 0 {
		s.PodIP = ips[0]
	}
	s.InitContainerStatuses = containerStatuses(in, podspec.Init, in.old.InitContainerStatuses)
	s.ContainerStatuses = containerStatuses(in, podspec.Regular, in.old.ContainerStatuses)
	sort.Slice(s.ContainerStatuses, func(i, j int) bool { return s.ContainerStatuses[i].Name < s.ContainerStatuses[j].Name })
	if in.devices != nil {
		for i := range s.ContainerStatuses {
			s.ContainerStatuses[i].AllocatedResourcesStatus = in.devices(s.ContainerStatuses[i].Name)
		}
	}
	s.EphemeralContainerStatuses = containerStatuses(in, podspec.Ephemeral, in.old.EphemeralContainerStatuses)

	s.Phase = phaseOf(in, s)
	if isTerminal(in.old.Phase) { // a terminal phase is final
		s.Phase = in.old.Phase
	}
	if s.Phase == in.old.Phase {
		s.Reason, s.Message = in.old.Reason, in.old.Message
	}
	if in.stop.Reason != "" && !isTerminal(in.old.Phase) {
		s.Phase, s.Reason, s.Message = corev1.PodFailed, in.stop.Reason, in.stop.Message
	}
	s.Conditions = conditions(in, s)
	if !isTerminal(s.Phase) {
		s.Conditions = append(s.Conditions, in.resize...)
	}
	s.AllocatedResources = helper.PodRequests(pod, helper.PodResourcesOptions{})
	s.Resources = podStatusResources(in, s.Phase)
	return s
}

// podStatusResources returns the resources of the pod as a whole: what is set in its cgroup, while it is running, and what it was granted
// otherwise.
func podStatusResources(in statusInput, phase corev1.PodPhase) *corev1.ResourceRequirements {
	r := &corev1.ResourceRequirements{Requests: helper.PodRequests(in.pod, helper.PodResourcesOptions{}), Limits: helper.PodLimits(in.pod, helper.PodResourcesOptions{})}
	if phase != corev1.PodRunning || in.o.alloc == nil {
		return r
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
		if _, limited := podspec.Limit(in.pod, name); !limited {
			delete(r.Limits, name)
		}
	}
	have, want := in.o.alloc.AppliedPod, resources.ForPod(in.pod)
	if have.CPUShares != want.CPUShares {
		r.Requests[corev1.ResourceCPU] = *resource.NewMilliQuantity(resources.MilliCPU(have.CPUShares), resource.DecimalSI)
	}
	if have.CPUQuota != want.CPUQuota && have.CPUQuota > 0 {
		r.Limits[corev1.ResourceCPU] = *resource.NewMilliQuantity(have.CPUQuota*1000/resources.CPUPeriod, resource.DecimalSI)
	}
	if have.MemoryLimit != want.MemoryLimit && have.MemoryLimit > 0 {
		r.Limits[corev1.ResourceMemory] = *resource.NewQuantity(have.MemoryLimit, resource.BinarySI)
	}
	return r
}

// runningResources returns the resources that are set for a running container.
func runningResources(in statusInput, c *corev1.Container, l *runtime.Container) *corev1.ResourceRequirements {
	r := c.Resources.DeepCopy()
	have, known := in.o.alloc.AppliedTo(l)
	want := resources.LimitsOf(in.pod, c)
	if l.State != runtime.StateRunning || !known || have == want {
		return r
	}
	set := func(list corev1.ResourceList, name corev1.ResourceName, have, want int64, quantity *resource.Quantity) {
		if list != nil && have != want && have > 0 {
			list[name] = *quantity
		}
	}
	set(r.Limits, corev1.ResourceCPU, have.CPULimit, want.CPULimit, resource.NewMilliQuantity(have.CPULimit, resource.DecimalSI))
	set(r.Limits, corev1.ResourceMemory, have.MemoryLimit, want.MemoryLimit, resource.NewQuantity(have.MemoryLimit, resource.BinarySI))
	set(r.Requests, corev1.ResourceCPU, have.CPURequest, want.CPURequest, resource.NewMilliQuantity(have.CPURequest, resource.DecimalSI))
	set(r.Requests, corev1.ResourceMemory, have.MemoryRequest, want.MemoryRequest, resource.NewQuantity(have.MemoryRequest, resource.BinarySI))
	return r
}

func isTerminal(p corev1.PodPhase) bool { return p == corev1.PodFailed || p == corev1.PodSucceeded }

func containerStatuses(in statusInput, kind podspec.Kind, old []corev1.ContainerStatus) []corev1.ContainerStatus {
	var out []corev1.ContainerStatus
	for c, k := range podspec.Containers(in.pod) {
		if k == kind {
			out = append(out, containerStatus(in, c, find(old, c.Name), kind))
		}
	}
	boundMessages(in.pod, out)
	return out
}

// maxPodMessages limits the total size of the termination messages of a pod, in equal shares.
const maxPodMessages = 12 << 10

func boundMessages(pod *corev1.Pod, statuses []corev1.ContainerStatus) {
	share := maxPodMessages / max(1, len(pod.Spec.InitContainers)+len(pod.Spec.Containers)+len(pod.Spec.EphemeralContainers))
	for i := range statuses {
		for _, state := range []*corev1.ContainerState{&statuses[i].State, &statuses[i].LastTerminationState} {
			if t := state.Terminated; t != nil && len(t.Message) > share {
				short := *t
				short.Message = lastBytes(t.Message, share)
				state.Terminated = &short
			}
		}
	}
}

func find(l []corev1.ContainerStatus, name string) *corev1.ContainerStatus {
	for i := range l {
		if l[i].Name == name {
			return &l[i]
		}
	}
	return nil
}

func containerStatus(in statusInput, c *corev1.Container, old *corev1.ContainerStatus, kind podspec.Kind) corev1.ContainerStatus {
	init := kind == podspec.Init
	attempts := in.o.byName[c.Name]
	no := false
	s := corev1.ContainerStatus{Name: c.Name, Image: c.Image, Started: &no}
	for _, m := range c.VolumeMounts {
		vs := corev1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := corev1.RecursiveReadOnlyDisabled
			if recursiveReadOnly(m, in.readOnly) {
				mode = corev1.RecursiveReadOnlyEnabled
			}
			vs.RecursiveReadOnly = &mode
		}
		s.VolumeMounts = append(s.VolumeMounts, vs)
	}
	if len(attempts) == 0 {
		if old != nil {
			if old.State.Terminated != nil {
				return *old
			}
			s.RestartCount, s.LastTerminationState = old.RestartCount, old.LastTerminationState
		}
		reason := "ContainerCreating"
		if len(in.pod.Spec.InitContainers) > 0 && kind != podspec.Ephemeral {
			reason = "PodInitializing"
		}
		s.State.Waiting = &corev1.ContainerStateWaiting{Reason: reason}
		switch {
		case init && !isSidecar(c) && anyRegular(in):
			// It was removed since: regular containers exist, so it must have succeeded.
			s.State = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed",
				Message: "Unable to get init container status from container runtime and pod has been initialized, treat it as exited normally"}}
			s.Ready = true
		case old != nil && old.State.Running != nil && s.LastTerminationState.Terminated == nil:
			// It was running when last seen, and nothing is left of it, as after a loss of the runtime's data.
			s.LastTerminationState.Terminated = &corev1.ContainerStateTerminated{Reason: "ContainerStatusUnknown", ExitCode: 137,
				Message: "The container could not be located when the pod was deleted.  The container used to be Running"}
			if in.pod.DeletionTimestamp == nil {
				s.RestartCount++
			}
		}
		if w, ok := in.waits[c.Name]; ok && s.State.Waiting != nil {
			s.State.Waiting = &corev1.ContainerStateWaiting{Reason: w.reason.Error(), Message: w.message}
		}
		return s
	}
	cur := attempts[0]
	if in.o.superseded(&cur) && !in.terminal {
		return supersededStatus(in, c, s, cur)
	}
	s.RestartCount = int32(cur.Attempt)
	s.ContainerID = containerIDPrefix + cur.ID
	s.ImageID = cur.ImageRef
	s.AllocatedResources = c.Resources.Requests
	s.Resources = runningResources(in, c, &cur)
	if cur.Image != "" {
		s.Image = cur.Image
	}
	if cur.User != nil {
		s.User = &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: cur.User.UID, GID: cur.User.GID, SupplementalGroups: cur.User.Groups}}
	}
	s.State = stateOf(in, cur)
	if len(attempts) > 1 {
		s.LastTerminationState = stateOf(in, attempts[1])
		if in.o.superseded(&attempts[1]) && !causesRestart(c, &attempts[1]) {
			s.LastTerminationState.Terminated = restartedWithAll()
		}
	} else if old != nil && old.RestartCount == s.RestartCount {
		s.LastTerminationState = old.LastTerminationState
	} else if old != nil && old.State.Terminated != nil && old.ContainerID != s.ContainerID {
		s.LastTerminationState = old.State
	}
	// A container that will be started again, but not yet, is waiting.
	if w, ok := in.waits[c.Name]; ok && !in.terminal && kind != podspec.Ephemeral && s.State.Running == nil && needsStart(in.pod, in.o, c) && !(init && !isSidecar(c) && cur.State == runtime.StateExited && cur.ExitCode == 0) {
		if s.State.Terminated != nil {
			s.LastTerminationState = s.State
		}
		s.State = corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: w.reason.Error(), Message: w.message}}
	}
	started := in.o.started(c)
	s.Started = &started
	switch {
	case kind == podspec.Ephemeral:
		s.Started = nil
	case init && !isSidecar(c):
		s.Ready = s.State.Terminated != nil && s.State.Terminated.ExitCode == 0
		if !s.Ready && s.State.Running == nil {
			started = false
		}
	case s.State.Running != nil && started:
		s.Ready = c.ReadinessProbe == nil || in.o.readiness[cur.ID] == probeSuccess
	}
	return s
}

func anyRegular(in statusInput) bool {
	for i := range in.pod.Spec.Containers {
		if in.o.latest(in.pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

func stateOf(in statusInput, c runtime.Container) corev1.ContainerState {
	switch c.State {
	case runtime.StateRunning:
		return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(c.StartedAt)}}
	case runtime.StateExited:
		t := &corev1.ContainerStateTerminated{ExitCode: int32(c.ExitCode), Reason: c.Reason, Message: c.Message,
			StartedAt: metav1.NewTime(c.StartedAt), FinishedAt: metav1.NewTime(c.FinishedAt), ContainerID: containerIDPrefix + c.ID}
		if t.Reason == "" {
			t.Reason = "Error"
			if c.ExitCode == 0 {
				t.Reason = "Completed"
			}
		}
		if m := in.message(c); m != "" {
			if t.Message != "" {
				t.Message += ": "
			}
			t.Message += m
		}
		return corev1.ContainerState{Terminated: t}
	}
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}
}

// phaseOf counts containers by state, as the kubelet does.
func phaseOf(in statusInput, s corev1.PodStatus) corev1.PodPhase {
	pod := in.pod
	regular := false
	for i := range pod.Spec.Containers {
		if l := in.o.latest(pod.Spec.Containers[i].Name); l != nil && l.State != runtime.StateCreated {
			regular = true
		}
	}
	pendingInit, pendingSidecar, waitingN, running, unknown := 0, 0, 0, 0, 0
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		st := find(s.InitContainerStatuses, c.Name)
		last := st.LastTerminationState.Terminated
		if isSidecar(c) {
			switch {
			case st.State.Running != nil:
				if !*st.Started {
					pendingSidecar++
				}
				running++
			case st.State.Waiting != nil && last == nil:
				pendingSidecar++
				waitingN++
			}
			continue
		}
		end := st.State.Terminated
		if st.State.Waiting != nil {
			end = last
		}
		switch {
		case end == nil:
			pendingInit++
		case end.ExitCode != 0 && !comesBack(pod, c, end):
			return corev1.PodFailed
		}
	}
	stopped, final, succeeded := 0, 0, 0
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		st := find(s.ContainerStatuses, c.Name)
		last := st.LastTerminationState.Terminated
		switch {
		case st.State.Running != nil:
			running++
		case st.State.Terminated != nil:
			stopped++
			if !comesBack(pod, c, st.State.Terminated) {
				final++
			}
			if st.State.Terminated.ExitCode == 0 {
				succeeded++
			}
		case st.State.Waiting != nil && last != nil:
			stopped++
			if !comesBack(pod, c, last) {
				final++
			}
		case st.State.Waiting != nil:
			waitingN++
		default:
			unknown++
		}
	}
	switch {
	case pendingInit > 0 || pendingSidecar > 0 && !regular, waitingN > 0:
		return corev1.PodPending
	case running > 0 && unknown == 0:
		return corev1.PodRunning
	case stopped > 0 && unknown == 0:
		if !in.terminal && final < stopped {
			return corev1.PodRunning
		}
		if stopped == succeeded {
			return corev1.PodSucceeded
		}
		return corev1.PodFailed
	}
	return corev1.PodPending
}

func conditions(in statusInput, s corev1.PodStatus) []corev1.PodCondition {
	out := foreignConditions(in.pod) // conditions set by others are kept
	gates := out
	start := corev1.PodCondition{Type: corev1.PodReadyToStartContainers, Status: corev1.ConditionTrue}
	if !in.sandbox {
		start.Status = corev1.ConditionFalse
	}
	if c := in.stop.Condition; c != nil {
		mine := *c
		mine.LastTransitionTime = in.now
		if old := condition(out, c.Type); old != nil {
			if old.Status == c.Status && !old.LastTransitionTime.IsZero() {
				mine.LastTransitionTime = old.LastTransitionTime
			}
			*old = mine
		} else {
			if old := condition(in.old.Conditions, c.Type); old != nil && old.Status == c.Status {
				mine.LastTransitionTime = old.LastTransitionTime
			}
			out = append(out, mine)
		}
	}
	out = append(out, start, initializedCondition(in, s))
	containers := containersReady(in, s)
	ready := containers
	ready.Type = corev1.PodReady
	if ready.Status == corev1.ConditionTrue {
		var missing []string
		for _, g := range in.pod.Spec.ReadinessGates {
			c := condition(gates, g.ConditionType)
			if c == nil {
				missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", g.ConditionType))
			} else if c.Status != corev1.ConditionTrue {
				missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", g.ConditionType, c.Status))
			}
		}
		if len(missing) > 0 {
			ready.Status, ready.Reason, ready.Message = corev1.ConditionFalse, "ReadinessGatesNotReady", strings.Join(missing, ", ")
		}
	}
	out = append(out, ready, containers, corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue})
	if mayRestartAll(in.pod) {
		out = append(out, restartingCondition(in, s.Phase))
	}
	for i := range out {
		c := &out[i]
		if !ownCondition(c.Type) {
			continue
		}
		c.ObservedGeneration = in.pod.Generation
		c.LastTransitionTime = in.now
		for _, o := range [][]corev1.PodCondition{in.old.Conditions, in.pod.Status.Conditions} {
			if old := condition(o, c.Type); old != nil && old.Status == c.Status && !old.LastTransitionTime.IsZero() {
				c.LastTransitionTime = old.LastTransitionTime
				break
			}
		}
	}
	return out
}

func ownCondition(t corev1.PodConditionType) bool {
	switch t {
	case corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled,
		corev1.PodResizePending, corev1.PodResizeInProgress, corev1.AllContainersRestarting:
		return true
	}
	return false
}

func foreignConditions(pod *corev1.Pod) []corev1.PodCondition {
	var out []corev1.PodCondition
	for _, c := range pod.Status.Conditions {
		if !ownCondition(c.Type) {
			out = append(out, c)
		}
	}
	return out
}

func condition(l []corev1.PodCondition, t corev1.PodConditionType) *corev1.PodCondition {
	for i := range l {
		if l[i].Type == t {
			return &l[i]
		}
	}
	return nil
}

func initializedCondition(in statusInput, s corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.PodInitialized, Status: corev1.ConditionTrue}
	if s.Phase == corev1.PodSucceeded {
		c.Reason = "PodCompleted"
		return c
	}
	for _, st := range s.ContainerStatuses {
		if st.State.Running != nil || st.State.Terminated != nil || st.LastTerminationState.Terminated != nil {
			return c
		}
	}
	var incomplete []string
	for i := range in.pod.Spec.InitContainers {
		ic := &in.pod.Spec.InitContainers[i]
		st := find(s.InitContainerStatuses, ic.Name)
		if isSidecar(ic) && !*st.Started || !isSidecar(ic) && !st.Ready {
			incomplete = append(incomplete, ic.Name)
		}
	}
	if was := condition(in.old.Conditions, corev1.PodInitialized); was != nil && was.Status == corev1.ConditionTrue {
		return c // what is initialized stays so
	}
	if len(incomplete) > 0 {
		c.Status, c.Reason = corev1.ConditionFalse, "ContainersNotInitialized"
		c.Message = fmt.Sprintf("containers with incomplete status: %s", incomplete)
	}
	return c
}

func containersReady(in statusInput, s corev1.PodStatus) corev1.PodCondition {
	c := corev1.PodCondition{Type: corev1.ContainersReady, Status: corev1.ConditionFalse}
	switch s.Phase {
	case corev1.PodSucceeded:
		c.Reason = "PodCompleted"
		return c
	case corev1.PodFailed:
		c.Reason = "PodFailed"
		return c
	}
	var unready []string
	for i := range in.pod.Spec.InitContainers {
		ic := &in.pod.Spec.InitContainers[i]
		if isSidecar(ic) && !find(s.InitContainerStatuses, ic.Name).Ready {
			unready = append(unready, ic.Name)
		}
	}
	for i := range in.pod.Spec.Containers {
		if name := in.pod.Spec.Containers[i].Name; !find(s.ContainerStatuses, name).Ready {
			unready = append(unready, name)
		}
	}
	if len(unready) > 0 {
		c.Reason, c.Message = "ContainersNotReady", fmt.Sprintf("containers with unready status: %s", unready)
		return c
	}
	c.Status = corev1.ConditionTrue
	return c
}

// sameStatus says whether two statuses are equal, so that a report is not necessary.
func sameStatus(a, b *corev1.PodStatus) bool { return equality.Semantic.DeepEqual(a, b) }
