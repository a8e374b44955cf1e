package pods

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"slices"
	"sort"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/resources"
	"github.com/kontiki/kontiki/node/runtime"
)

// verdict is the result of a container's probes.
type verdict uint8

const (
	probeUnknown verdict = iota
	probeSuccess
	probeFailure
)

// observed is the state of a pod's containers at one moment: by container name, newest first.
type observed struct {
	byName map[string][]runtime.Container
	// sandbox is the generation of the pod's sandbox, "" if it is not known.
	sandbox string
	// alloc is what the pod was granted.
	alloc *resources.Allocation
	// liveness, startup and readiness by container id; absent means no result yet.
	liveness, startup, readiness map[string]verdict
}

func observe(list []runtime.Container) observed {
	o := observed{byName: map[string][]runtime.Container{}}
	for _, c := range list {
		o.byName[c.Name] = append(o.byName[c.Name], c)
	}
	for _, l := range o.byName {
		sort.Slice(l, func(i, j int) bool {
			if l[i].Attempt != l[j].Attempt {
				return l[i].Attempt > l[j].Attempt
			}
			return l[i].CreatedAt.After(l[j].CreatedAt)
		})
	}
	return o
}

// newest returns the newest attempt.
func (o observed) newest(name string) *runtime.Container {
	if l := o.byName[name]; len(l) > 0 {
		return &l[0]
	}
	return nil
}

// latest returns the newest attempt since all containers of the pod were restarted last.
func (o observed) latest(name string) *runtime.Container {
	l := o.newest(name)
	if l == nil || o.superseded(l) {
		return nil
	}
	return l
}

// labelSandbox is the generation of the sandbox in which a container was created.
const labelSandbox = "sandbox"

// current returns the newest attempt, if it was created in the present sandbox: after a reboot the pod starts again, with its init
// containers.
func (o observed) current(name string) *runtime.Container {
	l := o.latest(name)
	if l == nil {
		return nil
	}
	if was := l.Labels[labelSandbox]; o.sandbox != "" && was != "" && was != o.sandbox && l.State != runtime.StateRunning {
		return nil
	}
	return l
}

// started says whether the container is running and has passed its startup probe, if it has one.
func (o observed) started(c *corev1.Container) bool {
	l := o.latest(c.Name)
	if l == nil || l.State != runtime.StateRunning {
		return false
	}
	return c.StartupProbe == nil || o.startup[l.ID] == probeSuccess
}

func isSidecar(c *corev1.Container) bool { return podspec.IsSidecar(c) }

// kill is a container to stop.
type kill struct {
	id        string
	container *corev1.Container
	message   string
	// probe is set if it caused the kill, for the choice of the grace period.
	probe *corev1.Probe
}

// actions are what the next step of a pod's sync does.
type actions struct {
	kill  []kill
	start []*corev1.Container // in order
	init  bool                // start contains init containers
	// ephemeral containers are started independently of all others, once.
	ephemeral []*corev1.Container
	// resize has running containers whose limits change.
	resize []resizing
}

const labelHash = "hash"

// hashOf returns a hash that changes when a running container must be replaced: only the image of a running pod may change.
func hashOf(c *corev1.Container) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s\x00%s", c.Name, c.Image)
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

// restartKey identifies a container for its back-off: with another image or other resources it is tried again at once.
func restartKey(c *corev1.Container) string {
	b, _ := json.Marshal(struct {
		Image     string
		Resources corev1.ResourceRequirements
	}{c.Image, c.Resources}) // cannot fail
	h := fnv.New64a()
	_, _ = h.Write(b)
	return c.Name + "\x00" + strconv.FormatUint(h.Sum64(), 16)
}

// matchingRule returns the action of the first rule that an exit code matches, "" for none.
func matchingRule(c *corev1.Container, exitCode int) corev1.ContainerRestartRuleAction {
	for _, r := range c.RestartPolicyRules {
		if r.ExitCodes == nil {
			continue
		}
		in := slices.Contains(r.ExitCodes.Values, int32(exitCode))
		switch r.ExitCodes.Operator {
		case corev1.ContainerRestartRuleOnExitCodesOpIn:
			if in {
				return r.Action
			}
		case corev1.ContainerRestartRuleOnExitCodesOpNotIn:
			if !in {
				return r.Action
			}
		}
	}
	return ""
}

// shouldRestart says whether an exited container is restarted: by its own rules and policy, then by the pod's policy.
func shouldRestart(pod *corev1.Pod, c *corev1.Container, exitCode int) bool {
	if c.RestartPolicy != nil {
		switch matchingRule(c, exitCode) {
		case corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers:
			return true
		}
		switch *c.RestartPolicy {
		case corev1.ContainerRestartPolicyAlways:
			return true
		case corev1.ContainerRestartPolicyOnFailure:
			return exitCode != 0
		case corev1.ContainerRestartPolicyNever:
			return false
		}
	}
	switch pod.Spec.RestartPolicy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return exitCode != 0
	}
	return true
}

