package pods

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/runtime"
)

// ctr writes an observed container: "name:state" or "name:exited(code)".
func ctr(s string) runtime.Container {
	name, state, _ := strings.Cut(s, ":")
	c := runtime.Container{ID: name + "-id", Name: name}
	switch {
	case state == "running":
		c.State = runtime.StateRunning
	case state == "created":
		c.State = runtime.StateCreated
	default:
		c.State = runtime.StateExited
		fmt.Sscanf(state, "exited(%d)", &c.ExitCode)
		c.FinishedAt = time.Unix(1000, 0)
	}
	return c
}

// spec makes a pod: "i1 i2* | c1 c2", where * is a sidecar.
func spec(policy corev1.RestartPolicy, s string) *corev1.Pod {
	pod := &corev1.Pod{}
	pod.Spec.RestartPolicy = policy
	init, regular, ok := strings.Cut(s, "|")
	if !ok {
		init, regular = "", s
	}
	always := corev1.ContainerRestartPolicyAlways
	for _, n := range strings.Fields(init) {
		c := corev1.Container{Name: strings.TrimSuffix(n, "*")}
		if strings.HasSuffix(n, "*") {
			c.RestartPolicy = &always
		}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
	}
	for _, n := range strings.Fields(regular) {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: n})
	}
	return pod
}

func TestComputeActions(t *testing.T) {
	for _, c := range []struct {
		name     string
		policy   corev1.RestartPolicy
		pod      string
		observed string
		liveness string // containers whose liveness probe failed
		start    string
		kill     string
	}{
		{"a new pod starts all containers", "Always", "a b", "", "", "a b", ""},
		{"a running pod needs nothing", "Always", "a b", "a:running b:running", "", "", ""},
		{"an exited container is restarted", "Always", "a b", "a:exited(0) b:running", "", "a", ""},
		{"never means never", "Never", "a", "a:exited(1)", "", "", ""},
		{"on failure, success stays", "OnFailure", "a b", "a:exited(0) b:exited(3)", "", "b", ""},
		{"a created container is started again", "Never", "a", "a:created", "", "a", ""},
		{"init containers come one by one", "Always", "i j | a", "", "", "i", ""},
		{"the second waits for the first", "Always", "i j | a", "i:running", "", "", ""},
		{"the second follows success", "Always", "i j | a", "i:exited(0)", "", "j", ""},
		{"a failed init container is restarted", "Always", "i j | a", "i:exited(1)", "", "i", ""},
		{"a failed init container of a pod that never restarts", "Never", "i j | a", "i:exited(1)", "", "", ""},
		{"regular containers follow the last", "Always", "i j | a b", "i:exited(0) j:exited(0)", "", "a b", ""},
		{"init containers do not run again", "Always", "i | a", "a:exited(1)", "", "a", ""},
		{"a sidecar starts and the next follows it", "Always", "s* i | a", "s:running", "", "i", ""},
		{"a sidecar is restarted beside regular ones", "Always", "s* | a", "s:exited(0) a:running", "", "s", ""},
		{"a sidecar is restarted even if the pod never restarts", "Never", "s* | a", "s:exited(1) a:running", "", "s", ""},
		{"a failed liveness probe replaces the container", "Always", "a", "a:running", "a", "a", "a"},
		{"a failed liveness probe ends it for good", "Never", "a", "a:running", "a", "", "a"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var list []runtime.Container
			for _, s := range strings.Fields(c.observed) {
				list = append(list, ctr(s))
			}
			o := observe(list)
			o.liveness = map[string]verdict{}
			for _, n := range strings.Fields(c.liveness) {
				o.liveness[n+"-id"] = probeFailure
			}
			a := computeActions(spec(c.policy, c.pod), o)
			var start, kill []string
			for _, s := range a.start {
				start = append(start, s.Name)
			}
			for _, k := range a.kill {
				kill = append(kill, k.container.Name)
			}
			if !slices.Equal(start, strings.Fields(c.start)) || !slices.Equal(kill, strings.Fields(c.kill)) {
				t.Errorf("start %v, kill %v; want %q, %q", start, kill, c.start, c.kill)
			}
		})
	}
}

