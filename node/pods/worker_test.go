package pods

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/runtime"
)

const image = "docker.io/test/image:1"

func TestPodRuns(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, trap, trap)
		n.m.Update(p)
		s := n.status(p)
		if s.Phase != corev1.PodRunning || s.PodIP != "10.244.0.5" || s.HostIP != "192.0.2.1" || len(s.ContainerStatuses) != 2 {
			t.Fatalf("status %+v", s)
		}
		for _, typ := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
			if c := condition(s.Conditions, typ); c == nil || c.Status != corev1.ConditionTrue {
				t.Errorf("condition %s is %+v", typ, c)
			}
		}
		for _, want := range []string{"Pulled", "Created", "Started"} {
			if len(n.said(want)) != 2 {
				t.Errorf("%s said %v", want, n.said(want))
			}
		}
	})
}

func TestCrashLoopBacksOff(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, "sh|-c|exit 3")
		n.m.Update(p)
		began := time.Now()
		// The first restart is at once, then after 10, 20, 40 ... 300 s.
		at := time.Duration(0)
		for i, d := range []time.Duration{0, 10, 20, 40, 80, 160, 300, 300} {
			at += d * time.Second
			time.Sleep(time.Until(began.Add(at + time.Second)))
			s := n.status(p).ContainerStatuses[0]
			if int(s.RestartCount) != i+1 {
				t.Fatalf("%v after the start: %d restarts, want %d", at, s.RestartCount, i+1)
			}
			if s.State.Waiting == nil || s.State.Waiting.Reason != "CrashLoopBackOff" || s.LastTerminationState.Terminated.ExitCode != 3 {
				t.Fatalf("state %+v, last %+v", s.State, s.LastTerminationState)
			}
		}
		s := n.status(p).ContainerStatuses[0]
		if want := "back-off 5m0s restarting failed container=c1 pod=a_ns(uid-a)"; s.State.Waiting.Message != want {
			t.Errorf("message %q, want %q", s.State.Waiting.Message, want)
		}
		if want := "Back-off restarting failed container c1 in pod a_ns(uid-a)"; !slices.Contains(n.said("BackOff"), want) {
			t.Errorf("BackOff said %q", n.said("BackOff"))
		}
		list, _ := n.rt.ListContainers(context.Background(), "uid-a")
		if len(list) > 2 {
			t.Errorf("%d dead attempts are kept", len(list))
		}
	})
}

func TestPodsEnd(t *testing.T) {
	for _, c := range []struct {
		policy  corev1.RestartPolicy
		command string
		phase   corev1.PodPhase
		reason  string
	}{
		{corev1.RestartPolicyNever, "true", corev1.PodSucceeded, "Completed"},
		{corev1.RestartPolicyNever, "false", corev1.PodFailed, "Error"},
		{corev1.RestartPolicyOnFailure, "true", corev1.PodSucceeded, "Completed"},
	} {
		bubble(t, func(t *testing.T, n *node) {
			p := pod("a", c.policy, c.command)
			n.m.Update(p)
			s := n.status(p)
			if s.Phase != c.phase || s.ContainerStatuses[0].State.Terminated.Reason != c.reason || !n.hasEnded(p) {
				t.Errorf("%s %s: %+v", c.policy, c.command, s)
			}
			if !slices.Contains(n.deleted, "uid-a") || !slices.Contains(n.torn, "uid-a") {
				t.Error("network or volumes of an ended pod are still held")
			}
			list, _ := n.rt.ListContainers(context.Background(), "uid-a")
			if len(list) != 1 {
				t.Errorf("the ended container, with its log, is gone before its pod: %v", list)
			}
			n.m.Remove(p.UID)
			synctest.Wait()
			if list, _ = n.rt.ListContainers(context.Background(), "uid-a"); len(list) != 0 {
				t.Errorf("left of a removed pod: %v", list)
			}
		})
	}
}