// needsStart says whether the container must be started (again).
func needsStart(pod *corev1.Pod, o observed, c *corev1.Container) bool {
	l := o.latest(c.Name)
	if l == nil {
		return true
	}
	switch l.State {
	case runtime.StateRunning:
		return false
	case runtime.StateCreated:
		return true // created by a previous agent that ended before it could start it
	}
	return shouldRestart(pod, c, l.ExitCode)
}

// unfit returns why a running container must be replaced, or "".
func unfit(o observed, c *corev1.Container, l *runtime.Container, kind string) (string, *corev1.Probe) {
	if h := l.Labels[labelHash]; h != "" && h != hashOf(c) {
		return fmt.Sprintf("%s %s definition changed", kind, c.Name), nil
	}
	if o.liveness[l.ID] == probeFailure {
		return fmt.Sprintf("%s %s failed liveness probe", kind, c.Name), c.LivenessProbe
	}
	if o.startup[l.ID] == probeFailure {
		return fmt.Sprintf("%s %s failed startup probe", kind, c.Name), c.StartupProbe
	}
	return "", nil
}

// initialized says whether the pod's regular containers may run: as soon as one of them has been created, for the lifetime of the
// sandbox.
func initialized(pod *corev1.Pod, o observed) bool {
	for i := range pod.Spec.Containers {
		if o.current(pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	if pod.Spec.RestartPolicy == corev1.RestartPolicyNever {
		for i := range pod.Spec.Containers {
			if o.latest(pod.Spec.Containers[i].Name) != nil {
				return true // it has run, and never runs again
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if isSidecar(c) {
			if !o.started(c) {
				return false
			}
			continue
		}
		if l := o.current(c.Name); l == nil || l.State != runtime.StateExited || l.ExitCode != 0 {
			return false
		}
	}
	return true
}

// computeActions decides the next step. It depends only on its arguments and changes nothing.
func computeActions(pod *corev1.Pod, o observed) actions {
	var a actions
	for c, kind := range podspec.Containers(pod) {
		if kind != podspec.Ephemeral {
			continue
		}
		if l := o.latest(c.Name); l == nil || l.State == runtime.StateCreated {
			a.ephemeral = append(a.ephemeral, c)
		}
	}
	if restartsAll(pod, o) {
		return a // the worker begins another round first
	}
	done := initialized(pod, o)
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		l := o.current(c.Name)
		if l != nil && l.State == runtime.StateRunning {
			if why, probe := unfit(o, c, l, "Init container"); why != "" && (isSidecar(c) || !done) {
				a.kill = append(a.kill, kill{l.ID, c, why, probe})
				if isSidecar(c) || pod.Spec.RestartPolicy != corev1.RestartPolicyNever {
					a.start, a.init = append(a.start, c), true
				}
				if !isSidecar(c) {
					return a
				}
				continue
			}
			if a.resized(pod, o, c, l) {
				a.init = true
				continue
			}
		}
		if isSidecar(c) {
			if needsStart(pod, o, c) {
				a.start, a.init = append(a.start, c), true
			}
			if !done && !o.started(c) {
				return a // the next one waits until this one has started
			}
			continue
		}
		if done {
			continue
		}
		switch {
		case l == nil || l.State == runtime.StateCreated:
			a.start, a.init = append(a.start, c), true
			return a
		case l.State == runtime.StateRunning:
			return a
		case l.ExitCode != 0:
			if shouldRestart(pod, c, l.ExitCode) {
				a.start, a.init = append(a.start, c), true
			}
			return a
		}
	}
	if !done {
		return a
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if l := o.latest(c.Name); l != nil && l.State == runtime.StateRunning {
			if why, probe := unfit(o, c, l, "Container"); why != "" {
				restart := shouldRestart(pod, c, 137)
				if restart {
					why += ", will be restarted"
				}
				a.kill = append(a.kill, kill{l.ID, c, why, probe})
				if restart {
					a.start = append(a.start, c)
				}
			} else {
				a.resized(pod, o, c, l)
			}
			continue
		}
		if needsStart(pod, o, c) {
			a.start = append(a.start, c)
		}
	}
	return a
}

// resized adds what a running container needs for its limits to become the allocated ones, and returns true if that is a restart.
func (a *actions) resized(pod *corev1.Pod, o observed, c *corev1.Container, l *runtime.Container) bool {
	r, restart := resizeOf(pod, o, c, l)
	switch {
	case r == nil:
	case restart:
		a.kill = append(a.kill, kill{l.ID, c, fmt.Sprintf("Container %s resize requires restart", c.Name), nil})
		a.start = append(a.start, c)
		return true
	default:
		a.resize = append(a.resize, *r)
	}
	return false
}

// lastFailure returns when the newest attempt ended, for back-off; zero if there was none, or if it was stopped because all
// containers of the pod were restarted.
func lastFailure(o observed, c *corev1.Container) time.Time {
	l := o.newest(c.Name)
	if l == nil || l.State != runtime.StateExited || o.superseded(l) && !causesRestart(c, l) {
		return time.Time{}
	}
	return l.FinishedAt
}
