package scheduler_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kontiki/kontiki/api/client"
)

// classes creates the priority classes low, middle and high, and never, which is as high but does not preempt.
func (b *bed) classes() {
	b.t.Helper()
	never := corev1.PreemptNever
	for name, class := range map[string]schedulingv1.PriorityClass{"low": {Value: 1}, "middle": {Value: 10}, "high": {Value: 100}, "never": {Value: 100, PreemptionPolicy: &never}} {
		class.Name = name
		if _, err := client.Create(context.Background(), b.Client, &class); err != nil {
			b.t.Fatal(err)
		}
	}
}

func class(name string) func(*corev1.Pod) {
	return func(p *corev1.Pod) { p.Spec.PriorityClassName = name }
}

func (b *bed) kill(name string) {
	b.t.Helper()
	if err := b.Client.Delete(context.Background(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}, client.Grace(0)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) now(name string) *corev1.Pod {
	b.t.Helper()
	p, ok := client.Get[*corev1.Pod](b.Client.View(), "default", name)
	if !ok {
		b.t.Fatalf("there is no pod %s", name)
	}
	return p
}

func condition(p *corev1.Pod, kind corev1.PodConditionType) (c corev1.PodCondition) {
	for _, have := range p.Status.Conditions {
		if have.Type == kind {
			c = have
		}
	}
	return c
}

func nominated(node string) func(*corev1.Pod) bool {
	return func(p *corev1.Pod) bool { return p.Status.NominatedNodeName == node }
}

func leaving(p *corev1.Pod) bool { return p.DeletionTimestamp != nil }

// event waits for a recorded event that contains a text.
func (b *bed) event(text string) {
	b.t.Helper()
	for {
		select {
		case event := <-b.events:
			if strings.Contains(event, text) {
				return
			}
		case <-time.After(20 * time.Second):
			b.t.Fatalf("no event with %q", text)
		}
	}
}

func TestPreemption(t *testing.T) {
	t.Run("a pod of lower priority makes room", func(t *testing.T) {
		b := start(t)
		b.classes()
		b.node("a", "1")
		b.pod("victim", "800m", class("low"))
		b.placed("victim")
		preemptor := b.pod("preemptor", "800m", class("high"))
		victim := b.await("victim", "its deletion", leaving)
		if c := condition(victim, corev1.DisruptionTarget); c.Status != corev1.ConditionTrue || c.Reason != corev1.PodReasonPreemptionByScheduler ||
			c.Message != "default-scheduler: preempting to accommodate a higher priority pod" {
			t.Errorf("the victim's condition: %+v", c)
		}
		waiting := b.now("preemptor")
		if waiting.Status.NominatedNodeName != "a" {
			t.Error("the victim is deleted though nobody is nominated for its room")
		}
		want := "0/1 nodes are available: 1 Insufficient cpu. preemption: found a potential placement for pod on node a, preempting 1 victims"
		if c := condition(waiting, corev1.PodScheduled); c.Message != want {
			t.Errorf("the preemptor's condition: %+v", c)
		}
		b.event(fmt.Sprintf("Normal Preempted Preempted by pod %s on node a", preemptor.UID))
		// The room is the preemptor's: a pod of lower priority does not get it though it would fit.
		b.node("b", "100m")
		b.pod("thief", "500m", class("middle"))
		b.kill("victim")
		if at := b.placed("preemptor"); at != "a" {
			t.Errorf("the preemptor is on %s", at)
		}
		if p := b.now("preemptor"); p.Status.NominatedNodeName != "" {
			t.Error("it is still nominated")
		}
		if p := b.now("thief"); p.Spec.NodeName != "" {
			t.Error("another pod was placed too")
		}
	})
	t.Run("a pod that must not preempt", func(t *testing.T) {
		b := start(t)
		b.classes()
		b.node("a", "1")
		b.pod("there", "800m", class("low"))
		b.placed("there")
		b.pod("patient", "800m", class("never"))
		b.refused("patient", "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never.")
		if leaving(b.now("there")) {
			t.Error("the other pod is being deleted")
		}
	})
	t.Run("preemption that would not help", func(t *testing.T) {
		b := start(t)
		b.classes()
		b.node("equal", "1", func(n *corev1.Node) { n.Labels["pool"] = "x" })
		b.node("small", "500m")
		b.node("cordoned", "8", func(n *corev1.Node) { n.Spec.Unschedulable = true })
		b.pod("there", "800m", class("high"), func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"pool": "x"} })
		b.placed("there")
		b.pod("p", "800m", class("high"))
		b.refused("p", "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu. "+
			"preemption: 0/3 nodes are available: 1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.")
	})
	t.Run("as few and as unimportant victims as possible", func(t *testing.T) {
		b := start(t)
		b.classes()
		b.node("a", "1")
		for name, priority := range map[string]string{"m1": "middle", "l1": "low", "l2": "low"} {
			b.pod(name, "300m", class(priority))
			b.placed(name)
		}
		b.pod("preemptor", "400m", class("high")) // 100m are free
		b.await("preemptor", "a nomination", nominated("a"))
		gone := ""
		for _, name := range []string{"l1", "l2"} {
			if b.await(name, "any state", func(*corev1.Pod) bool { return true }); leaving(b.now(name)) {
				gone = name
			}
		}
		b.event("Normal Preempted")
		for _, name := range []string{"l1", "l2"} {
			if leaving(b.now(name)) {
				gone = name
			}
		}
		if gone == "" || leaving(b.now("m1")) || leaving(b.now("l1")) && leaving(b.now("l2")) {
			t.Error("not exactly one of the pods of low priority is being deleted")
		}
		b.kill(gone)
		b.placed("preemptor")
	})
	t.Run("budgets are kept if there is a way", func(t *testing.T) {
		b := start(t)
		b.classes()
		ctx := context.Background()
		one := intstr.FromInt32(1)
		budget, err := client.Create(ctx, b.Client, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"},
			Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "kept"}}}})
		if err != nil {
			t.Fatal(err)
		}
		budget.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: budget.Generation, CurrentHealthy: 1, DesiredHealthy: 1, ExpectedPods: 1}
		if _, err := client.UpdateStatus(ctx, b.Client, budget); err != nil {
			t.Fatal(err)
		}
		at := func(node string) func(*corev1.Pod) {
			return func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{corev1.LabelHostname: node} }
		}
		b.node("a", "1")
		b.node("b", "1")
		// By priority alone, the pod on a would be the victim.
		b.pod("kept", "800m", class("low"), at("a"), func(p *corev1.Pod) { p.Labels["app"] = "kept" })
		b.pod("victim", "800m", class("middle"), at("b"))
		b.placed("kept")
		b.placed("victim")
		b.pod("preemptor", "800m", class("high"))
		b.await("victim", "its deletion", leaving)
		if leaving(b.now("kept")) {
			t.Error("the pod with a budget is being deleted")
		}
	})
	t.Run("several preemptors take different rooms", func(t *testing.T) {
		b := start(t)
		b.classes()
		for i := range 3 {
			b.node(fmt.Sprint("n", i), "1")
		}
		for i := range 3 {
			b.pod(fmt.Sprint("v", i), "800m", class("low"))
			b.placed(fmt.Sprint("v", i))
		}
		var rooms []string
		for i := range 3 {
			b.pod(fmt.Sprint("p", i), "800m", class("high"))
			p := b.await(fmt.Sprint("p", i), "a nomination", func(p *corev1.Pod) bool { return p.Status.NominatedNodeName != "" })
			rooms = append(rooms, p.Status.NominatedNodeName)
		}
		slices.Sort(rooms)
		if len(slices.Compact(rooms)) != 3 {
			t.Errorf("nominated nodes: %v", rooms)
		}
		for i := range 3 {
			b.await(fmt.Sprint("v", i), "its deletion", leaving)
			b.kill(fmt.Sprint("v", i))
		}
		for i := range 3 {
			b.placed(fmt.Sprint("p", i))
		}
	})
}

