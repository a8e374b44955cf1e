package pods

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// asking returns a pod that requests CPU and memory, "" for none, and is Guaranteed if its limits are the same.
func asking(name, cpu, memory string, guaranteed bool) *corev1.Pod {
	p := pod(name, corev1.RestartPolicyAlways, trap)
	list := corev1.ResourceList{}
	if cpu != "" {
		list[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		list[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	p.Spec.Containers[0].Resources.Requests = list
	if guaranteed {
		p.Spec.Containers[0].Resources.Limits = list
	}
	return p
}

// TestACriticalPodGetsRoom: it ends others only if it lacks nothing but their resources, waits for their end, and is refused if they do not suffice.
func TestACriticalPodGetsRoom(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.stop()
		n.change = func(c *Config) {
			c.Static = func(uid types.UID) bool { return strings.HasPrefix(string(uid), "uid-static") }
		}
		n.start()
		n.node = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourcePods: resource.MustParse("10")}}}
		run := func(p *corev1.Pod) {
			t.Helper()
			n.m.Update(p)
			n.running(p, "c1")
		}
		small, large := asking("small", "400m", "", false), asking("large", "1500m", "", false)
		run(small)
		run(large)
		ordinary := asking("ordinary", "300m", "", false)
		n.m.Update(ordinary)
		if s := n.status(ordinary); s.Reason != "OutOfcpu" {
			t.Errorf("a pod that is not critical: %+v", s)
		}
		misplaced := asking("static-misplaced", "300m", "", false)
		misplaced.Spec.NodeSelector = map[string]string{"no": "where"}
		n.m.Update(misplaced)
		if s := n.status(misplaced); s.Reason != "NodeAffinity" || n.hasEnded(small) {
			t.Errorf("one that may not run here anyway: %+v, others ended: %v", s, n.hasEnded(small))
		}
		one := asking("static-one", "300m", "", false)
		n.m.Update(one)
		time.Sleep(time.Minute) // of virtual time: the grace period of the other
		n.running(one, "c1")
		s := n.status(small)
		if s.Phase != corev1.PodFailed || s.Reason != "Preempting" || s.Message != "Preempted in order to admit critical pod" {
			t.Errorf("the pod that was ended: %+v", s)
		}
		if c := condition(s.Conditions, corev1.DisruptionTarget); c == nil || c.Reason != corev1.PodReasonTerminationByKubelet {
			t.Errorf("its conditions: %+v", s.Conditions)
		}
		if n.hasEnded(large) {
			t.Error("more pods were ended than needed")
		}
		huge := asking("static-huge", "3", "", false)
		n.m.Update(huge)
		time.Sleep(time.Minute) // of virtual time
		if s := n.status(huge); s.Reason != "UnexpectedAdmissionError" || !strings.Contains(s.Message, "no set of running pods found to reclaim resources: [(res: cpu, q: 1300), ]") || n.hasEnded(large) {
			t.Errorf("one that can never fit: %+v, others ended: %v", s, n.hasEnded(large))
		}
		if said := fmt.Sprint(n.said("Preempting")); strings.Count(said, "Preempted in order to admit critical pod") != 1 {
			t.Errorf("events: %s", said)
		}
	})
}
