package pods

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/fake"
	"github.com/kontiki/kontiki/node/volume"
)

const ignores = "sleep|100000" // the stop signal

// TestNoTerminalPhaseWhileSomethingRuns: when a pod is Failed, its ports, volumes and devices are given to the next one.
func TestNoTerminalPhaseWhileSomethingRuns(t *testing.T) {
	sidecar := func(p *corev1.Pod, command string) {
		always := corev1.ContainerRestartPolicyAlways
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "side", Image: image, Command: strings.Split(command, "|"), RestartPolicy: &always})
	}
	for _, c := range []struct {
		name   string
		pod    func() *corev1.Pod
		begin  func(n *node, p *corev1.Pod)
		during corev1.PodPhase
		reason string
	}{
		{"a deadline", func() *corev1.Pod {
			p := pod("a", corev1.RestartPolicyAlways, ignores)
			d := int64(60)
			p.Spec.ActiveDeadlineSeconds = &d
			return p
		}, func(*node, *corev1.Pod) { time.Sleep(60 * time.Second) }, corev1.PodRunning, "DeadlineExceeded"}, // virtual
		{"an eviction", func() *corev1.Pod { return pod("a", corev1.RestartPolicyAlways, ignores) }, func(n *node, p *corev1.Pod) {
			if !n.m.Stop(p.UID, Stop{Reason: "Evicted", Message: "The node was low on resource: memory.", Condition: &corev1.PodCondition{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: "TerminationByKubelet"}}) {
				n.t.Error("the pod is not known")
			}
		}, corev1.PodRunning, "Evicted"},
		{"an init container that failed beside a sidecar", func() *corev1.Pod {
			p := pod("a", corev1.RestartPolicyNever, ignores)
			sidecar(p, ignores)
			p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "init", Image: image, Command: []string{"false"}})
			return p
		}, func(*node, *corev1.Pod) {}, corev1.PodPending, ""},
		{"work that is done beside a sidecar", func() *corev1.Pod {
			p := pod("a", corev1.RestartPolicyNever, "false")
			sidecar(p, ignores)
			return p
		}, func(*node, *corev1.Pod) {}, corev1.PodRunning, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *node) {
				p := c.pod()
				n.m.Update(p)
				n.status(p)
				c.begin(n, p)
				time.Sleep(20 * time.Second) // virtual: of the 30 that it has
				s := n.status(p)
				if s.Phase != c.during || s.Reason != "" {
					t.Errorf("while it runs: %s %s", s.Phase, s.Reason)
				}
				if c.reason == "Evicted" && condition(s.Conditions, corev1.DisruptionTarget) == nil {
					t.Error("the condition waits for the end")
				}
				time.Sleep(15 * time.Second) // virtual
				s = n.status(p)
				if s.Phase != corev1.PodFailed || s.Reason != c.reason || !n.hasEnded(p) {
					t.Errorf("in the end: %s %s", s.Phase, s.Reason)
				}
				list, _ := n.rt.ListContainers(context.Background(), string(p.UID))
				for _, l := range list {
					if l.State == runtime.StateRunning {
						t.Errorf("%s runs", l.Name)
					}
				}
			})
		})
	}
}

func TestAnEvictionSurvivesTheAgent(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, ignores)
		n.m.Update(p)
		n.running(p, "c1")
		n.m.Stop(p.UID, Stop{Reason: "Evicted", Message: "why"})
		n.status(p)
		n.stop() // in the middle of the grace period
		n.start()
		n.m.Update(p)
		time.Sleep(35 * time.Second) // virtual
		if s := n.status(p); s.Phase != corev1.PodFailed || s.Reason != "Evicted" || s.Message != "why" {
			t.Errorf("%s %s %s", s.Phase, s.Reason, s.Message)
		}
	})
}

func TestOneStopShortensAnother(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, ignores)
		n.m.Update(p)
		n.running(p, "c1")
		n.m.Update(deleting(p, 30))
		time.Sleep(5 * time.Second) // virtual
		now := time.Duration(0)
		n.m.Stop(p.UID, Stop{Grace: &now})
		time.Sleep(1100 * time.Millisecond) // virtual
		if !n.hasEnded(p) {
			t.Error("it still has its first grace period")
		}
		if n.m.Stop("unknown", Stop{}) {
			t.Error("an unknown pod is said to be stopped")
		}
	})
}

// TestSidecarsPreStopBeginsAtOnce: a sidecar's preStop hook runs concurrently with the main containers' end, its signal is sent
// after it.
func TestSidecarsPreStopBeginsAtOnce(t *testing.T) {
	for _, c := range []struct {
		name, main string
		grace      int64
		signalled  time.Duration
	}{
		{"the main container ends in time", `sh|-c|trap "exit 0" TERM; while :; do :; done`, 20, 3 * time.Second},
		{"it uses up the grace period", ignores, 5, 5 * time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *node) {
				var began time.Time
				hooked, signalled := time.Duration(-1), time.Duration(-1)
				n.rt.Program("hook", func(context.Context, *fake.Process) int { hooked = time.Since(began); return 0 })
				n.rt.Program("side", func(ctx context.Context, p *fake.Process) int {
					select {
					case <-p.Signals():
						signalled = time.Since(began)
						return 0
					case <-ctx.Done():
						return 137
					}
				})
				p := pod("a", corev1.RestartPolicyAlways, c.main)
				p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 3}}}
				always := corev1.ContainerRestartPolicyAlways
				p.Spec.InitContainers = []corev1.Container{{Name: "side", Image: image, Command: []string{"side"}, RestartPolicy: &always,
					Lifecycle: &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"hook"}}}}}}
				n.m.Update(p)
				n.running(p, "c1")
				began = time.Now()
				n.m.Update(deleting(p, c.grace))
				time.Sleep(30 * time.Second) // virtual
				if !n.hasEnded(p) || hooked != 0 || signalled != c.signalled {
					t.Errorf("the hook ran after %v, the signal came after %v", hooked, signalled)
				}
			})
		})
	}
}

