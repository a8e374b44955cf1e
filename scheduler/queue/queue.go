// Package queue orders the pods that are to be scheduled.
//
//	         gates removed
//	gated ------------------> active <----------------- back-off
//	  ^                        |  ^                        ^  ^
//	  | gates                  |  | (nominated)            |  | an event that a plugin hints at, or a change of the pod
//	  |               popped   v  |                        |  |
//	 added                  [a decision] ----------> waiting for an event ---> active, after five minutes anyway
//	                           |     does not fit          |
//	                           +---------------------------+
//	                           failed for an internal reason: back-off
//
// The queue belongs to the scheduler's loop and is not safe for concurrent use. Since decisions and events happen in that loop one
// after the other, no event can come between a decision and its entry into the queue, and none must be remembered for pods that are
// being looked at, as upstream does. A binding that fails backs off, whatever happened meanwhile.
package queue

import (
	"container/heap"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// A pod that did not fit waits 1 s before it is tried again, then twice as long each time, at most 10 s; one for which nothing
// seems to change is tried again after 5 minutes anyway. These are upstream's values.
const (
	FirstBackoff   = time.Second
	LongestBackoff = 10 * time.Second
	LongestWait    = 5 * time.Minute
)

// CostFactor is how many times as long as its last attempt took a pod backs off at least, if that is to be counted: it takes 5 % of the
// time then, at most, as long as that is not more than LongestWait.
const CostFactor = 20

// Entry is a pod in the queue.
type Entry struct {
	Pod      *framework.PodInfo
	Attempts int
	// Gated is why the pod must not be tried yet, nil if it may.
	Gated *framework.Status
	// RefusedBy are the plugins because of which it did not fit when it was tried last.
	RefusedBy []string

	// Took is what the last attempt took of everybody's time, zero if that is not counted.
	Took time.Duration
	// Ready is when it could first be tried.
	Ready time.Time

	waits bool      // it is in waiting
	since time.Time // when it was added to the queue, or was last found not to fit
	tried time.Time // when it was last found not to fit
	due   time.Time // when it will be tried again, if it is in later
	// in is the heap that contains it, nil while it is being tried or gated, and index its position there.
	in    *podHeap
	index int
}

func (e *Entry) backoff(c *Config) time.Duration {
	d := c.FirstBackoff
	for i := 1; i < e.Attempts && d < c.LongestBackoff; i++ {
		d *= 2
	}
	return max(min(d, c.LongestBackoff), CostFactor*min(e.Took, LongestWait/CostFactor))
}

// Config has the parameters of a Queue; zero values stand for the defaults.
type Config struct {
	FirstBackoff, LongestBackoff time.Duration
	// Hints returns the hints of a plugin of a pod's profile.
	Hints func(p *framework.PodInfo, plugin string) []framework.Hint
	// SeveralProfiles says that the hints of a plugin may differ between pods.
	SeveralProfiles bool
	// Awaited says whether a pod waits for room that is being made for it. It does not back off when an event wakes it.
	Awaited func(types.UID) bool
	// Incoming is told of each pod that comes into a queue (active, backoff, unschedulable or gated), and because of what.
	Incoming func(queue, event string)
}

// The reasons why pods come into a queue, beside the events of objects, are upstream's, but for held.
const (
	podAdded       = "UnscheduledPodAdd"
	podUpdated     = "UnscheduledPodUpdate"
	attemptFailed  = "ScheduleAttemptFailure"
	backoffEnded   = "BackoffComplete"
	waitedLongest  = "UnschedulableTimeout"
	forceActivated = "ForceActivate"
	held           = "Held"
)

// Queue contains the pods to be scheduled. The cost of an operation on one pod is logarithmic in the number of pods.
type Queue struct {
	Config
	all map[types.UID]*Entry
	// active are the pods to try now, later those that did not fit, ordered by when they will be tried again.
	active, later podHeap
	// waiting are those in later that wait for an event, by the plugins that refused them; the others are in back-off.
	waiting map[string]map[types.UID]*Entry
	gated   map[types.UID]*Entry
	waits   int // how many entries are in waiting
}

// New returns an empty queue.
func New(c Config) *Queue {
	if c.FirstBackoff == 0 {
		c.FirstBackoff = FirstBackoff
	}
	if c.LongestBackoff == 0 {
		c.LongestBackoff = LongestBackoff
	}
	if c.Awaited == nil {
		c.Awaited = func(types.UID) bool { return false }
	}
	if c.Incoming == nil {
		c.Incoming = func(string, string) {}
	}
	return &Queue{
		Config: c, all: map[types.UID]*Entry{}, waiting: map[string]map[types.UID]*Entry{}, gated: map[types.UID]*Entry{},
		active: podHeap{less: ahead}, later: podHeap{less: func(a, b *Entry) bool { return a.due.Before(b.due) }},
	}
}

// ahead orders by priority, then by how long pods have waited (the plugin PrioritySort).
func ahead(a, b *Entry) bool {
	if p, q := corev1.PodPriority(a.Pod.Pod), corev1.PodPriority(b.Pod.Pod); p != q {
		return p > q
	}
	return a.since.Before(b.since)
}

// Get returns a pod's entry, nil if there is none.
func (q *Queue) Get(uid types.UID) *Entry { return q.all[uid] }

// Len returns the numbers of pods that are to be tried now, that back off, that wait for an event, and that are gated.
func (q *Queue) Len() (active, backoff, waiting, gated int) {
	return q.active.Len(), q.later.Len() - q.waits, q.waits, len(q.gated)
}

// Waits says whether a pod waits for an event.
func (q *Queue) Waits(uid types.UID) bool {
	for _, entries := range q.waiting {
		if entries[uid] != nil {
			return true
		}
	}
	return false
}

// Add adds a new pod, or a changed one that should be tried again. gated is why it must not be tried yet.
func (q *Queue) Add(p *framework.PodInfo, gated *framework.Status, now time.Time) *Entry {
	e, ok := q.all[p.UID]
	event := podUpdated
	if !ok {
		event = podAdded
		e = &Entry{since: now}
		q.all[p.UID] = e
	}
	e.Pod, e.Gated = p, gated
	if gated != nil {
		q.put(e, nil)
		q.gated[p.UID] = e
		q.Incoming("gated", event)
	} else {
		if e.Ready.IsZero() {
			e.Ready = now
		}
		q.put(e, &q.active)
		q.Incoming("active", event)
	}
	return e
}

// put moves a pod to a heap, or out of all (nil), or updates its position in the present one.
func (q *Queue) put(e *Entry, in *podHeap) {
	delete(q.gated, e.Pod.UID)
	q.awake(e)
	if e.in != nil && e.in == in {
		heap.Fix(in, e.index)
		return
	}
	if e.in != nil {
		heap.Remove(e.in, e.index)
	}
	if in != nil {
		heap.Push(in, e)
	}
}

// awake removes a pod from those that wait for an event.
func (q *Queue) awake(e *Entry) {
	if !e.waits {
		return
	}
	e.waits = false
	q.waits--
	for _, plugin := range e.RefusedBy {
		if delete(q.waiting[plugin], e.Pod.UID); len(q.waiting[plugin]) == 0 {
			delete(q.waiting, plugin)
		}
	}
}

// Remove forgets a pod.
func (q *Queue) Remove(uid types.UID) {
	if e, ok := q.all[uid]; ok {
		delete(q.all, uid)
		q.put(e, nil)
	}
}

// Pop removes the next pod for scheduling; it stays known until Remove.
func (q *Queue) Pop() *Entry {
	if q.active.Len() == 0 {
		return nil
	}
	next := heap.Pop(&q.active).(*Entry)
	next.Attempts++
	return next
}

// Take is Pop for a pod that is in the queue, wherever it is.
func (q *Queue) Take(e *Entry) {
	q.put(e, nil)
	e.Attempts++
}

// Refused puts back a pod that did not fit because of some plugins, until an event that they hint at.
func (q *Queue) Refused(e *Entry, by []string, now time.Time) {
	if q.all[e.Pod.UID] != e || e.in != nil {
		return // it was removed or added again meanwhile
	}
	q.delay(e, now, LongestWait)
	e.RefusedBy = by
	q.Incoming("unschedulable", attemptFailed)
	if len(by) == 0 {
		return
	}
	e.waits = true
	q.waits++
	for _, plugin := range by {
		if q.waiting[plugin] == nil {
			q.waiting[plugin] = map[types.UID]*Entry{}
		}
		q.waiting[plugin][e.Pod.UID] = e
	}
}

// Hold puts back a pod that was popped and is not tried before a time. It keeps its place among the others.
func (q *Queue) Hold(e *Entry, until time.Time) {
	e.Attempts--
	e.due = until
	q.put(e, &q.later)
	q.Incoming("backoff", held)
}

// delay puts a pod that was just tried into later. It is ordered after those that have not been tried for longer, so that pods that
// never fit do not prevent others of their priority from being tried.
func (q *Queue) delay(e *Entry, now time.Time, by time.Duration) {
	e.tried, e.since, e.due = now, now, now.Add(by)
	q.put(e, &q.later)
}

// Retry puts back a pod that could not be placed for an internal reason, such as a failed binding. It backs off.
func (q *Queue) Retry(e *Entry, now time.Time) {
	if known, ok := q.all[e.Pod.UID]; ok && known != e {
		return // it was added again meanwhile
	}
	q.all[e.Pod.UID] = e
	q.delay(e, now, e.backoff(&q.Config))
	e.RefusedBy = nil
	q.Incoming("backoff", attemptFailed)
}

// Wake lets those of the waiting pods be tried again, after their back-off, for which the event may have made a node fit.
func (q *Queue) Wake(event *framework.Event) {
	for plugin, entries := range q.waiting {
		q.wakeOf(plugin, entries, event)
	}
}

// wakeOf is Wake for the pods that a plugin refused. Most events concern few plugins, so those that a plugin has no hint for cost no
// look at its pods, unless there are several profiles.
func (q *Queue) wakeOf(plugin string, entries map[types.UID]*Entry, event *framework.Event) {
	var hints []framework.Hint
	profile, concerned := "", false
	for uid, e := range entries {
		if name := e.Pod.Spec.SchedulerName; hints == nil || name != profile {
			hints, profile = q.Hints(e.Pod, plugin), name
			concerned = hints == nil || framework.Concerns(hints, event)
		}
		switch {
		case !concerned && !q.SeveralProfiles:
			return
		case !concerned || (hints != nil && !framework.Wakes(hints, e.Pod, event)):
			continue
		}
		q.awake(e)
		if q.Awaited(uid) {
			q.put(e, &q.active)
			q.Incoming("active", event.Label())
			continue
		}
		q.Incoming("backoff", event.Label())
		e.due = e.tried.Add(e.backoff(&q.Config))
		heap.Fix(&q.later, e.index)
	}
}

// Activate lets a pod be tried at once, if it waits or backs off.
func (q *Queue) Activate(uid types.UID) {
	if e := q.all[uid]; e != nil && e.in == &q.later {
		q.put(e, &q.active)
		q.Incoming("active", forceActivated)
	}
}

// WakeIf is Wake for the pods that a function selects.
func (q *Queue) WakeIf(event string, selected func(*framework.PodInfo) bool) {
	for _, entries := range q.waiting {
		for _, e := range entries {
			if selected(e.Pod) {
				q.awake(e)
				q.Incoming("backoff", event)
				e.due = e.tried.Add(e.backoff(&q.Config))
				heap.Fix(&q.later, e.index)
			}
		}
	}
}

// Due activates pods that are due, and returns when the next one is (zero if there is none).
func (q *Queue) Due(now time.Time) (next time.Time) {
	for q.later.Len() > 0 {
		e := q.later.list[0]
		if e.due.After(now) {
			return e.due
		}
		event := backoffEnded
		if e.waits {
			event = waitedLongest
		}
		q.put(e, &q.active)
		q.Incoming("active", event)
	}
	return time.Time{}
}

// podHeap is a heap of pods that know their position in it.
type podHeap struct {
	list []*Entry
	less func(a, b *Entry) bool
}

func (h *podHeap) Len() int           { return len(h.list) }
func (h *podHeap) Less(i, j int) bool { return h.less(h.list[i], h.list[j]) }
func (h *podHeap) Swap(i, j int) {
	h.list[i], h.list[j] = h.list[j], h.list[i]
	h.list[i].index, h.list[j].index = i, j
}

// Push implements heap.Interface.
func (h *podHeap) Push(x any) {
	e := x.(*Entry)
	e.in, e.index = h, len(h.list)
	h.list = append(h.list, e)
}

// Pop implements heap.Interface.
func (h *podHeap) Pop() any {
	last := len(h.list) - 1
	e := h.list[last]
	h.list[last] = nil
	h.list = h.list[:last]
	e.in = nil
	return e
}
