package nodelifecycle_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/nodelifecycle"
	"github.com/kontiki/kontiki/test/harness"
)

// gossip is a stream of members that a test writes, and the set of nodes that answer probes.
type gossip struct {
	mu      sync.Mutex
	members map[string]nodelifecycle.Member
	changes chan nodelifecycle.Member
	answers map[string]bool
	probes  map[string]int
}

func (g *gossip) Members() (out []nodelifecycle.Member) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.members {
		out = append(out, m)
	}
	return out
}

func (g *gossip) Next(ctx context.Context) (nodelifecycle.Member, error) {
	select {
	case m := <-g.changes:
		return m, nil
	case <-ctx.Done():
		return nodelifecycle.Member{}, ctx.Err()
	}
}

func (g *gossip) Probe(_ context.Context, node *corev1.Node) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.probes[node.Name]++
	if g.answers[node.Name] {
		return nil
	}
	return errors.New("no answer")
}

func (g *gossip) tell(name string, state nodelifecycle.State, answers bool) {
	g.mu.Lock()
	m := nodelifecycle.Member{Name: name, State: state, Since: time.Now()}
	g.members[name], g.answers[name] = m, answers
	g.mu.Unlock()
	g.changes <- m
}

func (g *gossip) probed(name string) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.probes[name]
}

type bed struct {
	*harness.Harness
	t        *testing.T
	gossip   *gossip
	recorder *controllertest.Recorder
	config   nodelifecycle.Config
}

func newBed(t *testing.T, change ...func(*nodelifecycle.Config)) *bed {
	t.Helper()
	return newBedOver(t, harness.New(t), change...)
}

func newBedOver(t *testing.T, h *harness.Harness, change ...func(*nodelifecycle.Config)) *bed {
	t.Helper()
	b := &bed{Harness: h, t: t, recorder: controllertest.NewRecorder(), gossip: &gossip{
		members: map[string]nodelifecycle.Member{}, changes: make(chan nodelifecycle.Member, 100), answers: map[string]bool{}, probes: map[string]int{}}}
	b.config = nodelifecycle.Config{
		Client: h.Client, Recorder: b.recorder, Hints: b.gossip, Probe: b.gossip.Probe,
		ProbePause: time.Millisecond, ProbeAgain: 5 * time.Millisecond, ConfirmPeriod: 5 * time.Millisecond, LeaseGrace: time.Hour, StartupGrace: time.Hour, Quarantine: time.Hour,
		Evictions: &nodelifecycle.Evictions{Rate: 1000, UnhealthyZone: 1, LargeCluster: 1},
	}
	for _, c := range change {
		c(&b.config)
	}
	return b
}

func (b *bed) run() *bed {
	b.t.Helper()
	controllertest.Run(b.t, b.Client, nodelifecycle.New(b.config)...)
	return b
}

func setReady(n *corev1.Node, status corev1.ConditionStatus) {
	n.Status.Conditions = []corev1.NodeCondition{
		{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionFalse}, {Type: corev1.NodeDiskPressure, Status: corev1.ConditionFalse},
		{Type: corev1.NodePIDPressure, Status: corev1.ConditionFalse}, {Type: corev1.NodeReady, Status: status, Reason: "KubeletReady"},
	}
}

func (b *bed) nodes(names ...string) {
	b.t.Helper()
	for _, name := range names {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		setReady(n, corev1.ConditionTrue)
		controllertest.Create(b.t, b.Client, n)
		b.gossip.mu.Lock()
		b.gossip.members[name] = nodelifecycle.Member{Name: name, State: nodelifecycle.Alive}
		b.gossip.answers[name] = true
		b.gossip.mu.Unlock()
	}
}

func (b *bed) report(name string, status corev1.ConditionStatus) {
	b.t.Helper()
	controllertest.ChangeStatus(b.t, b.Client, "", name, func(n *corev1.Node) { setReady(n, status) })
}

func (b *bed) pod(name, node string, change ...func(*corev1.Pod)) *corev1.Pod {
	b.t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	for _, c := range change {
		c(p)
	}
	controllertest.Create(b.t, b.Client, p)
	return controllertest.ChangeStatus(b.t, b.Client, "default", name, func(p *corev1.Pod) { controllertest.MakeReady(p, true) })
}

func tolerate(seconds int64) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable, "mine"} {
			p.Spec.Tolerations = append(p.Spec.Tolerations, corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds})
		}
	}
}

// taints returns a node's taints as "key:effect", sorted.
func taints(n *corev1.Node) []string {
	out := []string{}
	for _, t := range n.Spec.Taints {
		out = append(out, t.Key+":"+string(t.Effect))
	}
	slices.Sort(out)
	return out
}

func (b *bed) tainted(name string, want ...string) *corev1.Node {
	b.t.Helper()
	want = slices.Sorted(slices.Values(want))
	return controllertest.Await(b.t, b.Client, "", name, fmt.Sprintf("taints %v", want), func(n *corev1.Node) bool { return slices.Equal(taints(n), want) })
}

const (
	unreachable = "node.kubernetes.io/unreachable"
	notReady    = "node.kubernetes.io/not-ready"
)

