package flow

import (
	"sync"
	"time"
)

// Stall is how long the API waits for a client to read some of a response before it ends the request.
const Stall = 30 * time.Second

// Writes watches the writes of one response: a client that is late to read makes the request give its seats back, and one that has
// stalled makes it end. Begin and End are called around each write.
type Writes struct {
	stall   time.Duration
	slow    func()
	stalled func()
	timer   *time.Timer

	mu      sync.Mutex
	writing bool
	late    bool      // slow has been called
	due     time.Time // when the present write is late, or has stalled
}

// NewWrites creates Writes. slow is called when a write has waited for Patience, but only once; stalled when one has waited for
// stall. Either is called in a goroutine of its own.
func NewWrites(stall time.Duration, slow, stalled func()) *Writes {
	w := &Writes{stall: stall, slow: slow, stalled: stalled, late: stall <= Patience}
	w.timer = time.AfterFunc(stall, w.overdue)
	w.timer.Stop()
	return w
}

// Begin begins a write.
func (w *Writes) Begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writing = true
	wait := Patience
	if w.late {
		wait = w.stall
	}
	w.due = time.Now().Add(wait)
	w.timer.Reset(wait)
}

// End ends a write.
func (w *Writes) End() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.writing = false
	w.timer.Stop()
}

// overdue is called when the timer fires. That may be for an earlier write: what counts is when the present one is due.
func (w *Writes) overdue() {
	w.mu.Lock()
	call := w.stalled
	switch {
	case !w.writing:
		call = func() {}
	case time.Now().Before(w.due):
		w.timer.Reset(time.Until(w.due))
		call = func() {}
	case !w.late:
		w.late = true
		w.due = w.due.Add(w.stall - Patience)
		w.timer.Reset(time.Until(w.due))
		call = w.slow
	}
	w.mu.Unlock()
	call()
}
