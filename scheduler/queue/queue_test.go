package queue

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/scheduler/framework"
)

func prioritized(name string, priority int32) *framework.PodInfo {
	return framework.NewPodInfo(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{Priority: &priority}})
}

// newQueue returns a queue in which the plugin "Nodes" hints at new nodes, and "Picky" at those named as the pod.
func newQueue() *Queue {
	hints := map[string][]framework.Hint{
		"Nodes": {{Resource: framework.Node, Actions: framework.Add}},
		"Picky": {{Resource: framework.Node, Actions: framework.Add | framework.Update, Wakes: func(p *framework.PodInfo, e *framework.Event) bool {
			_, now := e.Nodes()
			return now.Name == p.Name
		}}},
	}
	return New(Config{Hints: func(_ *framework.PodInfo, plugin string) []framework.Hint { return hints[plugin] }})
}

func nodeEvent(action framework.Action, name string) *framework.Event {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	return &framework.Event{Resource: framework.Node, Action: action, Old: node, New: node}
}

var anyNode = nodeEvent(framework.Add, "n")

func TestQueueOrdersByPriorityThenAge(t *testing.T) {
	q := newQueue()
	now := time.Unix(0, 0)
	for i, p := range []*framework.PodInfo{prioritized("low", 0), prioritized("high", 9), prioritized("lower", -1), prioritized("low2", 0)} {
		q.Add(p, nil, now.Add(time.Duration(i)*time.Second))
	}
	q.Remove("lower")
	for _, want := range []string{"high", "low", "low2"} {
		if got := q.Pop(); got == nil || got.Pod.Name != want {
			t.Fatalf("popped %v, want %s", got, want)
		}
	}
	if got := q.Pop(); got != nil {
		t.Fatalf("popped %s from an empty queue", got.Pod.Name)
	}
}

func TestQueueBacksOffLongerEachTime(t *testing.T) {
	q := newQueue()
	now := time.Unix(0, 0)
	q.Add(prioritized("p", 0), nil, now)
	for _, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		e := q.Pop()
		if e == nil {
			t.Fatal("nothing to pop")
		}
		q.Refused(e, []string{"Nodes"}, now)
		if next := q.Due(now.Add(time.Minute)); !next.Equal(now.Add(LongestWait)) {
			t.Fatalf("woken with no change, or never: %v", next)
		}
		q.Wake(anyNode)
		if next := q.Due(now); !next.Equal(now.Add(want * time.Second)) {
			t.Fatalf("due at %v, want after %v s", next, int64(want))
		}
		now = now.Add(want * time.Second)
		q.Due(now)
	}
}

func TestQueueWakesWhomAPluginHintsAt(t *testing.T) {
	now := time.Unix(0, 0)
	for name, test := range map[string]struct {
		refusedBy []string
		event     *framework.Event
		wakes     bool
	}{
		"an event that the plugin names":           {[]string{"Nodes"}, nodeEvent(framework.Add, "n"), true},
		"another action":                           {[]string{"Nodes"}, nodeEvent(framework.Delete, "n"), false},
		"another resource":                         {[]string{"Nodes"}, &framework.Event{Resource: framework.AssignedPod, Action: framework.Add}, false},
		"an object that helps this pod":            {[]string{"Picky"}, nodeEvent(framework.Update, "p"), true},
		"an object that does not help this pod":    {[]string{"Picky"}, nodeEvent(framework.Update, "n"), false},
		"one of several plugins":                   {[]string{"Picky", "Nodes"}, nodeEvent(framework.Add, "n"), true},
		"any event, for a plugin that has no hint": {[]string{"Unknown"}, nodeEvent(framework.Delete, "n"), true},
	} {
		t.Run(name, func(t *testing.T) {
			q := newQueue()
			q.Add(prioritized("p", 0), nil, now)
			q.Refused(q.Pop(), test.refusedBy, now)
			q.Wake(test.event)
			if next := q.Due(now); next.Equal(now.Add(FirstBackoff)) != test.wakes {
				t.Errorf("due at %v", next)
			}
			if _, _, waiting, _ := q.Len(); (waiting == 0) != test.wakes {
				t.Errorf("%d wait", waiting)
			}
		})
	}
}