func TestAProcessHasTwoSecondsAfterAHookThatHangs(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		saved := false
		n.rt.Program("saves", func(ctx context.Context, p *fake.Process) int {
			<-p.Signals()
			select {
			case <-time.After(1500 * time.Millisecond):
				saved = true
				return 0
			case <-ctx.Done():
				return 137
			}
		})
		p := pod("a", corev1.RestartPolicyAlways, "saves")
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"sleep", "600"}}}}
		n.m.Update(p)
		n.running(p, "c1")
		n.m.Update(deleting(p, 3))
		time.Sleep(4600 * time.Millisecond) // virtual
		if !n.hasEnded(p) || !saved {
			t.Errorf("saved: %v", saved)
		}
	})
}

// TestReadinessIsReportedWhileAnotherContainerStops: the pod's worker continues to report while it waits for a container that stops
// slowly.
func TestReadinessIsReportedWhileAnotherContainerStops(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		healthy := true
		n.rt.Program("check", func(context.Context, *fake.Process) int {
			if healthy {
				return 0
			}
			return 1
		})
		probe := func(command string) *corev1.Probe {
			return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{command}}}, PeriodSeconds: 1, FailureThreshold: 1}
		}
		p := pod("a", corev1.RestartPolicyAlways, ignores, ignores, ignores)
		p.Spec.Containers[0].LivenessProbe = probe("false")
		p.Spec.Containers[0].LivenessProbe.InitialDelaySeconds = 5
		p.Spec.Containers[1].ReadinessProbe = probe("check")
		n.m.Update(p)
		time.Sleep(8 * time.Second) // virtual: the first is being stopped: it has 30 s
		if s := n.status(p); !s.ContainerStatuses[1].Ready {
			t.Fatalf("%+v", s.ContainerStatuses[1])
		}
		healthy = false
		third := n.running(p, "c3")
		n.rt.Exit(third.ID, 1, false)
		time.Sleep(3 * time.Second) // virtual
		s := n.status(p)
		if s.ContainerStatuses[1].Ready || condition(s.Conditions, corev1.PodReady).Status != corev1.ConditionFalse {
			t.Error("an unready container is still ready in the status")
		}
		time.Sleep(30 * time.Second) // virtual
		if n.running(p, "c3").ID == third.ID || n.running(p, "c1").Attempt == 0 {
			t.Error("what ended meanwhile was not restarted")
		}
	})
}

// What cannot be removed is tried again less and less often, with texts of bounded length.
func TestFailuresToEndAPodBackOff(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, trap)
		n.m.Update(p)
		n.running(p, "c1")
		long := strings.Repeat("\u00e4/", 20_000)
		n.mu.Lock()
		n.tornErr = errors.New("unlinkat " + long + ": device or resource busy")
		n.mu.Unlock()
		n.m.Remove(p.UID)
		for range 600 {
			time.Sleep(time.Second) // virtual
			n.m.Retry()             // does not make it try at once
		}
		synctest.Wait()
		n.mu.Lock()
		tries := len(n.torn)
		n.tornErr = nil
		n.mu.Unlock()
		if tries < 10 || tries > 20 {
			t.Errorf("tried %d times in ten minutes", tries)
		}
		for _, text := range n.said("FailedKillPod") {
			if len(text) > maxText || !strings.HasSuffix(text, "device or resource busy") || !utf8.ValidString(text) {
				t.Errorf("%d bytes: %s", len(text), text)
			}
		}
		time.Sleep(2 * maxEndDelay) // virtual
		synctest.Wait()
		if _, err := os.Stat(n.m.podDir(p.UID)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the pod's directory is left: %v", err)
		}
	})
}

// TestAPodThatANodeCannotGiveItsVolumesFails, so that its controller makes another one; nothing of it runs, and its volumes are removed.
func TestAPodThatANodeCannotGiveItsVolumesFails(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("p", corev1.RestartPolicyAlways, trap)
		n.volErr = &volume.AttachLimitError{Volume: "v"}
		n.m.Update(p)
		pass(10 * time.Second)
		s := n.status(p)
		if s.Phase != corev1.PodFailed || s.Reason != "VolumeAttachmentLimitExceeded" || !strings.HasPrefix(s.Message, "Pod was rejected: Node has reached its volume attachment limit") {
			t.Errorf("its status is %s %s %q", s.Phase, s.Reason, s.Message)
		}
		if said := n.said("VolumeAttachmentLimitExceeded"); len(said) != 1 {
			t.Errorf("events: %q", said)
		}
		if n.setups != 1 || len(n.torn) == 0 {
			t.Errorf("set up %d times, torn down: %v", n.setups, n.torn)
		}
	})
}
