package pods

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/runtime"
)

// restartable is a pod with an init container, a sidecar, a container whose exit with 42 restarts all, and another one.
func restartable() *corev1.Pod {
	p := pod("a", corev1.RestartPolicyNever, trap, trap)
	always, never := corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyNever
	p.Spec.InitContainers = []corev1.Container{{Name: "init", Image: image, Command: []string{"true"}},
		{Name: "side", Image: image, Command: strings.Split(trap, "|"), RestartPolicy: &always}}
	p.Spec.Containers[0].RestartPolicy = &never
	p.Spec.Containers[0].RestartPolicyRules = []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}}}}
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: image, Command: []string{"true"}}}}
	return p
}

func TestRestartAllContainers(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := restartable()
		n.m.Update(p)
		first := n.running(p, "c1")
		other := n.running(p, "c2")
		if c := condition(n.status(p).Conditions, corev1.AllContainersRestarting); c == nil || c.Status != corev1.ConditionFalse {
			t.Fatalf("condition %+v", c)
		}
		n.rt.Exit(first.ID, 42, false)
		n.running(p, "c1")
		if c := n.running(p, "c2"); c.ID == other.ID || c.Attempt != 1 {
			t.Errorf("the other container is %+v", c)
		}
		s := n.status(p)
		if s.Phase != corev1.PodRunning || condition(s.Conditions, corev1.PodReady).Status != corev1.ConditionTrue || condition(s.Conditions, corev1.AllContainersRestarting).Status != corev1.ConditionFalse {
			t.Errorf("status %+v", s)
		}
		for _, c := range slices.Concat(s.InitContainerStatuses, s.ContainerStatuses) {
			want := corev1.ContainerStateTerminated{ExitCode: 137, Reason: "RestartingAllContainers"}
			if c.Name == "c1" {
				want = corev1.ContainerStateTerminated{ExitCode: 42, Reason: "Error"}
			}
			last := c.LastTerminationState.Terminated
			if c.RestartCount != 1 || last == nil || last.ExitCode != want.ExitCode || last.Reason != want.Reason {
				t.Errorf("%s: %d restarts, last %+v", c.Name, c.RestartCount, last)
			}
		}
		if e := s.EphemeralContainerStatuses[0]; e.RestartCount != 0 || e.State.Terminated == nil {
			t.Errorf("the ephemeral container: %+v", e)
		}
		// Init containers and sidecars come first again.
		created := slices.DeleteFunc(n.rt.Calls(), func(c string) bool { return !strings.HasPrefix(c, "CreateContainer ") || strings.HasSuffix(c, "debug") })
		round := []string{"CreateContainer init", "CreateContainer side", "CreateContainer c1", "CreateContainer c2"}
		if !slices.Equal(created, slices.Concat(round, round)) {
			t.Errorf("created %q", created)
		}
		// The second time it waits, and so all wait no longer than that.
		n.rt.Exit(n.running(p, "c1").ID, 42, false)
		if w := n.status(p).ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "CrashLoopBackOff" {
			t.Errorf("the container that fails again: %+v", n.status(p).ContainerStatuses[0].State)
		}
		if s := n.status(p); s.Phase != corev1.PodRunning {
			t.Errorf("phase %s", s.Phase)
		}
		time.Sleep(11 * time.Second)
		if c := n.running(p, "c1"); c.Attempt != 2 {
			t.Errorf("%+v", c)
		}
		// Another exit code ends the container by its policy.
		n.rt.Exit(n.running(p, "c1").ID, 0, false)
		n.rt.Exit(n.running(p, "c2").ID, 0, false)
		synctest.Wait()
		time.Sleep(time.Minute)
		if s := n.status(p); s.Phase != corev1.PodSucceeded {
			t.Errorf("phase %s", s.Phase)
		}
	})
}

// An agent that ends between killing the containers and storing the round finishes the restart when it is back; one that ends after that
// does not begin another.
func TestRestartAllSurvivesTheAgent(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := restartable()
		n.m.Update(p)
		n.running(p, "c2")
		n.stop()
		n.rt.Exit(n.running(p, "c1").ID, 42, false)
		for range 2 {
			n.start()
			p.Status = n.status(p)
			n.m.Update(p)
			if c := n.running(p, "c2"); c.Attempt != 1 {
				t.Errorf("%+v", c)
			}
			n.stop()
		}
		list, _ := n.rt.ListContainers(context.Background(), string(p.UID))
		running := 0
		for _, c := range list {
			if c.State == runtime.StateRunning {
				running++
			}
		}
		if running != 3 {
			t.Errorf("%d containers run, want 3", running)
		}
	})
}

func TestRestartAllFromAnInitContainer(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := restartable()
		p.Spec.Containers[0].RestartPolicyRules = nil
		never := corev1.ContainerRestartPolicyNever
		p.Spec.InitContainers = append(p.Spec.InitContainers, corev1.Container{Name: "late", Image: image, Command: strings.Split(trap, "|"), RestartPolicy: &never,
			RestartPolicyRules: []corev1.ContainerRestartRule{{Action: corev1.ContainerRestartRuleActionRestartAllContainers,
				ExitCodes: &corev1.ContainerRestartRuleOnExitCodes{Operator: corev1.ContainerRestartRuleOnExitCodesOpNotIn, Values: []int32{0, 1}}}}})
		n.m.Update(p)
		n.rt.Exit(n.running(p, "late").ID, 3, false)
		late := n.running(p, "late")
		if side := n.running(p, "side"); side.Attempt != 1 || late.Attempt != 1 {
			t.Errorf("sidecar %+v, init container %+v", side, late)
		}
		n.rt.Exit(late.ID, 0, false)
		n.running(p, "c1")
		if s := n.status(p); s.Phase != corev1.PodRunning || s.InitContainerStatuses[0].RestartCount != 1 {
			t.Errorf("status %+v", s)
		}
		n.rt.Exit(n.running(p, "side").ID, 3, false)
		if c := n.running(p, "side"); c.Attempt != 2 {
			t.Errorf("a sidecar without the rule: %+v", c)
		}
		if c := n.running(p, "c1"); c.Attempt != 0 {
			t.Errorf("%+v", c)
		}
	})
}