func TestImagePulls(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, trap)
		p.Spec.Containers[0].Image = "docker.io/test/far:1"
		n.m.Update(p)
		w := n.status(p).ContainerStatuses[0].State.Waiting
		if w == nil || w.Reason != "ErrImagePull" || !strings.Contains(w.Message, "not found") {
			t.Fatalf("waiting %+v", w)
		}
		time.Sleep(11 * time.Second) // pulled again, failed again
		synctest.Wait()
		time.Sleep(5 * time.Second)
		n.m.Refresh(map[string]bool{p.Namespace: true}) // looked at within the back-off
		w = n.status(p).ContainerStatuses[0].State.Waiting
		if w == nil || w.Reason != "ImagePullBackOff" || !strings.HasPrefix(w.Message, `Back-off pulling image "docker.io/test/far:1": ErrImagePull: `) {
			t.Fatalf("waiting %+v", w)
		}
		n.rt.Provide("docker.io/test/far:1")
		time.Sleep(30 * time.Second)
		if s := n.status(p); s.Phase != corev1.PodRunning {
			t.Errorf("after the image has come: %+v", s)
		}
		never := pod("b", corev1.RestartPolicyAlways, trap)
		never.Spec.Containers[0].Image, never.Spec.Containers[0].ImagePullPolicy = "docker.io/test/none:1", corev1.PullNever
		n.m.Update(never)
		w = n.status(never).ContainerStatuses[0].State.Waiting
		if w == nil || w.Reason != "ErrImageNeverPull" || w.Message != `Container image "docker.io/test/none:1" is not present with pull policy of Never` {
			t.Errorf("waiting %+v", w)
		}
	})
}

func TestStaleVolumesAreRefreshedAlone(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p, other := pod("a", corev1.RestartPolicyAlways, trap), pod("b", corev1.RestartPolicyAlways, trap)
		for _, p := range []*corev1.Pod{p, other} {
			n.m.Update(p)
			n.running(p, "c1")
		}
		n.mu.Lock()
		setups := n.setups
		n.volErr = errors.New("no master")
		n.mu.Unlock()
		n.m.RefreshVolumes(p.UID, []string{"token"})
		synctest.Wait()
		n.mu.Lock()
		n.volErr = nil
		n.mu.Unlock()
		time.Sleep(11 * time.Second) // tried again
		synctest.Wait()
		time.Sleep(time.Minute) // and not any more
		n.mu.Lock()
		defer n.mu.Unlock()
		if want := []string{"a token", "a token"}; !slices.Equal(n.refreshed, want) || n.setups != setups {
			t.Errorf("refreshed %q, want %q; %d setups of all volumes, want none", n.refreshed, want, n.setups-setups)
		}
	})
}

// awaited is an error of volumes that others have still to make available.
type awaited struct{}

func (awaited) Error() string { return "PVC is not bound" }
func (awaited) Awaited() bool { return true }

// TestAClaimIsAwaitedQuietly: an event says what a pod waits for only if it does for some seconds.
func TestAClaimIsAwaitedQuietly(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		said := func() (count int) {
			n.mu.Lock()
			defer n.mu.Unlock()
			for _, e := range n.events {
				if e.Reason == "FailedMount" && e.Message == "PVC is not bound" {
					count++
				}
			}
			return count
		}
		n.mu.Lock()
		n.volErr = awaited{}
		n.mu.Unlock()
		n.m.Update(pod("a", corev1.RestartPolicyAlways, trap))
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := said(); got != 0 {
			t.Errorf("%d events after two seconds", got)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if said() == 0 {
			t.Error("no event after a minute")
		}
	})
}

func TestConfigMapIsAwaited(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, trap)
		p.Spec.Containers[0].Env = []corev1.EnvVar{{Name: "K", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}, Key: "k"}}}, {Name: "L", Value: "<$(K)>"}}
		n.m.Update(p)
		w := n.status(p).ContainerStatuses[0].State.Waiting
		if w == nil || w.Reason != "CreateContainerConfigError" || w.Message != `configmap "cm" not found` {
			t.Fatalf("waiting %+v", w)
		}
		n.mu.Lock()
		n.configs["cm"] = &corev1.ConfigMap{Data: map[string]string{"k": "v"}}
		n.mu.Unlock()
		n.m.Refresh(map[string]bool{p.Namespace: true})
		c := n.running(p, "c1")
		env := n.rt.Config(c.ID).Env
		if !slices.Contains(env, runtime.KeyValue{Name: "L", Value: "<v>"}) {
			t.Errorf("environment %v", env)
		}
	})
}