func TestQueueDoesNotDelayAPodForWhichRoomWasMade(t *testing.T) {
	q := newQueue()
	q.Awaited = func(uid types.UID) bool { return uid == "preemptor" }
	now := time.Unix(0, 0)
	for _, name := range []string{"preemptor", "other"} {
		q.Add(prioritized(name, 0), nil, now)
		q.Refused(q.Pop(), []string{"Nodes"}, now)
	}
	q.Wake(anyNode)
	if e := q.Pop(); e == nil || e.Pod.Name != "preemptor" {
		t.Errorf("popped %v", e)
	}
	if e := q.Pop(); e != nil {
		t.Errorf("%s does not back off", e.Pod.Name)
	}
}

func TestQueueKeepsGatedPodsOut(t *testing.T) {
	q := newQueue()
	now := time.Unix(0, 0)
	gate := framework.Refuse(framework.UnschedulableAndUnresolvable, "SchedulingGates", "waiting for scheduling gates: [a]")
	q.Add(prioritized("p", 0), gate, now)
	q.Wake(anyNode)
	q.Due(now.Add(time.Hour))
	if e := q.Pop(); e != nil {
		t.Fatal("a gated pod is tried")
	}
	if _, _, _, gated := q.Len(); gated != 1 {
		t.Errorf("%d are gated", gated)
	}
	q.Add(prioritized("p", 0), nil, now)
	if e := q.Pop(); e == nil {
		t.Fatal("a pod is not tried after its gates were removed")
	}
	q.Add(prioritized("p", 0), gate, now)
	q.Remove("p")
	if _, _, _, gated := q.Len(); gated != 0 || q.Get("p") != nil {
		t.Error("a removed pod is still gated")
	}
}

func TestQueueTriesAgainAfterALongTimeAllTheSame(t *testing.T) {
	q := newQueue()
	now := time.Unix(0, 0)
	q.Add(prioritized("p", 0), nil, now)
	q.Refused(q.Pop(), []string{"Nodes"}, now)
	q.Due(now.Add(LongestWait))
	if q.Pop() == nil {
		t.Fatal("forgotten")
	}
}

func TestQueueWakesInOrderAndMovesThoseThatWait(t *testing.T) {
	q := newQueue()
	start := time.Unix(0, 0)
	const pods = 100
	for i := range pods {
		q.Add(prioritized(fmt.Sprint("p", i), 0), nil, start)
	}
	for i := range pods {
		q.Refused(q.Pop(), []string{"Nodes"}, start.Add(time.Duration(i)*time.Millisecond))
	}
	q.Remove("p7")
	q.Add(prioritized("p8", 0), nil, start) // it has changed, and need not wait
	if next := q.Due(start.Add(time.Minute)); !next.Equal(start.Add(LongestWait)) {
		t.Errorf("something wakes at %v without a change", next)
	}
	if e := q.Pop(); e == nil || e.Pod.Name != "p8" {
		t.Errorf("popped %v", e)
	}
	q.Wake(anyNode)
	half := start.Add(FirstBackoff + pods/2*time.Millisecond)
	next := q.Due(half)
	woken := 0
	for e := q.Pop(); e != nil; e = q.Pop() {
		if woken++; e.tried.Add(FirstBackoff).After(half) || e.Pod.Name == "p7" {
			t.Errorf("%s, tried at %v, woke at %v", e.Pod.Name, e.tried, half)
		}
	}
	if woken < pods/2-2 || !next.After(half) || next.After(half.Add(2*time.Millisecond)) {
		t.Errorf("%d woke, the next is due at %v", woken, next)
	}
	if len(q.waiting) != 0 || q.later.Len()+woken != pods-2 { // without p7, and p8, which is being tried
		t.Errorf("%d wait, %d are to come, of %d", len(q.waiting), q.later.Len(), pods)
	}
}