func TestANodeIsLostOnlyWhenGossipAndProbeAgree(t *testing.T) {
	b := newBed(t)
	b.nodes("n1", "n2")
	b.run()
	b.pod("p", "n1")
	// A false alarm: gossip reports it as failed, but it answers probes. It is probed again as long as that lasts.
	b.gossip.tell("n1", nodelifecycle.Dead, true)
	deadline := time.Now().Add(30 * time.Second)
	for b.gossip.probed("n1") < 3 {
		if time.Now().After(deadline) {
			t.Fatal("it is not probed again")
		}
		time.Sleep(time.Millisecond)
	}
	if n, _ := client.Get[*corev1.Node](b.Client.View(), "", "n1"); n.Status.Conditions[3].Status != corev1.ConditionTrue || len(n.Spec.Taints) > 0 {
		t.Fatalf("a false alarm changed the node: %+v %+v", n.Status.Conditions, n.Spec.Taints)
	}
	b.gossip.tell("n1", nodelifecycle.Dead, false)
	n := b.tainted("n1", unreachable+":NoSchedule", unreachable+":NoExecute")
	for _, c := range n.Status.Conditions {
		if c.Status != corev1.ConditionUnknown || c.Reason != "NodeStatusUnknown" || c.Message != "Kubelet stopped posting node status." {
			t.Errorf("condition %+v", c)
		}
	}
	for _, taint := range n.Spec.Taints {
		if taint.TimeAdded == nil {
			t.Errorf("taint without time: %+v", taint)
		}
	}
	controllertest.Await(t, b.Client, "default", "p", "not ready", func(p *corev1.Pod) bool {
		return p.Status.Conditions[len(p.Status.Conditions)-1].Status == corev1.ConditionFalse && p.DeletionTimestamp == nil
	})
	b.recorder.Await(t, "Normal NodeNotReady Node n1 status is now: NodeNotReady")
	b.recorder.Await(t, "Warning NodeNotReady Node is not ready")
	// A return in gossip does not make the node ready: only its own status does.
	b.gossip.tell("n1", nodelifecycle.Alive, true)
	b.gossip.tell("n2", nodelifecycle.Left, false)
	controllertest.Await(t, b.Client, "", "n2", "unknown", func(n *corev1.Node) bool { return n.Status.Conditions[3].Status == corev1.ConditionUnknown })
	if n, _ := client.Get[*corev1.Node](b.Client.View(), "", "n1"); n.Status.Conditions[3].Status != corev1.ConditionUnknown {
		t.Error("a Ready=True was invented")
	}
	b.report("n1", corev1.ConditionTrue)
	b.tainted("n1")
}

func TestTaintsFollowConditions(t *testing.T) {
	b := newBed(t)
	b.nodes("n1", "n2")
	controllertest.Change(t, b.Client, "", "n1", func(n *corev1.Node) {
		n.Spec.Taints = []corev1.Taint{{Key: "mine", Value: "v", Effect: corev1.TaintEffectNoSchedule}, {Key: unreachable, Effect: corev1.TaintEffectNoSchedule}}
	})
	b.run()
	b.tainted("n1", "mine:NoSchedule") // what a leader before left behind goes
	b.report("n1", corev1.ConditionFalse)
	b.tainted("n1", "mine:NoSchedule", notReady+":NoSchedule", notReady+":NoExecute")
	b.report("n1", corev1.ConditionUnknown)
	b.tainted("n1", "mine:NoSchedule", unreachable+":NoSchedule", unreachable+":NoExecute")
	controllertest.ChangeStatus(t, b.Client, "", "n1", func(n *corev1.Node) {
		setReady(n, corev1.ConditionTrue)
		for i := range 3 {
			n.Status.Conditions[i].Status = corev1.ConditionTrue
		}
		n.Status.Conditions = append(n.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeNetworkUnavailable, Status: corev1.ConditionTrue})
	})
	pressed := []string{"mine:NoSchedule", "node.kubernetes.io/memory-pressure:NoSchedule", "node.kubernetes.io/disk-pressure:NoSchedule",
		"node.kubernetes.io/pid-pressure:NoSchedule", "node.kubernetes.io/network-unavailable:NoSchedule"}
	b.tainted("n1", pressed...)
	controllertest.Change(t, b.Client, "", "n1", func(n *corev1.Node) { n.Spec.Unschedulable = true })
	b.tainted("n1", append(pressed, "node.kubernetes.io/unschedulable:NoSchedule")...)
	b.recorder.Await(t, "Normal NodeNotSchedulable Node n1 status is now: NodeNotSchedulable")
	controllertest.Change(t, b.Client, "", "n1", func(n *corev1.Node) { n.Spec.Unschedulable = false })
	b.recorder.Await(t, "Normal NodeSchedulable Node n1 status is now: NodeSchedulable")
	b.report("n1", corev1.ConditionTrue)
	controllertest.ChangeStatus(t, b.Client, "", "n1", func(n *corev1.Node) { setReady(n, corev1.ConditionTrue) })
	b.tainted("n1", "mine:NoSchedule")
}

