package scheduler

import (
	"container/heap"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1"
)

// A pod that did not fit waits 1 s before it is tried again, then twice as long each time, at most 10 s; one for which nothing
// seems to change is tried again after 5 minutes anyway. These are upstream's values.
const (
	firstBackoff   = time.Second
	longestBackoff = 10 * time.Second
	longestWait    = 5 * time.Minute
)

// queued is a pod in the queue.
type queued struct {
	pod      *podInfo
	attempts int
	since    time.Time // when it was added to the queue, or was last found not to fit
	tried    time.Time // when it was last found not to fit
	due      time.Time // when it will be tried again, if it is in later
	// in is the heap that contains it, nil while it is being tried, and index its position there.
	in    *podHeap
	index int
	// moves is the queue's number of moves when it was popped.
	moves int
}

func (q *queued) backoff() time.Duration {
	d := firstBackoff
	for i := 1; i < q.attempts && d < longestBackoff; i++ {
		d *= 2
	}
	return min(d, longestBackoff)
}

// queue contains the pods to be scheduled. It is guarded by the scheduler's lock. The cost of an operation on one pod is
// logarithmic in the number of pods.
type queue struct {
	all map[types.UID]*queued
	// active are the pods to try now, later those that did not fit, ordered by when they will be tried again.
	active, later podHeap
	// waiting are those in later that wait for a change; the others are in backoff. drawn are those in waiting that the placement
	// of another pod may make fit.
	waiting, drawn map[types.UID]*queued
	// moves counts the changes that could make a pod fit.
	moves int
}

func newQueue() *queue {
	return &queue{
		all: map[types.UID]*queued{}, waiting: map[types.UID]*queued{}, drawn: map[types.UID]*queued{},
		active: podHeap{less: ahead}, later: podHeap{less: func(a, b *queued) bool { return a.due.Before(b.due) }},
	}
}

// ahead orders by priority, then by how long pods have waited.
func ahead(a, b *queued) bool {
	if p, q := corev1.PodPriority(a.pod.Pod), corev1.PodPriority(b.pod.Pod); p != q {
		return p > q
	}
	return a.since.Before(b.since)
}

// add adds a new pod, or a changed one that should be tried again.
func (q *queue) add(p *podInfo, now time.Time) {
	have, ok := q.all[p.UID]
	if !ok {
		have = &queued{since: now}
		q.all[p.UID] = have
	}
	have.pod = p
	q.put(have, &q.active)
}

// put moves a pod to a heap, or out of all (nil), or updates its position in the present one.
func (q *queue) put(have *queued, in *podHeap) {
	delete(q.waiting, have.pod.UID)
	delete(q.drawn, have.pod.UID)
	if have.in != nil && have.in == in {
		heap.Fix(in, have.index)
		return
	}
	if have.in != nil {
		heap.Remove(have.in, have.index)
	}
	if in != nil {
		heap.Push(in, have)
	}
}

func (q *queue) remove(uid types.UID) {
	if have, ok := q.all[uid]; ok {
		delete(q.all, uid)
		q.put(have, nil)
	}
}

// pop removes the next pod for scheduling; it stays known until remove.
func (q *queue) pop() (*queued, bool) {
	if q.active.Len() == 0 {
		return nil, false
	}
	next := heap.Pop(&q.active).(*queued)
	next.attempts++
	next.moves = q.moves
	return next, true
}

// unschedulable puts back a pod that did not fit. If something changed while it was tried, it only backs off.
func (q *queue) unschedulable(have *queued, now time.Time) {
	if q.all[have.pod.UID] != have || have.in != nil {
		return // it was removed or added again meanwhile
	}
	if have.moves != q.moves {
		q.delay(have, now, have.backoff())
		return
	}
	q.delay(have, now, longestWait)
	q.waiting[have.pod.UID] = have
	if have.pod.drawn() {
		q.drawn[have.pod.UID] = have
	}
}

// delay puts a pod that was just tried into later. It is ordered after those that have not been tried for longer, so that pods that
// never fit do not prevent others of their priority from being tried.
func (q *queue) delay(have *queued, now time.Time, by time.Duration) {
	have.tried, have.since, have.due = now, now, now.Add(by)
	q.put(have, &q.later)
}

// retry puts back a pod that could not be placed for an internal reason, such as a failed binding. It backs off.
func (q *queue) retry(have *queued, now time.Time) {
	if known, ok := q.all[have.pod.UID]; ok && known != have {
		return // it was added again meanwhile
	}
	q.all[have.pod.UID] = have
	q.delay(have, now, have.backoff())
}

// move lets every waiting pod be tried again after its backoff: something changed that could make a node fit.
func (q *queue) move() {
	q.moves++
	if len(q.waiting) == 0 {
		return
	}
	for _, have := range q.waiting {
		have.due = have.tried.Add(have.backoff())
	}
	clear(q.waiting)
	clear(q.drawn)
	heap.Init(&q.later)
}

// moveThose is move for those of the waiting pods which the change could make fit. among is waiting or drawn.
func (q *queue) moveThose(among map[types.UID]*queued, fit func(*podInfo) bool) {
	q.moves++
	for uid, have := range among {
		if fit(have.pod) {
			delete(q.drawn, uid)
			delete(q.waiting, uid)
			have.due = have.tried.Add(have.backoff())
			heap.Fix(&q.later, have.index)
		}
	}
}

// wake activates pods that are due, and returns when the next one is (zero if there is none).
func (q *queue) wake(now time.Time) (next time.Time) {
	for q.later.Len() > 0 {
		have := q.later.list[0]
		if have.due.After(now) {
			return have.due
		}
		q.put(have, &q.active)
	}
	return time.Time{}
}

// podHeap is a heap of pods that know their position in it.
type podHeap struct {
	list []*queued
	less func(a, b *queued) bool
}

func (h *podHeap) Len() int           { return len(h.list) }
func (h *podHeap) Less(i, j int) bool { return h.less(h.list[i], h.list[j]) }
func (h *podHeap) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.list[i].index, h.list[j].index = i, j
}
func (h *podHeap) Push(x any) {
	q := x.(*queued)
	q.in, q.index = h, len(h.list)
	h.list = append(h.list, q)
}
func (h *podHeap) Pop() any {
	last := len(h.list) - 1
	q := h.list[last]
	h.list[last] = nil
	h.list = h.list[:last]
	q.in = nil
	return q
}
