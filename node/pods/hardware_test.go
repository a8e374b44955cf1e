package pods

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/node/runtime"
)

// machine is a Hardware that records what it is asked.
type machine struct {
	mu                                    sync.Mutex
	calls                                 []string
	allocate, prepare, container, release error
	pods                                  []types.UID
	fixed                                 string
	slow                                  bool // Allocate ends with its context
}

func (m *machine) say(call string, err *error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.calls = append(m.calls, call)
	return *err
}

// set changes an answer.
func (m *machine) set(answer *error, to error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	*answer = to
}

// took returns the calls since it was called last, each once.
func (m *machine) took() []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer func() { m.calls = nil }()
	return slices.Compact(m.calls)
}

func (m *machine) Manages(name corev1.ResourceName) bool { return name == "example.com/gpu" }
func (m *machine) Allocate(ctx context.Context, pod *corev1.Pod) error {
	if m.slow {
		<-ctx.Done()
		return ctx.Err()
	}
	return m.say("allocate "+pod.Name, &m.allocate)
}
func (m *machine) Prepare(_ context.Context, pod *corev1.Pod) error {
	return m.say("prepare "+pod.Name, &m.prepare)
}
func (m *machine) Container(_ context.Context, pod *corev1.Pod, c string) (runtime.Edits, error) {
	return runtime.Edits{Env: []runtime.KeyValue{{Name: "GPU", Value: "7"}, {Name: "OWN", Value: "theirs"}}, CPUs: "1", NoCPUQuota: true, CDIDevices: []string{"example.com/gpu=7"},
		Mounts: []runtime.Mount{{HostPath: "/lib/gpu", ContainerPath: "/gpu"}}, Annotations: map[string]string{"k": "v"}}, m.say("container "+c, &m.container)
}
func (m *machine) Release(_ context.Context, uid types.UID) error {
	return m.say("release "+string(uid), &m.release)
}
func (m *machine) Pods() []types.UID                  { return m.pods }
func (m *machine) Fixed(pod, next *corev1.Pod) string { return m.fixed }
func (m *machine) NoCPUQuota(types.UID) bool          { return true }
func (m *machine) Health(*corev1.Pod, string) []corev1.ResourceStatus {
	return []corev1.ResourceStatus{{Name: "example.com/gpu", Resources: []corev1.ResourceHealth{{ResourceID: "7", Health: corev1.ResourceHealthStatusUnhealthy}}}}
}

// withMachine starts the node's manager anew, with hardware.
func withMachine(n *node) *machine {
	m := &machine{}
	n.stop()
	n.change = func(c *Config) { c.Hardware = m }
	n.start()
	return m
}

func TestAPodGetsItsDevicesAndFreesThemAfterItsEnd(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		m := withMachine(n)
		n.node = &corev1.Node{}
		n.node.Status.Allocatable = corev1.ResourceList{"example.com/gpu": resource.MustParse("0")} // Allocate counts them
		p := pod("a", corev1.RestartPolicyAlways, trap)
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "OWN", Value: "mine"}}
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{"example.com/gpu": resource.MustParse("1"), corev1.ResourceCPU: resource.MustParse("1")}
		p.Spec.Containers[0].Resources.Requests = p.Spec.Containers[0].Resources.Limits
		n.m.Update(p)
		c := n.rt.Config(n.running(p, "c1").ID)
		if got := m.took(); !slices.Equal(got, []string{"allocate a", "prepare a", "container c1"}) {
			t.Errorf("calls: %q", got)
		}
		if !slices.Contains(c.Env, runtime.KeyValue{Name: "GPU", Value: "7"}) || !slices.Contains(c.Env, runtime.KeyValue{Name: "OWN", Value: "mine"}) || slices.Contains(c.Env, runtime.KeyValue{Name: "OWN", Value: "theirs"}) {
			t.Errorf("variables: %v", c.Env)
		}
		if c.Resources.CPUs != "1" || c.Resources.CPUQuota != 0 || n.rt.PodLimits(string(p.UID)).CPUQuota != 0 || !slices.Equal(c.CDIDevices, []string{"example.com/gpu=7"}) || c.Annotations["k"] != "v" ||
			!slices.ContainsFunc(c.Mounts, func(m runtime.Mount) bool { return m.HostPath == "/lib/gpu" }) {
			t.Errorf("%+v", c)
		}
		if s := n.status(p).ContainerStatuses[0].AllocatedResourcesStatus; len(s) != 1 || s[0].Resources[0].Health != corev1.ResourceHealthStatusUnhealthy {
			t.Errorf("status: %v", s)
		}
		// Another agent asks for nothing that was given already.
		n.stop()
		n.start()
		n.m.Update(p)
		n.running(p, "c1")
		if got := m.took(); slices.Contains(got, "allocate a") || slices.Contains(got, "container c1") {
			t.Errorf("calls of another agent: %q", got)
		}
		m.set(&m.release, errors.New("the driver is away"))
		n.m.Update(deleting(p, 1))
		pass(5 * time.Second)
		if n.hasEnded(p) {
			t.Error("the pod has ended before its devices were freed")
		}
		m.set(&m.release, nil)
		pass(time.Minute)
		if !n.hasEnded(p) || !slices.Contains(m.took(), "release uid-a") {
			t.Error("the pod has not ended although its devices are freed")
		}
	})
}

