package nodelifecycle_test

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/nodelifecycle"
)

// standard is a bed with the durations of masters.
func standard(t *testing.T) *bed {
	return newBed(t, func(c *nodelifecycle.Config) {
		*c = nodelifecycle.Config{Client: c.Client, Recorder: c.Recorder, Hints: c.Hints, Probe: c.Probe}
	})
}

func (b *bed) status(name string) corev1.ConditionStatus {
	b.t.Helper()
	n, ok := client.Get[*corev1.Node](b.Client.View(), "", name)
	if !ok {
		b.t.Fatalf("there is no node %s", name)
	}
	return n.Status.Conditions[3].Status
}

// pass advances virtual time, and waits until everything that follows has happened.
func pass(d time.Duration) {
	time.Sleep(d) // virtual
	synctest.Wait()
}

func TestHowLongDoubtLasts(t *testing.T) {
	for _, c := range []struct {
		name  string
		state nodelifecycle.State
		// The node is not lost before this time, and is lost after it.
		before, after time.Duration
	}{
		{"a suspect must fail its probes for five seconds", nodelifecycle.Suspect, 4900 * time.Millisecond, 5100 * time.Millisecond},
		{"one that left may be starting again", nodelifecycle.Left, 9900 * time.Millisecond, 10100 * time.Millisecond},
		{"one that gossip calls dead has been asked by others", nodelifecycle.Dead, 900 * time.Millisecond, 1100 * time.Millisecond},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := standard(t)
				b.nodes("n1", "n2")
				b.run()
				synctest.Wait()
				b.gossip.tell("n1", c.state, false)
				pass(c.before)
				if b.status("n1") != corev1.ConditionTrue {
					t.Fatalf("lost after less than %s", c.before)
				}
				pass(c.after - c.before)
				if b.status("n1") != corev1.ConditionUnknown {
					t.Fatalf("not lost after %s", c.after)
				}
			})
		})
	}
}

func TestOneAnswerEndsTheDoubt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := standard(t)
		b.nodes("n1", "n2")
		b.run()
		synctest.Wait()
		// The worker is paused for three seconds, as by a slow disk or a debugger: every probe in between fails.
		b.gossip.tell("n1", nodelifecycle.Suspect, false)
		pass(3 * time.Second)
		if b.gossip.probed("n1") < 2 {
			t.Fatalf("%d probes in three seconds", b.gossip.probed("n1"))
		}
		b.gossip.tell("n1", nodelifecycle.Suspect, true)
		pass(50 * time.Second)
		if b.status("n1") != corev1.ConditionTrue {
			t.Fatal("a node that answers was declared lost")
		}
		if n := b.gossip.probed("n1"); n < 8 || n > 15 {
			t.Errorf("a suspect that answers was probed %d times in 50 seconds", n)
		}
		// The doubt begins again: probes that failed before its answer do not count.
		b.gossip.tell("n1", nodelifecycle.Suspect, false)
		pass(4900 * time.Millisecond)
		if b.status("n1") != corev1.ConditionTrue {
			t.Fatal("failures from before its answer were counted")
		}
		b.gossip.tell("n1", nodelifecycle.Alive, false)
		pass(time.Minute)
		if b.status("n1") != corev1.ConditionTrue {
			t.Fatal("a worker that is back in its session was declared lost")
		}
	})
}

func TestChangingMastersIsNoReasonToProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := standard(t)
		b.nodes("n1", "n2")
		b.run()
		synctest.Wait()
		b.gossip.tell("n1", nodelifecycle.Suspect, false)
		pass(900 * time.Millisecond)
		b.gossip.tell("n1", nodelifecycle.Alive, false)
		pass(time.Minute)
		if n := b.gossip.probed("n1"); n > 0 || b.status("n1") != corev1.ConditionTrue {
			t.Errorf("%d probes, Ready is %s", n, b.status("n1"))
		}
	})
}

// TestANodeThatAnswersButHasNoSession: pods are bound to such a node and never start, so it counts as lost after a minute, until it has a session.
func TestANodeThatAnswersButHasNoSession(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := standard(t)
		b.nodes("n1", "n2")
		b.run()
		synctest.Wait()
		b.gossip.tell("n1", nodelifecycle.Suspect, true)
		pass(40 * time.Second)
		b.gossip.tell("n1", nodelifecycle.Alive, true) // a session ends the minute
		pass(time.Second)
		b.gossip.tell("n1", nodelifecycle.Suspect, true)
		pass(59 * time.Second)
		if b.status("n1") != corev1.ConditionTrue {
			t.Fatal("lost in less than a minute without a session")
		}
		pass(3 * time.Second)
		if b.status("n1") != corev1.ConditionUnknown || b.status("n2") != corev1.ConditionTrue {
			t.Errorf("after a minute without a session the node is %s, the other %s", b.status("n1"), b.status("n2"))
		}
	})
}
