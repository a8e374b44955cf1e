package pods

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/runtime/fake"
)

func TestInitContainersAndSidecars(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyNever, "sh|-c|sleep 5; exit 0")
		always := corev1.ContainerRestartPolicyAlways
		p.Spec.InitContainers = []corev1.Container{
			{Name: "i1", Image: image, Command: []string{"sh", "-c", "sleep 3; exit 0"}},
			{Name: "s1", Image: image, Command: strings.Split(trap, "|"), RestartPolicy: &always},
			{Name: "i2", Image: image, Command: []string{"true"}},
		}
		n.m.Update(p)
		s := n.status(p)
		if s.Phase != corev1.PodPending || s.InitContainerStatuses[0].State.Running == nil || s.ContainerStatuses[0].State.Waiting.Reason != "PodInitializing" {
			t.Fatalf("while the first init container runs: %+v", s)
		}
		time.Sleep(4 * time.Second)
		s = n.status(p)
		if s.Phase != corev1.PodRunning || s.InitContainerStatuses[1].State.Running == nil || s.InitContainerStatuses[2].State.Terminated == nil {
			t.Fatalf("after init: %+v", s)
		}
		n.running(p, "c1")
		time.Sleep(5 * time.Second)
		if s = n.status(p); s.Phase != corev1.PodSucceeded || !n.hasEnded(p) {
			t.Errorf("the sidecar kept the pod from its end: %+v", s)
		}
	})
}

func TestProbes(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		var mu sync.Mutex
		healthy, ready := true, false
		n.rt.Program("healthy", func(context.Context, *fake.Process) int {
			mu.Lock()
			defer mu.Unlock()
			if healthy {
				return 0
			}
			return 1
		})
		n.rt.Program("ready", func(_ context.Context, p *fake.Process) int {
			mu.Lock()
			defer mu.Unlock()
			if ready {
				return 0
			}
			fmt.Fprint(p.Stdout, "not yet")
			return 1
		})
		p := pod("a", corev1.RestartPolicyAlways, trap)
		probe := func(cmd string) *corev1.Probe {
			return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{cmd}}}, PeriodSeconds: 5, FailureThreshold: 3, SuccessThreshold: 1, TimeoutSeconds: 1}
		}
		p.Spec.Containers[0].LivenessProbe, p.Spec.Containers[0].ReadinessProbe = probe("healthy"), probe("ready")
		n.m.Update(p)
		first := n.running(p, "c1")
		if s := n.status(p).ContainerStatuses[0]; s.Ready || !*s.Started {
			t.Fatalf("ready %v, started %v", s.Ready, *s.Started)
		}
		mu.Lock()
		ready = true
		mu.Unlock()
		time.Sleep(6 * time.Second)
		if !n.status(p).ContainerStatuses[0].Ready {
			t.Error("not ready though its probe succeeds")
		}
		if said := n.said("Unhealthy"); !slices.Contains(said, "Readiness probe failed: not yet") {
			t.Errorf("said %q", said)
		}
		mu.Lock()
		healthy = false
		mu.Unlock()
		time.Sleep(15 * time.Second)
		mu.Lock()
		healthy = true
		mu.Unlock()
		time.Sleep(5 * time.Second)
		second := n.running(p, "c1")
		if first.ID == second.ID {
			t.Error("a failed liveness probe restarted nothing")
		}
		if said := n.said("Killing"); !slices.Contains(said, "Container c1 failed liveness probe, will be restarted") {
			t.Errorf("said %q", said)
		}
	})
}

func TestStartupProbeHoldsOthersBack(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		began := time.Now()
		n.rt.Program("up", func(context.Context, *fake.Process) int {
			if time.Since(began) > 20*time.Second {
				return 0
			}
			return 1
		})
		p := pod("a", corev1.RestartPolicyAlways, trap)
		c := &p.Spec.Containers[0]
		c.StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"up"}}}, PeriodSeconds: 1, FailureThreshold: 100, TimeoutSeconds: 1}
		c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"up"}}}, PeriodSeconds: 1, FailureThreshold: 1, TimeoutSeconds: 1}
		n.m.Update(p)
		first := n.running(p, "c1")
		time.Sleep(10 * time.Second)
		if s := n.status(p).ContainerStatuses[0]; *s.Started || s.Ready {
			t.Errorf("started %v, ready %v before the startup probe succeeds", *s.Started, s.Ready)
		}
		time.Sleep(15 * time.Second)
		if s := n.status(p).ContainerStatuses[0]; !*s.Started || !s.Ready || n.running(p, "c1").ID != first.ID {
			t.Errorf("after the startup probe: %+v", s)
		}
	})
}

func TestRestartOfAgentKeepsReadiness(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.rt.Program("ready", func(context.Context, *fake.Process) int { return 0 })
		n.rt.Program("slow", func(ctx context.Context, _ *fake.Process) int { <-ctx.Done(); return 1 })
		p := pod("a", corev1.RestartPolicyAlways, trap)
		c := &p.Spec.Containers[0]
		c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"ready"}}}, PeriodSeconds: 5, FailureThreshold: 2, SuccessThreshold: 1, TimeoutSeconds: 1}
		c.StartupProbe = c.ReadinessProbe.DeepCopy()
		n.m.Update(p)
		first := n.running(p, "c1")
		time.Sleep(time.Second) // virtual: the container is a second old when the agent restarts
		p.Status = n.status(p)
		if s := p.Status.ContainerStatuses[0]; !s.Ready || !*s.Started {
			t.Fatalf("ready %v, started %v", s.Ready, *s.Started)
		}

		// The new agent's probes have no result for seconds: what the previous agent reported applies, however young the container is.
		n.stop()
		n.start()
		c.ReadinessProbe.Exec.Command = []string{"slow"}
		n.m.Update(p)
		n.m.Sweep()
		if again := n.running(p, "c1"); again.ID != first.ID {
			t.Fatal("the container was restarted")
		}
		if s := n.status(p).ContainerStatuses[0]; !s.Ready || !*s.Started {
			t.Errorf("ready %v, started %v before the first probe", s.Ready, *s.Started)
		}
		time.Sleep(30 * time.Second) // virtual: longer than two failed probes
		if s := n.status(p).ContainerStatuses[0]; s.Ready || !*s.Started {
			t.Errorf("ready %v, started %v after its probes failed", s.Ready, *s.Started)
		}
	})
}