// TestPreemptionIsResumedByAnotherScheduler: the nominations that one scheduler wrote are respected by the next one, which deletes no
// more pods.
func TestPreemptionIsResumedByAnotherScheduler(t *testing.T) {
	b := start(t)
	b.classes()
	b.node("a", "1")
	b.node("b", "1")
	b.pod("v1", "800m", class("low"))
	b.pod("v2", "800m", class("low"))
	b.placed("v1")
	b.placed("v2")
	b.pod("preemptor", "800m", class("high"))
	p := b.await("preemptor", "a nomination", func(p *corev1.Pod) bool { return p.Status.NominatedNodeName != "" })
	victim, other := "v1", "v2"
	if b.now("v2").Spec.NodeName == p.Status.NominatedNodeName {
		victim, other = "v2", "v1"
	}
	b.await(victim, "its deletion", leaving)
	b.stop()
	b.run()
	b.pod("late", "800m", class("low"))
	b.refused("late", "0/2 nodes are available: 2 Insufficient cpu. preemption: 0/2 nodes are available: 2 No preemption victims found for incoming pod.")
	b.kill(victim)
	if at := b.placed("preemptor"); at != p.Status.NominatedNodeName {
		t.Errorf("it is on %s, was nominated for %s", at, p.Status.NominatedNodeName)
	}
	if leaving(b.now(other)) {
		t.Error("the other pod is being deleted too")
	}
}
