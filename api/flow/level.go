package flow

import (
	"context"
	"sync"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apiserver/pkg/util/shufflesharding"
)

// estimatedDuration is for how long a request is expected to occupy its seats; the estimate is corrected when it ends.
const estimatedDuration = 3 * time.Millisecond

// Reasons for which requests are rejected, as metrics name them.
const (
	reasonQueueFull = iota // of its hand, the queue with the least work has no room
	reasonLimit            // the level has no queues, and no free seats
	reasonTimeOut          // it waited for too long, or its client gave up
	reasons
)

var reasonNames = [reasons]string{"queue-full", "concurrency-limit", "time-out"}

// level is a priority level: its seats, and the queues of requests that wait for them.
type level struct {
	name string
	// exempt requests are always dispatched at once.
	exempt bool

	mu     sync.Mutex
	config *flowcontrolv1.PriorityLevelConfiguration
	// quiescing means that the object has been deleted, and that the level goes away when its last request has ended.
	quiescing bool
	limits    limits

	// desired is the number of queues that requests are dealt into; there may be more until these are empty. Without desired
	// queues, a request that finds no free seats is rejected.
	desired, lengthLimit int
	dealer               *shufflesharding.Dealer
	handSize             int
	queues               []*queue
	robin                int // the index of the queue of the last dispatch
	enqueued             int // how many requests have ever been enqueued

	meter    seatSeconds
	metered  time.Time // when meter and demand were brought up to date
	active   int       // the number of queues with requests
	waiting  int
	serving  int // requests that have been dispatched and not ended
	unqueued list
	// seats are occupied, seatsWanted those that waiting requests want.
	seats, seatsWanted int
	demand             demand
	retry              retry

	dispatched, rejected, timedOut, cancelled int
	epochs                                    int
	lastDispatch, lastReading                 seatSeconds
}

// queue has the requests of some flows of a level.
type queue struct {
	waiting   list
	executing list
	// next is the reading of the progress meter at which the queue's next request is due to be dispatched.
	next seatSeconds
	// work is that of the waiting requests.
	work               seatSeconds
	seats, seatsWanted int
}

// set changes the level's configuration, which has been checked. The caller then sets the limits.
func (l *level) set(config *flowcontrolv1.PriorityLevelConfiguration, dealer *shufflesharding.Dealer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sync()
	l.config, l.dealer, l.desired, l.quiescing = config, dealer, 0, false
	if q := queuingOf(config); q != nil {
		l.desired, l.lengthLimit, l.handSize = int(q.Queues), int(q.QueueLengthLimit), int(q.HandSize)
		for len(l.queues) < l.desired {
			l.queues = append(l.queues, &queue{})
		}
	}
	l.trim()
}

// trim drops empty queues that are no longer desired.
func (l *level) trim() {
	for n := len(l.queues); n > l.desired && l.queues[n-1].idle() && l.queues[n-1].seats == 0; n-- {
		l.queues = l.queues[:n-1]
	}
	l.robin = min(l.robin, max(len(l.queues)-1, 0))
}

func (q *queue) idle() bool { return q.waiting.length == 0 && q.executing.length == 0 }

func (l *level) idle() bool { return l.waiting == 0 && l.serving == 0 }

// sync brings the progress meter and the demand up to date. It must be called after locking, before anything changes.
func (l *level) sync() time.Time {
	now := time.Now()
	passed := now.Sub(l.metered)
	if passed <= 0 {
		return now
	}
	l.metered = now
	l.demand.pass(passed, float64(l.seats+l.seatsWanted))
	if l.active == 0 {
		return now
	}
	rate := float64(min(l.seats+l.seatsWanted, l.limits.current)) / float64(l.active)
	if l.meter += workOf(rate, passed); l.meter > highReading {
		l.setBack()
	}
	return now
}

// setBack subtracts the same amount from the progress meter and all readings of it.
func (l *level) setBack() {
	l.epochs++
	l.meter -= highReading
	for _, q := range l.queues {
		q.next -= highReading // that of an idle queue is not read before it is set
		for r := q.waiting.first; r != nil; r = r.next {
			r.arrival -= highReading
		}
	}
}

// enter dispatches a request, at once or after it has waited; hash identifies its flow. It returns false if the request is
// rejected.
func (l *level) enter(ctx context.Context, r *request, hash uint64) bool {
	l.mu.Lock()
	r.arrived = l.sync()
	r.arrival = l.meter
	r.work = workOf(float64(r.width.seats), estimatedDuration) + workOf(float64(r.width.final), r.width.extra)
	if l.exempt || r.Health || l.desired == 0 {
		defer l.mu.Unlock()
		if !l.exempt && !r.Health && !l.room(r.width.most()) {
			l.reject(r, reasonLimit)
			return false
		}
		l.occupy(r, r.arrived)
		return true
	}
	r.queue = l.queues[l.deal(hash)]
	if l.seats >= l.limits.current && r.queue.waiting.length >= l.lengthLimit {
		l.reject(r, reasonQueueFull)
		l.mu.Unlock()
		return false
	}
	l.enqueue(r)
	l.dispatch()
	if r.state != waiting {
		l.mu.Unlock()
		return true
	}
	r.decided = make(chan struct{})
	l.mu.Unlock()
	return l.await(ctx, r)
}