func TestSetupIsRetried(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.netErr = errors.New("no range yet")
		p := pod("a", corev1.RestartPolicyAlways, trap)
		n.m.Update(p)
		if s := n.status(p); s.Phase != corev1.PodPending || s.ContainerStatuses[0].State.Waiting.Reason != "ContainerCreating" {
			t.Fatalf("status %+v", s)
		}
		if said := n.said("FailedCreatePodSandBox"); len(said) == 0 || !strings.Contains(said[0], "no range yet") {
			t.Errorf("said %q", said)
		}
		n.mu.Lock()
		n.netErr = nil
		n.mu.Unlock()
		time.Sleep(5 * time.Second)
		n.running(p, "c1")
	})
}

func TestGracefulTermination(t *testing.T) {
	for _, c := range []struct {
		name    string
		command string
		grace   int64
		force   int64 // seconds until the deletion is made one without grace; 0 for never
		after   time.Duration
		code    int32
	}{
		{"a handler ends it", trap, 30, 0, 0, 0},
		{"it ignores the signal", "sleep|100000", 30, 0, 30 * time.Second, 137},
		{"grace is cut short", "sleep|100000", 300, 5, 6 * time.Second, 137},
		{"no grace at all", "sleep|100000", 0, 0, 2 * time.Second, 137},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *node) {
				p := pod("a", corev1.RestartPolicyAlways, c.command)
				n.m.Update(p)
				n.running(p, "c1")
				d := deleting(p, c.grace)
				n.m.Update(d)
				if c.force > 0 {
					time.Sleep(time.Duration(c.force) * time.Second)
					d = deleting(d, 0)
					n.m.Update(d)
					c.after -= time.Duration(c.force) * time.Second
				}
				if c.after > 0 {
					time.Sleep(c.after - 100*time.Millisecond)
					if n.hasEnded(p) {
						t.Fatal("it ended before its time")
					}
					time.Sleep(200 * time.Millisecond)
				}
				if !n.hasEnded(p) {
					t.Fatal("it has not ended")
				}
				if got := n.status(p).ContainerStatuses[0].State.Terminated; got == nil || got.ExitCode != c.code {
					t.Errorf("terminated %+v, want exit code %d", got, c.code)
				}
				n.m.Remove(p.UID)
			})
		})
	}
}

func TestPreStopRunsWithinGrace(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, trap)
		p.Spec.Containers[0].Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 8}}}
		n.m.Update(p)
		n.running(p, "c1")
		n.m.Update(deleting(p, 30))
		time.Sleep(7 * time.Second)
		n.running(p, "c1")
		time.Sleep(2 * time.Second)
		if !n.hasEnded(p) {
			t.Error("it has not ended after its hook")
		}
	})
}

func TestActiveDeadline(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, trap)
		d := int64(60)
		p.Spec.ActiveDeadlineSeconds = &d
		n.m.Update(p)
		n.running(p, "c1")
		time.Sleep(62 * time.Second)
		if s := n.status(p); s.Phase != corev1.PodFailed || s.Reason != "DeadlineExceeded" || !n.hasEnded(p) {
			t.Errorf("status %s %s", s.Phase, s.Reason)
		}
	})
}

func TestRestartOfAgentLeavesContainersAlone(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, trap)
		n.m.Update(p)
		first := n.running(p, "c1")
		p.Status = n.status(p)
		n.stop()
		n.start()
		n.m.Update(p)
		n.m.Sweep()
		if again := n.running(p, "c1"); again.ID != first.ID {
			t.Error("the container was restarted")
		}
		if s := n.status(p); s.Phase != corev1.PodRunning || !s.ContainerStatuses[0].Ready || s.ContainerStatuses[0].RestartCount != 0 {
			t.Errorf("status %+v", s)
		}
	})
}

func TestSweepRemovesOrphans(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p, q := pod("a", corev1.RestartPolicyAlways, "sleep|100000"), pod("b", corev1.RestartPolicyAlways, trap)
		n.m.Update(p)
		n.m.Update(q)
		n.running(p, "c1")
		keep := n.running(q, "c1")
		n.stop()
		n.start()
		n.m.Update(q) // p was deleted while the agent was away
		n.m.Sweep()
		time.Sleep(time.Minute)
		synctest.Wait()
		list, _ := n.rt.ListContainers(context.Background(), "")
		if len(list) != 1 || list[0].ID != keep.ID {
			t.Errorf("after the sweep: %+v", list)
		}
		if boxes, _ := n.rt.ListSandboxes(context.Background()); len(boxes) != 1 {
			t.Errorf("sandboxes after the sweep: %+v", boxes)
		}
	})
}