func TestPhase(t *testing.T) {
	for _, c := range []struct {
		name     string
		policy   corev1.RestartPolicy
		pod      string
		observed string
		terminal bool
		want     corev1.PodPhase
	}{
		{"nothing yet", "Always", "a", "", false, corev1.PodPending},
		{"one of two runs, the other has not been created", "Always", "a b", "a:running", false, corev1.PodPending},
		{"both run", "Always", "a b", "a:running b:running", false, corev1.PodRunning},
		{"one ended and will restart", "Always", "a b", "a:running b:exited(1)", false, corev1.PodRunning},
		{"all ended and will restart", "Always", "a", "a:exited(0)", false, corev1.PodRunning},
		{"all ended well", "Never", "a b", "a:exited(0) b:exited(0)", false, corev1.PodSucceeded},
		{"one ended badly", "Never", "a b", "a:exited(0) b:exited(1)", false, corev1.PodFailed},
		{"one runs on", "Never", "a b", "a:exited(1) b:running", false, corev1.PodRunning},
		{"on failure, badly", "OnFailure", "a", "a:exited(1)", false, corev1.PodRunning},
		{"on failure, well", "OnFailure", "a", "a:exited(0)", false, corev1.PodSucceeded},
		{"init runs", "Always", "i | a", "i:running", false, corev1.PodPending},
		{"init failed for good", "Never", "i | a", "i:exited(1)", false, corev1.PodFailed},
		{"init failed and will restart", "Always", "i | a", "i:exited(1)", false, corev1.PodPending},
		{"stopped for good, though it always restarts", "Always", "a", "a:exited(0)", true, corev1.PodSucceeded},
		{"killed for good", "Always", "a", "a:exited(137)", true, corev1.PodFailed},
		{"sidecar runs after the work is done", "Never", "s* | a", "s:running a:exited(0)", false, corev1.PodRunning},
		{"sidecar has been stopped too", "Never", "s* | a", "s:exited(137) a:exited(0)", true, corev1.PodSucceeded},
	} {
		t.Run(c.name, func(t *testing.T) {
			var list []runtime.Container
			for _, s := range strings.Fields(c.observed) {
				list = append(list, ctr(s))
			}
			s := makeStatus(statusInput{pod: spec(c.policy, c.pod), o: observe(list), message: func(runtime.Container) string { return "" }, terminal: c.terminal, sandbox: true})
			if s.Phase != c.want {
				t.Errorf("phase %s, want %s; %+v", s.Phase, c.want, s.ContainerStatuses)
			}
		})
	}
}

func TestTerminalPhaseIsForEver(t *testing.T) {
	pod := spec("Always", "a")
	in := statusInput{pod: pod, o: observe([]runtime.Container{ctr("a:running")}), message: func(runtime.Container) string { return "" }}
	in.old.Phase = corev1.PodFailed
	if s := makeStatus(in); s.Phase != corev1.PodFailed {
		t.Errorf("a failed pod became %s", s.Phase)
	}
}

func TestBackOffDoublesAndForgives(t *testing.T) {
	var b backOff
	now := time.Unix(0, 0)
	if w := b.waits("k", now, now); w != 0 {
		t.Errorf("the first restart waits %v", w)
	}
	for _, want := range []time.Duration{10, 20, 40, 80, 160, 300, 300} {
		b.next("k", now, now)
		now = now.Add(time.Second)
		if w := b.waits("k", now, now); w != want*time.Second {
			t.Errorf("waits %v, want %v s", w, int(want))
		}
		now = now.Add(want * time.Second)
	}
	later := now.Add(2*backOffMax + time.Second)
	if w := b.waits("k", later, later); w != 0 {
		t.Errorf("after a long good run it waits %v", w)
	}
}

func TestResolvConf(t *testing.T) {
	host := "nameserver 192.0.2.53\nsearch example.org\noptions timeout:2\n"
	dns := DNS{Domain: "cluster.local", Servers: []string{"10.96.0.10"}}
	v := "3"
	pod := &corev1.Pod{}
	pod.Namespace = "app"
	for _, c := range []struct {
		name   string
		policy corev1.DNSPolicy
		host   bool
		config *corev1.PodDNSConfig
		want   string
	}{
		{"cluster first", corev1.DNSClusterFirst, false, nil, "search app.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.96.0.10\noptions ndots:5\n"},
		{"default", corev1.DNSDefault, false, nil, "search example.org\nnameserver 192.0.2.53\noptions timeout:2\n"},
		{"cluster first on the host's network", corev1.DNSClusterFirst, true, nil, "search example.org\nnameserver 192.0.2.53\noptions timeout:2\n"},
		{"cluster first with host net", corev1.DNSClusterFirstWithHostNet, true, nil, "search app.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.96.0.10\noptions ndots:5\n"},
		{"none", corev1.DNSNone, false, &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Searches: []string{"a.b"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &v}, {Name: "debug"}}}, "search a.b\nnameserver 1.1.1.1\noptions ndots:3 debug\n"},
		{"merged", corev1.DNSClusterFirst, false, &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: &v}}}, "search app.svc.cluster.local svc.cluster.local cluster.local example.org\nnameserver 10.96.0.10\nnameserver 1.1.1.1\noptions ndots:3\n"},
	} {
		pod.Spec.DNSPolicy, pod.Spec.HostNetwork, pod.Spec.DNSConfig = c.policy, c.host, c.config
		if got := resolvConf(pod, dns, host); got != c.want {
			t.Errorf("%s:\n%s\nwant\n%s", c.name, got, c.want)
		}
	}
}