func TestAnAgentThatDiesBeforeThePodHasItsDevicesAsksAgain(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		m := withMachine(n)
		m.slow = true
		p := pod("a", corev1.RestartPolicyAlways, trap)
		n.m.Update(p)
		pass(time.Second)
		n.stop()
		m.slow = false
		if s := n.status(p); s.Phase == corev1.PodFailed {
			t.Errorf("the pod was refused because the agent has ended: %s", s.Message)
		}
		n.start()
		n.m.Update(p)
		n.running(p, "c1")
		if got := m.took(); !slices.Contains(got, "allocate a") {
			t.Errorf("the pod runs without its devices: %q", got)
		}
	})
}

// reasoned is an error with a reason.
type reasoned struct{ error }

func (reasoned) Reason() string { return "TopologyAffinityError" }

func TestPodsWithoutTheirDevices(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		m := withMachine(n)
		for want, err := range map[string]error{
			"UnexpectedAdmissionError: Pod was rejected: Allocate failed due to no device, which is unexpected": errors.New("no device"),
			"TopologyAffinityError: Pod was rejected: Resources cannot be allocated with Topology locality":     reasoned{errors.New("Resources cannot be allocated with Topology locality")},
		} {
			m.set(&m.allocate, err)
			p := pod("refused"+want[:1], corev1.RestartPolicyAlways, trap)
			n.m.Update(p)
			pass(time.Second)
			if s := n.status(p); s.Phase != corev1.PodFailed || s.Reason+": "+s.Message != want {
				t.Errorf("%s %s: %s, want %s", s.Phase, s.Reason, s.Message, want)
			}
		}
		m.set(&m.allocate, nil)
		m.set(&m.prepare, errors.New("DRA driver d is not registered"))
		p := pod("waits", corev1.RestartPolicyAlways, trap)
		n.m.Update(p)
		pass(time.Second)
		if s := n.status(p); s.Phase != corev1.PodPending || !slices.Contains(n.said("FailedPrepareDynamicResources"), "Failed to prepare dynamic resources: DRA driver d is not registered") {
			t.Errorf("%s, events %q", s.Phase, n.events)
		}
		m.set(&m.prepare, nil)
		m.set(&m.container, errors.New("the plugin is not connected"))
		pass(5 * time.Second)
		if s := n.status(p).ContainerStatuses[0].State.Waiting; s == nil || s.Reason != "CreateContainerConfigError" || !strings.Contains(s.Message, "the plugin is not connected") {
			t.Errorf("waiting: %v", s)
		}
		m.set(&m.container, nil)
		pass(15 * time.Second)
		n.running(p, "c1")
	})
}

func TestWhatPodsThatAreGoneHaveIsFreed(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		m := withMachine(n)
		m.pods = []types.UID{"uid-gone", "uid-here"}
		if err := os.MkdirAll(filepath.Join(n.dir, "pods"), 0o755); err != nil {
			t.Fatal(err)
		}
		p := pod("here", corev1.RestartPolicyAlways, trap)
		n.m.Update(p)
		n.m.Sweep()
		pass(5 * time.Second)
		if got := m.took(); !slices.Contains(got, "release uid-gone") || slices.Contains(got, "release uid-here") {
			t.Errorf("calls: %q", got)
		}
	})
}

func TestAPodWithProcessorsOfItsOwnIsNotResized(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		m := withMachine(n)
		m.fixed = "Resize is infeasible"
		p := pod("a", corev1.RestartPolicyAlways, trap)
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
		n.m.Update(p)
		n.running(p, "c1")
		next := p.DeepCopy()
		next.Generation++
		next.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}
		n.m.Update(next)
		pass(5 * time.Second)
		if c := condition(n.status(p).Conditions, corev1.PodResizePending); c == nil || c.Reason != corev1.PodReasonInfeasible || c.Message != m.fixed {
			t.Errorf("condition: %v", c)
		}
	})
}
