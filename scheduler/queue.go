package scheduler

import (
	"container/heap"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1"
)

// A pod that did not fit waits for 1 s before it is tried again, then twice as long each time, 10 s at most; one that
// nothing seems to change for is tried again after 5 minutes all the same. Upstream's values.
const (
	firstBackoff   = time.Second
	longestBackoff = 10 * time.Second
	longestWait    = 5 * time.Minute
)

// queued is a pod in the queue.
type queued struct {
	pod      *podInfo
	attempts int
	since    time.Time // when it came into the queue first
	tried    time.Time // when it was last found not to fit
	index    int       // in the active heap; -1 outside
	// moved says that something changed since it was popped which could make it fit.
	moved bool
}

func (q *queued) backoff() time.Duration {
	d := firstBackoff
	for i := 1; i < q.attempts && d < longestBackoff; i++ {
		d *= 2
	}
	return min(d, longestBackoff)
}

// queue holds pods that are to be scheduled. It is guarded by the scheduler's lock.
type queue struct {
	active  activeHeap
	waiting map[types.UID]*queued // unschedulable: until something changes
	backing map[types.UID]*queued // in backoff: until their time has come
	all     map[types.UID]*queued
}

func newQueue() *queue {
	return &queue{waiting: map[types.UID]*queued{}, backing: map[types.UID]*queued{}, all: map[types.UID]*queued{}}
}

// add takes in a new pod, or a changed one that is worth another try.
func (q *queue) add(p *podInfo, now time.Time) {
	have, ok := q.all[p.UID]
	if !ok {
		have = &queued{since: now, index: -1}
		q.all[p.UID] = have
	}
	have.pod = p
	delete(q.waiting, p.UID)
	delete(q.backing, p.UID)
	if have.index < 0 {
		heap.Push(&q.active, have)
	} else {
		heap.Fix(&q.active, have.index)
	}
}

func (q *queue) remove(uid types.UID) {
	have, ok := q.all[uid]
	if !ok {
		return
	}
	delete(q.all, uid)
	delete(q.waiting, uid)
	delete(q.backing, uid)
	if have.index >= 0 {
		heap.Remove(&q.active, have.index)
	}
}

// pop takes the next pod out, for scheduling; it stays known until remove.
func (q *queue) pop() (*queued, bool) {
	if len(q.active) == 0 {
		return nil, false
	}
	next := heap.Pop(&q.active).(*queued)
	next.attempts++
	next.moved = false
	return next, true
}

// unschedulable puts back a pod that did not fit. If something changed while it was tried, it only backs off.
func (q *queue) unschedulable(have *queued, now time.Time) {
	if q.all[have.pod.UID] != have || have.index >= 0 {
		return // gone or added again meanwhile
	}
	have.tried = now
	if have.moved {
		q.backing[have.pod.UID] = have
		return
	}
	q.waiting[have.pod.UID] = have
}

// move lets every waiting pod try again, each after its backoff: something changed that could make a node fit.
func (q *queue) move() {
	for uid, have := range q.waiting {
		delete(q.waiting, uid)
		q.backing[uid] = have
	}
	for _, have := range q.all {
		have.moved = true
	}
}

// wake activates pods whose backoff is over, and answers when the next one's is (zero if there is none).
func (q *queue) wake(now time.Time) (next time.Time) {
	for uid, have := range q.waiting {
		if now.Sub(have.tried) >= longestWait {
			delete(q.waiting, uid)
			q.backing[uid] = have
		}
	}
	for uid, have := range q.backing {
		due := have.tried.Add(have.backoff())
		if !due.After(now) {
			delete(q.backing, uid)
			heap.Push(&q.active, have)
		} else if next.IsZero() || due.Before(next) {
			next = due
		}
	}
	if next.IsZero() && len(q.waiting) > 0 {
		next = now.Add(longestWait)
	}
	return next
}

// activeHeap orders pods by priority, then by how long they have waited.
type activeHeap []*queued

func (h activeHeap) Len() int { return len(h) }
func (h activeHeap) Less(i, j int) bool {
	a, b := corev1.PodPriority(h[i].pod.Pod), corev1.PodPriority(h[j].pod.Pod)
	if a != b {
		return a > b
	}
	return h[i].since.Before(h[j].since)
}
func (h activeHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i, j
}
func (h *activeHeap) Push(x any) {
	q := x.(*queued)
	q.index = len(*h)
	*h = append(*h, q)
}
func (h *activeHeap) Pop() any {
	last := len(*h) - 1
	q := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	q.index = -1
	return q
}