func TestPodsAreEvictedWhenTheyTolerateNoLonger(t *testing.T) {
	b := newBed(t)
	b.nodes("n1", "n2")
	b.run()
	b.pod("at-once", "n1", tolerate(0))
	b.pod("soon", "n1", tolerate(1))
	b.pod("later", "n1", tolerate(3600))
	b.pod("ever", "n1", func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} })
	b.pod("elsewhere", "n2", tolerate(0))
	b.gossip.tell("n1", nodelifecycle.Dead, false)
	for _, name := range []string{"at-once", "soon"} {
		p := controllertest.Await(t, b.Client, "default", name, "eviction", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
		if *p.DeletionGracePeriodSeconds != 30 {
			t.Errorf("%s: grace %d: the node may be alive, its pods get their grace", name, *p.DeletionGracePeriodSeconds)
		}
		if !slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == "DeletionByTaintManager" && c.Message == "Taint manager: deleting due to NoExecute taint"
		}) {
			t.Errorf("%s: conditions %+v", name, p.Status.Conditions)
		}
		b.recorder.Await(t, "Normal TaintManagerEviction Marking for deletion Pod default/"+name)
	}
	b.report("n1", corev1.ConditionTrue)
	b.recorder.Await(t, "Normal TaintManagerEviction Cancelling deletion of Pod default/later")
	for _, name := range []string{"later", "ever", "elsewhere"} {
		if p, _ := client.Get[*corev1.Pod](b.Client.View(), "default", name); p.DeletionTimestamp != nil {
			t.Errorf("%s was evicted", name)
		}
	}
	if got := b.recorder.Events("Normal TaintManagerEviction Marking"); len(got) != 2 {
		t.Errorf("events %q", got)
	}
}

func TestTaintsOfUsersEvictToo(t *testing.T) {
	b := newBed(t)
	b.nodes("n1", "n2")
	b.run()
	b.pod("intolerant", "n1")
	b.pod("patient", "n1", tolerate(3600))
	controllertest.Change(t, b.Client, "", "n1", func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "mine", Effect: corev1.TaintEffectNoExecute})
	})
	controllertest.Await(t, b.Client, "default", "intolerant", "eviction", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	// A second taint without a toleration outweighs the first, which is tolerated.
	controllertest.Change(t, b.Client, "", "n1", func(n *corev1.Node) {
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: "other", Effect: corev1.TaintEffectNoExecute})
	})
	controllertest.Await(t, b.Client, "default", "patient", "eviction", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	// A pod that is assigned to a tainted node is evicted as well.
	b.pod("newcomer", "n1")
	controllertest.Await(t, b.Client, "default", "newcomer", "eviction", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
}

func TestNodesWithLeasesAreJudgedByThem(t *testing.T) {
	b := newBed(t, func(c *nodelifecycle.Config) { c.LeaseGrace = 5 * time.Millisecond })
	for _, name := range []string{"stock", "other"} {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
		setReady(n, corev1.ConditionTrue)
		controllertest.Create(t, b.Client, n)
	}
	controllertest.Create(t, b.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: corev1.NamespaceNodeLease}})
	seconds := int32(40)
	stamp := metav1.NewMicroTime(time.Now().Add(-24 * time.Hour)) // its clock is wrong, which does not matter
	controllertest.Create(t, b.Client, &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: corev1.NamespaceNodeLease, Name: "stock"},
		Spec: coordinationv1.LeaseSpec{RenewTime: &stamp, LeaseDurationSeconds: &seconds}})
	b.run()
	b.tainted("stock", unreachable+":NoSchedule", unreachable+":NoExecute")
	if n, _ := client.Get[*corev1.Node](b.Client.View(), "", "other"); n.Status.Conditions[3].Status != corev1.ConditionTrue {
		t.Error("a node without Lease was judged by one")
	}
	if b.gossip.probed("stock") > 0 {
		t.Error("a node with a Lease was probed")
	}
	// It renews its lease, reports that it is ready, and stops again.
	controllertest.Change(t, b.Client, corev1.NamespaceNodeLease, "stock", func(l *coordinationv1.Lease) {
		next := metav1.NewMicroTime(stamp.Add(time.Second))
		l.Spec.RenewTime = &next
	})
	b.report("stock", corev1.ConditionTrue)
	b.recorder.AwaitN(t, "Normal NodeNotReady Node stock status is now: NodeNotReady", 2)
	b.tainted("stock", unreachable+":NoSchedule", unreachable+":NoExecute")
}

func TestANodeThatNeverTurnsUpIsProbedAndLost(t *testing.T) {
	b := newBed(t, func(c *nodelifecycle.Config) { c.StartupGrace = time.Millisecond })
	b.nodes("n1")
	controllertest.Create(t, b.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "ghost"}})
	b.run()
	n := b.tainted("ghost", unreachable+":NoSchedule", unreachable+":NoExecute")
	if c := n.Status.Conditions[0]; c.Reason != "NodeStatusNeverUpdated" || c.Message != "Kubelet never posted node status." {
		t.Errorf("condition %+v", c)
	}
	if b.gossip.probed("ghost") < 2 {
		t.Errorf("probed %d times", b.gossip.probed("ghost"))
	}
}
