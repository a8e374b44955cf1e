package audit

import (
	"errors"
	"io"
	"log/slog"
	"sync"
	"time"
)

const (
	// patience is how long a request waits for its event to be written. A disk that takes longer counts as stalled: until it
	// continues, no request waits for it.
	patience = 5 * time.Second
	// maxPending limits the events in bytes that wait to be written; more are lost, and counted.
	maxPending = 16 << 20
	// keepBuffer is the largest buffer in bytes that is reused for the next batch.
	keepBuffer = 256 << 10
)

var errPending = errors.New("too many events wait to be written; the disk or the reader of the log is too slow")

// writer appends events to the log, as one line each. Events that arrive during a write are written together by the next one. It is
// safe for concurrent use.
type writer struct {
	out io.Writer
	// blocking means that an event is written before its request continues.
	blocking bool
	patience time.Duration
	// lost is called with the number of events that were not written.
	lost func(events int)
	log  *slog.Logger

	mu      sync.Mutex
	idle    sync.Cond // signalled when running becomes false
	next    *batch
	running bool
	// stalled means that a write is taking longer than patience.
	stalled bool
	spare   []byte
	// failing counts the events lost since the log was last written.
	failing int
}

// batch has lines that are written together.
type batch struct {
	lines    []byte
	events   int
	released chan struct{} // closed when no request should wait any longer
	timer    *time.Timer
	over     bool // guarded by writer.mu: released has been closed
}

func newWriter(out io.Writer, blocking bool, lost func(int), log *slog.Logger) *writer {
	w := &writer{out: out, blocking: blocking, patience: patience, lost: lost, log: log}
	w.idle.L = &w.mu
	return w
}

// append writes a line, which ends in a newline. In blocking mode it returns when the line has been written or cannot be written,
// but waits at most for patience.
func (w *writer) append(line []byte) {
	w.mu.Lock()
	if w.next != nil && len(w.next.lines)+len(line) > maxPending {
		w.fail(1, errPending)
		w.mu.Unlock()
		return
	}
	b := w.next
	if b == nil {
		b = &batch{lines: w.spare[:0]}
		w.spare = nil
		if w.blocking {
			b.released = make(chan struct{})
			b.timer = time.AfterFunc(w.patience, func() { w.release(b, true) })
		}
		w.next = b
	}
	b.lines = append(b.lines, line...)
	b.events++
	if !w.running {
		w.running = true
		go w.run()
	}
	wait := w.blocking && !w.stalled
	w.mu.Unlock()
	if wait {
		<-b.released
	}
}

// run writes batches until there is nothing left to write.
func (w *writer) run() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.next != nil {
		b := w.next
		w.next = nil
		w.mu.Unlock()
		_, err := w.out.Write(b.lines)
		if w.blocking {
			b.timer.Stop()
			w.release(b, false)
		}
		w.mu.Lock()
		w.stalled = false
		if err != nil {
			w.fail(b.events, err)
		} else if w.failing > 0 {
			w.log.Info("the audit log can be written again", "lost", w.failing)
			w.failing = 0
		}
		if cap(b.lines) <= keepBuffer {
			w.spare = b.lines
		}
	}
	w.running = false
	w.idle.Broadcast()
}

func (w *writer) release(b *batch, late bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b.over {
		return
	}
	b.over = true
	if late && !w.stalled {
		w.log.Error("writing the audit log takes too long; requests do not wait for it until it continues", "waited", w.patience)
	}
	w.stalled = w.stalled || late
	close(b.released)
}

// fail counts lost events. It logs an error once for each period in which the log cannot be written. The caller holds mu.
func (w *writer) fail(events int, err error) {
	w.lost(events)
	if w.failing == 0 {
		w.log.Error("the audit log cannot be written; events are lost until it can", "error", err)
	}
	w.failing += events
}

// close waits, at most for patience, until all events are written. An event that comes later opens the file again.
func (w *writer) close() error {
	late := false // guarded by mu
	timer := time.AfterFunc(w.patience, func() {
		w.mu.Lock()
		late = true
		w.idle.Broadcast()
		w.mu.Unlock()
	})
	defer timer.Stop()
	w.mu.Lock()
	defer w.mu.Unlock()
	for w.running && !late {
		w.idle.Wait()
	}
	if w.running {
		return errors.New("writing the audit log takes too long; its last events may be missing")
	}
	if c, ok := w.out.(io.Closer); ok {
		return c.Close()
	}
	return nil
}
