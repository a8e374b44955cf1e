package nodelifecycle_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/nodelifecycle"
)

// zone creates ready nodes of a zone, named by it: a0, a1, ...
func (b *bed) zone(name string, count int) {
	b.t.Helper()
	for i := range count {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint(name, i)}}
		if name != "" {
			n.Labels = map[string]string{corev1.LabelTopologyRegion: "r", corev1.LabelTopologyZone: name}
		}
		setReady(n, corev1.ConditionTrue)
		controllertest.Create(b.t, b.Client, n)
	}
}

// lose reports a range of the nodes of a zone as unknown.
func (b *bed) lose(zone string, from, to int) {
	b.t.Helper()
	for i := from; i < to; i++ {
		b.report(fmt.Sprint(zone, i), corev1.ConditionUnknown)
	}
}

// evicting counts a zone's nodes that have a NoExecute taint, and those that have a NoSchedule one.
func (b *bed) evicting(zone string) (noExecute, noSchedule int) {
	client.Each(b.Client.View(), "", func(n *corev1.Node) bool {
		for _, taint := range n.Spec.Taints {
			if taint.Key != unreachable || n.Labels[corev1.LabelTopologyZone] != zone {
				continue
			}
			switch taint.Effect {
			case corev1.TaintEffectNoExecute:
				noExecute++
			case corev1.TaintEffectNoSchedule:
				noSchedule++
			}
		}
		return true
	})
	return noExecute, noSchedule
}

// expect checks how many nodes of a zone are being emptied. Scheduling stops on every lost node at once, whatever the rate.
func (b *bed) expect(when, zone string, emptied, lost int) {
	b.t.Helper()
	synctest.Wait()
	if e, s := b.evicting(zone); e != emptied || s != lost {
		b.t.Fatalf("%s: %d nodes of zone %s are emptied and %d closed to new pods, want %d and %d", when, e, zone, s, emptied, lost)
	}
}

// inZones runs a test of upstream's rates in virtual time.
func inZones(t *testing.T, test func(b *bed), change ...func(*nodelifecycle.Evictions)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		limits := nodelifecycle.DefaultEvictions
		for _, c := range change {
			c(&limits)
		}
		b := newBed(t, func(c *nodelifecycle.Config) {
			*c = nodelifecycle.Config{Client: c.Client, Recorder: c.Recorder, Hints: c.Hints, Probe: c.Probe, Evictions: &limits, StartupGrace: 1000 * time.Hour}
		})
		test(b)
	})
}

func TestTheFirstLostNodeIsEmptiedAtOnceAndTheOthersOneByOne(t *testing.T) {
	inZones(t, func(b *bed) {
		b.zone("a", 10)
		b.run()
		b.lose("a", 0, 4)
		b.expect("at once", "a", 1, 4)
		pass(9 * time.Second)
		b.expect("after 9 s", "a", 1, 4)
		pass(2 * time.Second)
		b.expect("after 11 s", "a", 2, 4)
		// A node that is ready again before its turn is not emptied, and does not delay the next one.
		b.report("a2", corev1.ConditionTrue)
		pass(10 * time.Second)
		b.expect("after 21 s", "a", 3, 3)
		pass(time.Hour)
		b.expect("after an hour", "a", 3, 3)
		b.lose("a", 9, 10)
		b.expect("another one, after a while", "a", 4, 4)
	})
}

func TestOneOfTwoWorkersIsEmptiedAtOnce(t *testing.T) {
	inZones(t, func(b *bed) {
		b.zone("", 2)
		b.run()
		b.lose("", 0, 1)
		b.expect("at once", "", 1, 1)
	})
}

func TestASmallUnhealthyZoneIsNotEmptied(t *testing.T) {
	inZones(t, func(b *bed) {
		b.zone("a", 5)
		b.zone("b", 5)
		b.run()
		b.lose("a", 0, 3) // 60 %
		synctest.Wait()
		emptied, _ := b.evicting("a") // those that were lost while the zone was still healthy
		pass(time.Hour)
		b.expect("after an hour", "a", emptied, 3)
		if emptied > 1 {
			b.t.Fatalf("%d nodes at once", emptied)
		}
		// The other zone has its own rate.
		b.lose("b", 0, 2)
		b.expect("the healthy zone", "b", 1, 2)
		pass(11 * time.Second)
		b.expect("the healthy zone, later", "b", 2, 2)
		// Evictions continue when the zone is healthy again.
		b.report("a2", corev1.ConditionTrue)
		pass(time.Minute)
		b.expect("after a node is back", "a", 2, 2)
	})
}

func TestALargeUnhealthyZoneIsEmptiedSlowly(t *testing.T) {
	inZones(t, func(b *bed) {
		b.zone("a", 6)
		b.run()
		b.lose("a", 0, 4)
		synctest.Wait()
		before, _ := b.evicting("a")
		pass(90 * time.Second)
		b.expect("after 90 s", "a", before, 4)
		pass(time.Hour)
		b.expect("after an hour", "a", 4, 4)
	}, func(e *nodelifecycle.Evictions) { e.LargeCluster = 5 })
}

func TestNothingIsEvictedWhenEveryZoneIsGone(t *testing.T) {
	inZones(t, func(b *bed) {
		b.zone("a", 2)
		b.zone("b", 2)
		b.run()
		b.pod("p", "a0", tolerate(3600))
		b.lose("a", 0, 2)
		b.expect("one zone of two is gone: its first node", "a", 1, 2)
		pass(11 * time.Second)
		b.expect("one zone of two is gone: the second", "a", 2, 2)
		b.lose("b", 0, 2)
		b.expect("all are gone: nothing is evicted any more", "a", 0, 2)
		b.expect("all are gone: nothing is evicted", "b", 0, 2)
		if got := b.recorder.Events("Normal TaintManagerEviction Cancelling deletion of Pod default/p"); len(got) != 1 {
			b.t.Errorf("events of the cancelled eviction: %q", got)
		}
		pass(time.Hour)
		b.expect("an hour later", "a", 0, 2)
		b.report("b0", corev1.ConditionTrue)
		pass(time.Minute)
		b.expect("some are back", "a", 2, 2)
		b.expect("some are back", "b", 1, 1)
	})
}

func TestTheTaintIsSwappedWithoutWaiting(t *testing.T) {
	inZones(t, func(b *bed) {
		b.zone("a", 10)
		b.run()
		b.lose("a", 0, 1)
		b.expect("at once", "a", 1, 1)
		b.report("a0", corev1.ConditionFalse)
		b.tainted("a0", notReady+":NoSchedule", notReady+":NoExecute")
	})
}

func TestExcludedNodesDoNotCount(t *testing.T) {
	inZones(t, func(b *bed) {
		b.zone("a", 5)
		for _, name := range []string{"a0", "a1", "a2"} {
			controllertest.Change(b.t, b.Client, "", name, func(n *corev1.Node) { n.Labels["node.kubernetes.io/exclude-disruption"] = "" })
		}
		b.run()
		b.lose("a", 0, 3)
		pass(time.Minute)
		b.expect("three of five that are excluded", "a", 3, 3)
	})
}