// TestQueueAsksEachProfilesHints: with several profiles, pods that the same plugin refused may wait for different events.
func TestQueueAsksEachProfilesHints(t *testing.T) {
	now := time.Unix(0, 0)
	q := New(Config{SeveralProfiles: true, Hints: func(p *framework.PodInfo, _ string) []framework.Hint {
		resource := framework.Node
		if p.Spec.SchedulerName == "other" {
			resource = framework.Namespace
		}
		return []framework.Hint{{Resource: resource, Actions: framework.Add}}
	}})
	for i := range 10 {
		p := prioritized(fmt.Sprint("p", i), 0)
		if i%2 == 0 {
			p.Spec.SchedulerName = "other"
		}
		q.Add(p, nil, now)
		q.Refused(q.Pop(), []string{"X"}, now)
	}
	q.Wake(anyNode)
	if _, backoff, waiting, _ := q.Len(); backoff != 5 || waiting != 5 {
		t.Errorf("%d back off, %d wait", backoff, waiting)
	}
}

// BenchmarkWake tells 100,000 waiting pods about an event that does not concern them.
func BenchmarkWake(b *testing.B) {
	q := newQueue()
	now := time.Unix(0, 0)
	for i := range 100_000 {
		q.Add(prioritized(fmt.Sprint("w", i), 0), nil, now)
		q.Refused(q.Pop(), []string{"Nodes"}, now)
	}
	event := &framework.Event{Resource: framework.AssignedPod, Action: framework.Add}
	b.ReportAllocs()
	for b.Loop() {
		q.Wake(event)
	}
}

// BenchmarkQueue schedules one pod while a number of others wait for an event.
func BenchmarkQueue(b *testing.B) {
	for _, waiting := range []int{100, 100_000} {
		b.Run(fmt.Sprint("waiting=", waiting), func(b *testing.B) {
			q := newQueue()
			now := time.Unix(0, 0)
			for i := range waiting {
				q.Add(prioritized(fmt.Sprint("w", i), 0), nil, now)
				q.Refused(q.Pop(), []string{"Nodes"}, now)
			}
			p := prioritized("p", 0)
			b.ReportAllocs()
			for b.Loop() {
				q.Add(p, nil, now)
				q.Refused(q.Pop(), []string{"Nodes"}, now)
				q.Due(now)
			}
		})
	}
}

func TestQueueChargesWhatAnAttemptTook(t *testing.T) {
	q := newQueue()
	now := time.Unix(0, 0)
	for _, c := range []struct{ took, backoff time.Duration }{
		{0, time.Second}, {100 * time.Millisecond, 2 * time.Second}, {3 * time.Second, time.Minute}, {time.Hour, LongestWait}, {1 << 62, LongestWait},
	} {
		q.Remove("p")
		q.Add(prioritized("p", 0), nil, now)
		e := q.Pop()
		e.Took = c.took
		q.Retry(e, now)
		if due := q.Due(now); due.Sub(now) != c.backoff {
			t.Errorf("after an attempt of %v, it backs off for %v", c.took, due.Sub(now))
		}
		// The same holds for a pod that an event wakes.
		q.Activate("p")
		e = q.Pop()
		e.Attempts = 1
		q.Refused(e, []string{"Nodes"}, now)
		q.Wake(anyNode)
		if due := q.Due(now); due.Sub(now) != c.backoff {
			t.Errorf("after an attempt of %v, an event wakes it after %v", c.took, due.Sub(now))
		}
	}
}

func TestQueueHoldsPods(t *testing.T) {
	q := newQueue()
	now := time.Unix(0, 0)
	q.Add(prioritized("held", 0), nil, now)
	held := q.Pop()
	q.Hold(held, now.Add(time.Minute))
	q.Add(prioritized("younger", 0), nil, now.Add(time.Second))
	q.Wake(anyNode)
	if due := q.Due(now); !due.Equal(now.Add(time.Minute)) || held.Attempts != 0 {
		t.Errorf("due at %v after %d attempts", due, held.Attempts)
	}
	if q.Due(now.Add(time.Minute)); q.Pop() != held {
		t.Error("it lost its place")
	}
}
