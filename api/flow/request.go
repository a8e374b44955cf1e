package flow

import (
	"net/http"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Request is what the decision about a request depends on.
type Request struct {
	User user.Info
	Verb string
	// Resource is "" for a request for a path that names no resource.
	Path                               string
	Group, Version, Resource           string
	Subresource, Namespace, ObjectName string
	// Bytes is about how much memory the objects of a list take, and those of a watch's initial events.
	Bytes int64
	// Health requests are always served: a busy master is not a dead one.
	Health bool
	// Wait limits how long the request may wait in a queue.
	Wait time.Duration
}

// LongestWait returns how long a request that may take that long altogether may wait in a queue.
func LongestWait(timeout time.Duration) time.Duration { return min(timeout/4, time.Minute) }

// readOnly says as which kind metrics count the request.
func (r *Request) readOnly() bool { return r.Verb == "get" || r.Verb == "list" || r.Verb == "watch" }

// width is how many seats a request occupies.
type width struct {
	// seats are occupied while the request is served, final ones for the duration extra after that.
	seats, final int
	extra        time.Duration
}

func (w width) most() int { return max(w.seats, w.final) }

// request is a request in a level.
type request struct {
	Request
	level *level
	flow  *flowCounters
	queue *queue // nil if it was dispatched without one
	width width
	work  seatSeconds // estimated, for both phases

	state      state
	next, prev *request      // in the queue, or among those that are being served
	decided    chan struct{} // closed when the request is dispatched; nil unless it waits
	arrived    time.Time
	arrival    seatSeconds // the level's progress meter when the request arrived
	dispatched time.Time
	// schema and distinguisher are only for the dump.
	schema, distinguisher string
}

// state is where a request is in its life. The level's lock guards it.
type state uint8

const (
	waiting state = iota
	executing
	lingering // served, but some of its seats are still occupied
	finished
)

// Class is what a request was classified as.
type Class struct{ schema, level types.UID }

// Headers sets the response headers that name the classification.
func (c Class) Headers(h http.Header) {
	if c == (Class{}) {
		return
	}
	h.Set(flowcontrolv1.ResponseHeaderMatchedPriorityLevelConfigurationUID, string(c.level))
	h.Set(flowcontrolv1.ResponseHeaderMatchedFlowSchemaUID, string(c.schema))
}

// Seat is what a request holds while it is served. A nil Seat holds nothing.
type Seat struct{ request }

// Leave gives the seats back. It may be called more than once and by several goroutines.
func (s *Seat) Leave() {
	if s != nil {
		s.level.leave(&s.request)
	}
}

// Held says whether the seats have not been given back yet; a nil Seat never was.
func (s *Seat) Held() bool {
	if s == nil {
		return false
	}
	s.level.mu.Lock()
	defer s.level.mu.Unlock()
	return s.state == executing
}

// list is a doubly linked list of requests.
type list struct {
	first, last *request
	length      int
}

func (l *list) append(r *request) {
	r.prev, r.next = l.last, nil
	if l.last != nil {
		l.last.next = r
	} else {
		l.first = r
	}
	l.last = r
	l.length++
}

func (l *list) remove(r *request) {
	if r.prev != nil {
		r.prev.next = r.next
	} else {
		l.first = r.next
	}
	if r.next != nil {
		r.next.prev = r.prev
	} else {
		l.last = r.prev
	}
	r.prev, r.next = nil, nil
	l.length--
}
