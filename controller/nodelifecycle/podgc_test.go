package nodelifecycle_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/nodelifecycle"
	"github.com/kontiki/kontiki/test/harness"
)

func TestPodsWithoutNodeAreRemoved(t *testing.T) {
	b := newBed(t, func(c *nodelifecycle.Config) { c.Quarantine = time.Millisecond })
	b.nodes("n1")
	b.pod("orphan", "never-was", func(p *corev1.Pod) { p.Finalizers = []string{"example.com/hold"} })
	b.pod("fine", "n1")
	b.pod("unscheduled", "")
	b.run()
	p := controllertest.Await(t, b.Client, "default", "orphan", "its removal", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if p.Status.Phase != corev1.PodFailed || p.Status.ObservedGeneration == 0 || !slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Reason == "DeletionByPodGC" && c.Message == "PodGC: node no longer exists"
	}) {
		t.Errorf("status %+v", p.Status)
	}
	controllertest.Change(t, b.Client, "default", "orphan", func(p *corev1.Pod) { p.Finalizers = nil })
	controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", "orphan")
	node, _ := client.Get[*corev1.Node](b.Client.View(), "", "n1")
	if err := b.Client.Delete(context.Background(), node); err != nil {
		t.Fatal(err)
	}
	controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", "fine")
	if _, ok := client.Get[*corev1.Pod](b.Client.View(), "default", "unscheduled"); !ok {
		t.Error("a pod that was not assigned was removed")
	}
}

func TestPodsBeingDeletedEndWithTheirNode(t *testing.T) {
	b := newBed(t) // the quarantine is an hour
	b.nodes("n1")
	b.run()
	going := b.pod("going", "n1")
	b.pod("staying", "n1")
	ctx := context.Background()
	if err := b.Client.Delete(ctx, going); err != nil {
		t.Fatal(err)
	}
	node, _ := client.Get[*corev1.Node](b.Client.View(), "", "n1")
	if err := b.Client.Delete(ctx, node); err != nil {
		t.Fatal(err)
	}
	controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", "going")
	if p, ok := client.Get[*corev1.Pod](b.Client.View(), "default", "staying"); !ok || p.DeletionTimestamp != nil {
		t.Error("a pod did not outlive its node by the quarantine")
	}
}

func TestPodsBeingDeletedEndOnANodeOutOfService(t *testing.T) {
	b := newBed(t)
	b.nodes("n1", "n2")
	b.run()
	going := b.pod("going", "n1", tolerate(3600), func(p *corev1.Pod) { p.Finalizers = []string{"example.com/hold"} })
	if err := b.Client.Delete(context.Background(), going); err != nil {
		t.Fatal(err)
	}
	b.gossip.tell("n1", nodelifecycle.Dead, false)
	b.tainted("n1", unreachable+":NoSchedule", unreachable+":NoExecute")
	if _, ok := client.Get[*corev1.Pod](b.Client.View(), "default", "going"); !ok {
		t.Fatal("removed while its containers may run")
	}
	controllertest.Change(t, b.Client, "", "n1", func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: corev1.TaintNodeOutOfService, Effect: corev1.TaintEffectNoExecute})
	})
	p := controllertest.Await(t, b.Client, "default", "going", "its removal", func(p *corev1.Pod) bool { return *p.DeletionGracePeriodSeconds == 0 })
	if p.Status.Phase != corev1.PodFailed || disrupted(p) {
		t.Errorf("the status is %+v, and upstream's has no DisruptionTarget", p.Status)
	}
	controllertest.Change(t, b.Client, "default", "going", func(p *corev1.Pod) { p.Finalizers = nil })
	controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", "going")
}

func disrupted(p *corev1.Pod) bool {
	return slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget })
}

// TestPodsDeletedBeforeTheyHadANodeHaveFailed: another component's finalizer delays their deletion, such as that of a Job, which
// counts them by their phase.
func TestPodsDeletedBeforeTheyHadANodeHaveFailed(t *testing.T) {
	b := newBed(t)
	b.run()
	held := b.pod("held", "", func(p *corev1.Pod) { p.Finalizers = []string{"example.com/hold"} })
	if err := b.Client.Delete(context.Background(), held); err != nil {
		t.Fatal(err)
	}
	p := controllertest.Await(t, b.Client, "default", "held", "its failure", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed })
	if p.DeletionTimestamp == nil || disrupted(p) {
		t.Errorf("it is %+v", p)
	}
	controllertest.Change(t, b.Client, "default", "held", func(p *corev1.Pod) { p.Finalizers = nil })
	controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", "held")
}