func TestDeletionInterruptsPull(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		release := n.rt.Block("PullImage")
		defer release()
		p := pod("a", corev1.RestartPolicyAlways, trap)
		p.Spec.Containers[0].Image = "docker.io/test/slow:1"
		n.m.Update(p)
		synctest.Wait()
		n.m.Update(deleting(p, 30))
		if !n.hasEnded(p) {
			t.Error("a pull that hangs keeps the pod from its end")
		}
		release()
	})
}

func TestOOMAndStartErrors(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyNever, "sleep|100000")
		n.m.Update(p)
		n.rt.Exit(n.running(p, "c1").ID, 137, true)
		if s := n.status(p); s.Phase != corev1.PodFailed || s.ContainerStatuses[0].State.Terminated.Reason != "OOMKilled" {
			t.Errorf("status %+v", s)
		}
		q := pod("b", corev1.RestartPolicyAlways, "/no/such")
		n.m.Update(q)
		s := n.status(q).ContainerStatuses[0]
		if s.LastTerminationState.Terminated == nil || s.LastTerminationState.Terminated.ExitCode != 128 || s.LastTerminationState.Terminated.Reason != "StartError" {
			t.Errorf("last state %+v, state %+v", s.LastTerminationState, s.State)
		}
	})
}

func TestReconcileReportsAgain(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, trap)
		n.m.Update(p)
		s := n.status(p)
		told := p.DeepCopy()
		told.Status = *s.DeepCopy()
		n.m.Update(told)
		n.mu.Lock()
		delete(n.statuses, p.UID)
		n.mu.Unlock()
		n.m.Reconcile()
		synctest.Wait()
		n.mu.Lock()
		_, again := n.statuses[p.UID]
		n.mu.Unlock()
		if again {
			t.Error("an equal status was reported again")
		}
		for i := range told.Status.Conditions { // a master took the node for dead
			if told.Status.Conditions[i].Type == corev1.PodReady {
				told.Status.Conditions[i].Status = corev1.ConditionFalse
			}
		}
		told = told.DeepCopy()
		n.m.Update(told)
		n.m.Reconcile()
		if c := condition(n.status(p).Conditions, corev1.PodReady); c == nil || c.Status != corev1.ConditionTrue {
			t.Errorf("after the node came back: %+v", c)
		}
	})
}

func TestRemovedAndToldAgain(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, "sleep|100000")
		n.m.Update(p)
		first := n.running(p, "c1")
		n.m.Remove(p.UID)
		synctest.Wait()
		n.m.Update(p) // while it is being stopped
		time.Sleep(time.Minute)
		if again := n.running(p, "c1"); again.ID == first.ID {
			t.Error("the removed container runs on")
		}
		if s := n.status(p); s.Phase != corev1.PodRunning {
			t.Errorf("status %+v", s)
		}
	})
}

// TestAnImportedImageStandsInForItsRegistry if the registry cannot be reached; not if it refuses access, and not for an image that
// was pulled, which may have needed another pod's credentials.
func TestAnImportedImageStandsInForItsRegistry(t *testing.T) {
	const image = "docker.io/test/far:latest"
	away := fmt.Errorf("failed to do request: no route to host: %w", runtime.ErrRegistryUnreachable)
	for name, c := range map[string]struct {
		pulledBefore bool
		fails        error
		runs         bool
	}{
		"imported, away":   {false, away, true},
		"imported, refuse": {false, errors.New("403 Forbidden"), false},
		"pulled, away":     {true, away, false},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *node) {
				ctx := context.Background()
				var err error
				if c.pulledBefore {
					n.rt.Provide(image)
					_, err = n.rt.PullImage(ctx, image, runtime.Auth{})
				} else {
					_, err = n.rt.ImportImage(ctx, strings.NewReader(image))
				}
				if err != nil {
					t.Fatal(err)
				}
				n.rt.Fail("PullImage", c.fails)
				p := pod("a", corev1.RestartPolicyAlways, trap)
				p.Spec.Containers[0].Image, p.Spec.Containers[0].ImagePullPolicy = image, corev1.PullAlways
				n.m.Update(p)
				s := n.status(p)
				if runs := s.Phase == corev1.PodRunning; runs != c.runs {
					t.Errorf("%+v", s)
				}
				if w := s.ContainerStatuses[0].State.Waiting; !c.runs && (w == nil || w.Reason != "ErrImagePull") {
					t.Errorf("waiting %+v", w)
				}
			})
		})
	}
}
