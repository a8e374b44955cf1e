package scheduler

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

func prioritized(name string, priority int32) *podInfo {
	return newPodInfo(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{Priority: &priority}})
}

func TestQueueOrdersByPriorityThenAge(t *testing.T) {
	q := newQueue()
	now := time.Unix(0, 0)
	for i, p := range []*podInfo{prioritized("low", 0), prioritized("high", 9), prioritized("lower", -1), prioritized("low2", 0)} {
		q.add(p, now.Add(time.Duration(i)*time.Second))
	}
	q.remove("lower")
	for _, want := range []string{"high", "low", "low2"} {
		if got, ok := q.pop(); !ok || got.pod.Name != want {
			t.Fatalf("popped %v, want %s", got, want)
		}
	}
	if got, ok := q.pop(); ok {
		t.Fatalf("popped %s from an empty queue", got.pod.Name)
	}
}

func TestQueueBacksOffLongerEachTime(t *testing.T) {
	q := newQueue()
	now := time.Unix(0, 0)
	q.add(prioritized("p", 0), now)
	for _, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		have, ok := q.pop()
		if !ok {
			t.Fatal("nothing to pop")
		}
		q.unschedulable(have, now)
		if next := q.wake(now.Add(time.Minute)); !next.Equal(now.Add(longestWait)) {
			t.Fatalf("woken with no change, or never: %v", next)
		}
		q.move()
		if next := q.wake(now); !next.Equal(now.Add(want * time.Second)) {
			t.Fatalf("due at %v, want after %v s", next, int64(want))
		}
		now = now.Add(want * time.Second)
		q.wake(now)
	}
}

func TestQueueKeepsAChangeThatCameWhileAPodWasTried(t *testing.T) {
	q := newQueue()
	now := time.Unix(0, 0)
	q.add(prioritized("p", 0), now)
	have, _ := q.pop()
	q.move() // a node came while the pod was looked at
	q.unschedulable(have, now)
	q.wake(now.Add(firstBackoff))
	if _, ok := q.pop(); !ok {
		t.Fatal("the change was lost: the pod waits for another one")
	}
}

func TestQueueTriesAgainAfterALongTimeAllTheSame(t *testing.T) {
	q := newQueue()
	now := time.Unix(0, 0)
	q.add(prioritized("p", 0), now)
	have, _ := q.pop()
	q.unschedulable(have, now)
	q.wake(now.Add(longestWait))
	if _, ok := q.pop(); !ok {
		t.Fatal("forgotten")
	}
}

func TestQueueWakesInOrderAndMovesThoseThatWait(t *testing.T) {
	q := newQueue()
	start := time.Unix(0, 0)
	const pods = 100
	for i := range pods {
		q.add(prioritized(fmt.Sprint("p", i), 0), start)
	}
	for i := range pods {
		have, _ := q.pop()
		q.unschedulable(have, start.Add(time.Duration(i)*time.Millisecond))
	}
	q.remove("p7")
	q.add(prioritized("p8", 0), start) // it has changed, and need not wait
	if next := q.wake(start.Add(time.Minute)); !next.Equal(start.Add(longestWait)) {
		t.Errorf("something wakes at %v without a change", next)
	}
	if have, ok := q.pop(); !ok || have.pod.Name != "p8" {
		t.Errorf("popped %v", have)
	}
	q.move()
	half := start.Add(firstBackoff + pods/2*time.Millisecond)
	next := q.wake(half)
	woken := 0
	for have, ok := q.pop(); ok; have, ok = q.pop() {
		if woken++; have.tried.Add(firstBackoff).After(half) || have.pod.Name == "p7" {
			t.Errorf("%s, tried at %v, woke at %v", have.pod.Name, have.tried, half)
		}
	}
	if woken < pods/2-2 || !next.After(half) || next.After(half.Add(2*time.Millisecond)) {
		t.Errorf("%d woke, the next is due at %v", woken, next)
	}
	if len(q.waiting) != 0 || q.later.Len()+woken != pods-2 { // without p7, and p8, which is being tried
		t.Errorf("%d wait, %d are to come, of %d", len(q.waiting), q.later.Len(), pods)
	}
}

// BenchmarkQueue schedules one pod while a number of others wait for a change.
func BenchmarkQueue(b *testing.B) {
	for _, waiting := range []int{100, 100_000} {
		b.Run(fmt.Sprint("waiting=", waiting), func(b *testing.B) {
			q := newQueue()
			now := time.Unix(0, 0)
			for i := range waiting {
				q.add(prioritized(fmt.Sprint("w", i), 0), now)
				have, _ := q.pop()
				q.unschedulable(have, now)
			}
			p := prioritized("p", 0)
			b.ReportAllocs()
			for b.Loop() {
				q.add(p, now)
				have, _ := q.pop()
				q.unschedulable(have, now)
				q.wake(now)
			}
		})
	}
}