// TestOneNodeCostsNothingForOthers: a change of one node, or of a finished pod, must not read all nodes or pods.
func TestOneNodeCostsNothingForOthers(t *testing.T) {
	h, scans := harness.NewScanned(t, "pods", "nodes")
	b := newBedOver(t, h, func(c *nodelifecycle.Config) { c.MaxTerminatedPods, c.Quarantine = 2, time.Millisecond })
	b.nodes("n1", "n2", "n3")
	for i := range 50 {
		b.pod(fmt.Sprint("other", i), "n2")
	}
	fails := func(node string, status corev1.ConditionStatus) {
		t.Helper()
		b.pod("evicted", node, func(p *corev1.Pod) {
			p.Spec.TerminationGracePeriodSeconds = new(int64)
			p.Finalizers = []string{"example.com/hold"}
		})
		b.pod("unready", node, tolerate(3600))
		b.pod("orphan", node, func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}}
		})
		controllertest.Change(t, b.Client, "", node, func(n *corev1.Node) {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "mine", Effect: corev1.TaintEffectNoExecute})
		})
		b.report(node, status)
	}
	settles := func(node string) {
		t.Helper()
		controllertest.Await(t, b.Client, "default", "unready", "not ready", func(p *corev1.Pod) bool {
			return p.Status.Conditions[len(p.Status.Conditions)-1].Status == corev1.ConditionFalse
		})
		controllertest.Await(t, b.Client, "default", "evicted", "its eviction", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
		controllertest.Change(t, b.Client, "default", "evicted", func(p *corev1.Pod) { p.Finalizers = nil })
		n, _ := client.Get[*corev1.Node](b.Client.View(), "", node)
		if err := b.Client.Delete(context.Background(), n); err != nil {
			t.Fatal(err)
		}
		controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", "orphan")
		controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", "unready")
		for i := range 3 {
			name := fmt.Sprint("finished-", node, i)
			b.pod(name, "n2")
			controllertest.ChangeStatus(t, b.Client, "default", name, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
		}
		controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", "finished-"+node+"0")
	}
	// Their first results show that all of them run, and build the index.
	fails("n1", corev1.ConditionUnknown)
	b.run()
	settles("n1")
	scans.Reset()
	fails("n3", corev1.ConditionFalse)
	settles("n3")
	if n := scans.Visited(); n > 0 {
		t.Errorf("%d nodes and pods were visited", n)
	}
}

func TestFinishedPodsAreKeptUpToANumber(t *testing.T) {
	b := newBed(t, func(c *nodelifecycle.Config) { c.MaxTerminatedPods = 3 })
	b.nodes("n1")
	finish := func(i int, phase corev1.PodPhase, reason string) {
		name := fmt.Sprint("p", i)
		b.pod(name, "n1")
		controllertest.ChangeStatus(t, b.Client, "default", name, func(p *corev1.Pod) { p.Status.Phase, p.Status.Reason = phase, reason })
	}
	names := func(v client.View) (out []string) {
		client.Each(v, "default", func(p *corev1.Pod) bool { out = append(out, p.Name); return true })
		return out
	}
	finish(0, corev1.PodSucceeded, "")
	finish(1, corev1.PodFailed, "Evicted")
	finish(2, corev1.PodFailed, "")
	finish(3, corev1.PodSucceeded, "") // one too many when the leader begins
	b.pod("running", "n1")
	b.run()
	await := func(want ...string) {
		t.Helper()
		controllertest.AwaitView(t, b.Client, []client.Object{&corev1.Pod{}}, func(v client.View) string {
			if got := names(v); !slices.Equal(got, want) {
				return fmt.Sprintf("pods %v, want %v", got, want)
			}
			return ""
		})
	}
	await("p0", "p2", "p3", "running") // the evicted one went first
	finish(4, corev1.PodSucceeded, "")
	await("p2", "p3", "p4", "running") // then the oldest
}