// await waits until the request is dispatched, its time to wait is over, or its client has gone.
func (l *level) await(ctx context.Context, r *request) bool {
	timer := time.NewTimer(r.Wait)
	defer timer.Stop()
	gone := false
	select {
	case <-r.decided:
		return true
	case <-timer.C:
	case <-ctx.Done():
		gone = true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sync()
	if r.state != waiting {
		return true
	}
	l.dequeue(r)
	r.queue.bound()
	if gone {
		l.cancelled++
	} else {
		l.timedOut++
	}
	l.reject(r, reasonTimeOut)
	return false
}

func (l *level) reject(r *request, reason int) {
	r.state = finished
	l.rejected++
	r.flow.rejected[reason].Add(1)
}

// deal returns the index of the queue with the least work waiting among the hand of a flow.
func (l *level) deal(hash uint64) int {
	if l.desired == 1 {
		return 0
	}
	var cards [16]int
	hand := l.dealer.DealIntoHand(hash, cards[:l.handSize])
	offset := l.enqueued % len(hand) // without this, flows whose hands overlap would prefer the same queues
	l.enqueued++
	best, least := -1, mostSeconds
	for i := range hand {
		index := hand[(offset+i)%len(hand)]
		if work := l.queues[index].work; work < least {
			best, least = index, work
		}
	}
	return best
}

func (l *level) enqueue(r *request) {
	q := r.queue
	if q.idle() {
		q.next = l.meter
		l.active++
	}
	q.waiting.append(r)
	q.work += r.work
	q.seatsWanted += r.width.most()
	l.waiting++
	l.wants(r, 1)
	r.flow.queueLength.Observe(float64(q.waiting.length))
	q.bound()
}

// dequeue removes a waiting request from its queue.
func (l *level) dequeue(r *request) {
	q := r.queue
	q.waiting.remove(r)
	q.work -= r.work
	q.seatsWanted -= r.width.most()
	l.waiting--
	l.wants(r, -1)
	if q.idle() {
		l.active--
	}
}

// wants counts a request that waits, or no longer does.
func (l *level) wants(r *request, sign int) {
	l.seatsWanted += sign * r.width.most()
	l.demand.high = max(l.demand.high, l.seats+l.seatsWanted)
	r.flow.inQueue.Add(int64(sign))
	r.flow.kinds[kindOf(&r.Request)].waiting.Add(int64(sign))
	r.flow.seatsInQueue.Add(int64(sign * r.width.most()))
}

// bound keeps a queue from being due before the arrival of its oldest request: otherwise a queue that does not use all that it is
// due would collect a claim to more than its share later.
func (q *queue) bound() {
	if first := q.waiting.first; first != nil {
		q.next = max(q.next, first.arrival)
	}
}

// room says whether that many seats are free. A request that is wider than the level is served alone.
func (l *level) room(seats int) bool {
	if seats > l.limits.current {
		return l.serving == 0
	}
	return l.seats+seats <= l.limits.current
}

// dispatch dispatches as many waiting requests as there are seats for.
func (l *level) dispatch() {
	for l.waiting > 0 && l.seats < l.limits.current {
		q, index := l.nextQueue()
		r := q.waiting.first
		if !l.room(r.width.most()) {
			r.flow.noRoom.Add(1)
			return
		}
		l.robin = index
		l.lastDispatch, l.lastReading = l.meter, q.next
		l.dequeue(r)
		l.occupy(r, l.metered)
		q.next += r.work
		q.bound()
		if r.decided != nil {
			close(r.decided)
		}
	}
}

// nextQueue returns the queue whose head would be the first to end, which is one with waiting requests. Among equals it is the first
// after the one that was chosen last.
func (l *level) nextQueue() (best *queue, index int) {
	least := mostSeconds
	for i := range l.queues {
		at := (l.robin + 1 + i) % len(l.queues)
		q := l.queues[at]
		if first := q.waiting.first; first != nil && (best == nil || q.next+first.work < least) {
			best, index, least = q, at, q.next+first.work
			if q.waiting.length == l.waiting {
				break // no other queue has any
			}
		}
	}
	return best, index
}

// occupy begins to serve a request that is in no queue, or no longer.
func (l *level) occupy(r *request, now time.Time) {
	r.state, r.dispatched = executing, now
	if limit := max(l.limits.current, 1); r.width.final > limit && r.queue != nil {
		// The same work on fewer seats.
		r.width.extra = workOf(float64(r.width.final), r.width.extra).over(limit)
		r.width.final = limit
	}
	l.serving++
	l.dispatched++
	l.take(r, 1)
	if q := r.queue; q != nil {
		if q.idle() {
			l.active++
		}
		q.executing.append(r)
	} else {
		l.unqueued.append(r)
	}
	r.flow.dispatched.Add(1)
	r.flow.executing.Add(1)
	r.flow.kinds[kindOf(&r.Request)].executing.Add(1)
}

// take counts the seats that a request occupies, or no longer does.
func (l *level) take(r *request, sign int) {
	seats := sign * r.width.most()
	l.seats += seats
	l.demand.high = max(l.demand.high, l.seats+l.seatsWanted)
	if r.queue != nil {
		r.queue.seats += seats
	}
	r.flow.seats.Add(int64(seats))
}

// leave ends a request that is being served. Its seats become free at once, or later if it has a second phase.
func (l *level) leave(r *request) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.state != executing {
		return
	}
	now := l.sync()
	took := now.Sub(r.dispatched)
	r.flow.ended(r, took)
	l.serving--
	if q := r.queue; q != nil {
		q.executing.remove(r)
		if q.idle() {
			l.active--
		}
		q.next -= workOf(float64(r.width.seats), estimatedDuration-took)
		q.bound()
	} else {
		l.unqueued.remove(r)
	}
	if r.width.extra > 0 {
		r.state = lingering
		time.AfterFunc(r.width.extra, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.sync()
			l.free(r)
		})
		return
	}
	l.free(r)
}

// free frees the seats of a request, and dispatches others.
func (l *level) free(r *request) {
	r.state = finished
	l.take(r, -1)
	l.trim()
	l.dispatch()
}
