package scheduler

import (
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
		if next := q.wake(now.Add(time.Minute)); !next.Equal(now.Add(time.Minute + longestWait)) {
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
