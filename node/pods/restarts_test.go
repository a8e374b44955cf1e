package pods

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/node/runtime/fake"
)

func TestBackOffIsOfAnImageAndItsResources(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.rt.Provide("docker.io/test/fixed:1")
		p := pod("a", corev1.RestartPolicyAlways, "sh|-c|exit 3")
		n.m.Update(p)
		time.Sleep(40 * time.Second) // virtual
		if w := n.status(p).ContainerStatuses[0].State.Waiting; w == nil || w.Reason != "CrashLoopBackOff" {
			t.Fatalf("%+v", w)
		}
		p = p.DeepCopy()
		p.Generation++
		p.Spec.Containers[0].Image = "docker.io/test/fixed:1"
		before := n.status(p).ContainerStatuses[0].RestartCount
		n.m.Update(p)
		time.Sleep(time.Second) // virtual
		if s := n.status(p).ContainerStatuses[0]; s.RestartCount <= before || s.Image != "docker.io/test/fixed:1" {
			t.Errorf("the mended image waits for the broken one's back-off: %+v", s)
		}
		c := &corev1.Container{Name: "c", Image: "i"}
		bigger := c.DeepCopy()
		bigger.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}
		if restartKey(c) == restartKey(bigger) || restartKey(c) != restartKey(c.DeepCopy()) {
			t.Error("the key does not follow the resources")
		}
	})
}

func TestInitContainersRunAgainAfterAReboot(t *testing.T) {
	for _, policy := range []corev1.RestartPolicy{corev1.RestartPolicyAlways, corev1.RestartPolicyNever} {
		bubble(t, func(t *testing.T, n *node) {
			runs := 0
			n.rt.Program("prepare", func(context.Context, *fake.Process) int { runs++; return 0 })
			p := pod("a", policy, trap)
			p.Spec.InitContainers = []corev1.Container{{Name: "init", Image: image, Command: []string{"prepare"}}}
			n.m.Update(p)
			n.running(p, "c1")
			n.stop()
			n.start()
			n.m.Update(p)
			n.running(p, "c1")
			if runs != 1 {
				t.Errorf("%d runs after a restart of the agent", runs)
			}
			n.stop()
			n.rt.Reboot()
			n.start()
			n.m.Update(p)
			if policy == corev1.RestartPolicyNever {
				if s := n.status(p); s.Phase != corev1.PodFailed || runs != 1 {
					t.Errorf("a pod that runs once: %s, %d runs", s.Phase, runs)
				}
				return
			}
			n.running(p, "c1")
			if runs != 2 {
				t.Errorf("%d runs after a reboot", runs)
			}
			if s := n.status(p); s.Phase != corev1.PodRunning || condition(s.Conditions, corev1.PodInitialized).Status != corev1.ConditionTrue {
				t.Errorf("status %+v", s)
			}
		})
	}
}

func TestEphemeralContainersRun(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		p := pod("a", corev1.RestartPolicyAlways, trap)
		n.m.Update(p)
		main := n.running(p, "c1")
		p = p.DeepCopy()
		p.Generation++
		p.Spec.EphemeralContainers = []corev1.EphemeralContainer{
			{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: image, Command: strings.Split(trap, "|"), Stdin: true}, TargetContainerName: "c1"},
			{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "once", Image: image, Command: []string{"false"}}},
		}
		n.m.Update(p)
		debug := n.running(p, "debug")
		if c := n.rt.Config(debug.ID); c.ProcessesOf != main.ID || !c.Stdin {
			t.Errorf("made from %+v", c)
		}
		time.Sleep(time.Minute) // virtual
		s := n.status(p)
		if len(s.EphemeralContainerStatuses) != 2 || s.EphemeralContainerStatuses[0].State.Running == nil || s.EphemeralContainerStatuses[1].RestartCount != 0 {
			t.Fatalf("%+v", s.EphemeralContainerStatuses)
		}
		if e := s.EphemeralContainerStatuses[1].State.Terminated; e == nil || e.ExitCode != 1 {
			t.Errorf("one that ended: %+v", s.EphemeralContainerStatuses[1].State)
		}
		if s.Phase != corev1.PodRunning || condition(s.Conditions, corev1.PodReady).Status != corev1.ConditionTrue {
			t.Errorf("the pod: %+v", s)
		}
		if !slices.ContainsFunc(n.events, func(e Event) bool {
			return e.FieldPath == "spec.ephemeralContainers{debug}" && e.Reason == "Started"
		}) {
			t.Error("no event about it")
		}
		n.m.Update(deleting(p, 30))
		if !n.hasEnded(p) {
			t.Error("it keeps the pod from its end")
		}
	})
}

func TestTwoPodsOfOneName(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		old := pod("web", corev1.RestartPolicyAlways, ignores)
		old.UID, old.CreationTimestamp = "uid-old", metav1.NewTime(time.Now())
		n.m.Update(old)
		n.running(old, "c1")
		n.m.Remove(old.UID) // deleted by force: it still stops
		n.status(old)
		time.Sleep(time.Second) // virtual
		successor := pod("web", corev1.RestartPolicyAlways, trap)
		successor.UID, successor.CreationTimestamp = "uid-new", metav1.NewTime(time.Now())
		n.m.Update(successor)
		n.running(successor, "c1")
		for range 20 { // whatever a map's order
			if p, ok := n.m.Pod("ns", "web", ""); !ok || p.UID != "uid-new" {
				t.Fatalf("the name stands for %v", p.UID)
			}
		}
		if p, ok := n.m.Pod("ns", "web", "uid-old"); !ok || p.UID != "uid-old" {
			t.Error("the old one is not found by its UID")
		}
		if _, ok := n.m.Pod("ns", "web", "uid-none"); ok {
			t.Error("another UID finds a pod")
		}
	})
}
