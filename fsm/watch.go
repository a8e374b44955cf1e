package fsm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/kontiki/kontiki/internal/kv"
)

// ErrWatcherClosed is returned by Next after Close.
var ErrWatcherClosed = errors.New("fsm: watcher is closed")

const (
	eventsPerNext = 512  // Next returns at most about this many events (a command is never split)
	scanLimit     = 4096 // the number of events that are scanned before the lock is released
)

// watcher is a cursor over the history. The history's lock guards its fields: the goroutine that calls Next changes them under a
// read lock (no other goroutine does then), publishing and restoring under the write lock.
type watcher struct {
	h      *history
	b      *bucket
	prefix string
	cursor atomic.Uint64 // every event of the prefix up to here has been returned
	epoch  atomic.Uint64
	err    error // an error is final
	closed bool

	wake  chan struct{} // holds one signal
	close sync.Once
	done  chan struct{}
}

// Watch returns a cursor before the first event of a key with the prefix after the revision; see kv.Reader and kv.Watcher.
//
// Next has promises beyond the interface: when ctx ends, it returns no events, ctx's error, and a progress that is valid and as new
// as the store. So a caller that needs bookmarks calls Next with a deadline; an idle watcher costs nothing in between. An idle
// watcher never falls out of the window, however much is written under other prefixes. Errors other than ctx's are final. Close may
// be called from any goroutine and makes a blocked Next return ErrWatcherClosed.
func (s *Store) Watch(prefix string, after uint64) (kv.Watcher, error) {
	h := s.history
	h.mu.Lock()
	defer h.mu.Unlock()
	if after > h.last {
		return nil, fmt.Errorf("watch %q after %d, the store is at %d: %w", prefix, after, h.last, kv.ErrFutureRevision)
	}
	if after < h.floor {
		return nil, fmt.Errorf("watch %q after %d, history begins after %d: %w", prefix, after, h.floor, kv.ErrCompacted)
	}
	resource, namespace := levels(prefix)
	b := h.bucketOf(prefix[:max(resource, namespace)])
	b.refs++
	h.open++
	w := &watcher{h: h, b: b, prefix: prefix, wake: make(chan struct{}, 1), done: make(chan struct{})}
	w.cursor.Store(after)
	w.epoch.Store(h.epoch)
	return w, nil
}

// Compact drops the history up to a revision, so that reading it from an earlier one gives kv.ErrCompacted. The latest command always
// stays. Replicas need not do it at the same time.
func (s *Store) Compact(revision uint64) { s.history.compact(revision) }

// HistoryVersions visits every version that the history refers to, of keys with the prefix, until visit returns false. Versions in the
// state may be among them.
func (s *Store) HistoryVersions(prefix string, visit func(*kv.Version) bool) {
	s.history.versions(prefix, visit)
}

func (w *watcher) Next(ctx context.Context) ([]*kv.Event, uint64, error) {
	for {
		events, progress, more, err := w.read()
		if len(events) > 0 || err != nil {
			return events, progress, err
		}
		if more {
			continue
		}
		select {
		case <-w.wake:
		case <-w.done:
		case <-ctx.Done():
			return w.expire(ctx)
		}
	}
}

// read returns the events after the cursor and advances it, or else adds the watcher to the waiting ones. more means that the scan
// ended before the newest event.
func (w *watcher) read() (events []*kv.Event, progress uint64, more bool, err error) {
	w.h.mu.RLock()
	defer w.h.mu.RUnlock()
	if err := w.check(); err != nil {
		return nil, w.cursor.Load(), false, err
	}
	events, more = w.scan()
	if len(events) == 0 && !more {
		w.b.mu.Lock()
		if w.b.waiting == nil {
			w.b.waiting = make(map[*watcher]struct{})
		}
		w.b.waiting[w] = struct{}{}
		w.b.mu.Unlock()
	}
	return events, w.cursor.Load(), more, nil
}

// check returns an error if the window no longer contains the events after the cursor.
func (w *watcher) check() error {
	if w.closed {
		return ErrWatcherClosed
	}
	if w.err != nil {
		return w.err
	}
	if w.epoch.Load() != w.h.epoch {
		if w.cursor.Load() != w.h.restored {
			w.err = fmt.Errorf("watch %q after %d, the store was restored at %d: %w", w.prefix, w.cursor.Load(), w.h.restored, kv.ErrCompacted)
			return w.err
		}
		w.epoch.Store(w.h.epoch)
	}
	if w.cursor.Load() < w.b.evicted {
		w.err = fmt.Errorf("watch %q after %d, history begins after %d: %w", w.prefix, w.cursor.Load(), w.b.evicted, kv.ErrCompacted)
		return w.err
	}
	return nil
}

// scan advances the cursor over whole commands.
func (w *watcher) scan() (events []*kv.Event, more bool) {
	q := &w.b.events
	all := len(w.prefix) == len(w.b.prefix)
	start := q.after(w.cursor.Load())
	for i := start; i < q.len(); i++ {
		r := q.at(i)
		if i > start && r.end != q.at(i-1).end && (len(events) >= eventsPerNext || i-start >= scanLimit) {
			w.cursor.Store(q.at(i - 1).end)
			return events, true
		}
		if all || strings.HasPrefix(r.Current.Key, w.prefix) {
			if events == nil {
				events = make([]*kv.Event, 0, min(q.len()-i, eventsPerNext))
			}
			events = append(events, &r.Event)
		}
	}
	w.cursor.Store(w.h.last)
	return events, false
}

// expire removes the watcher from the waiting ones. The watcher has then read everything for its prefix in the history, unless it
// was just signalled; in that case progress is unchanged.
func (w *watcher) expire(ctx context.Context) ([]*kv.Event, uint64, error) {
	w.h.mu.RLock()
	defer w.h.mu.RUnlock()
	w.b.mu.Lock()
	_, waits := w.b.waiting[w]
	delete(w.b.waiting, w)
	w.b.mu.Unlock()
	if waits {
		w.cursor.Store(w.h.last)
	}
	return nil, w.cursor.Load(), ctx.Err()
}

// Progress may be called from any goroutine. It is as new as the store when the watcher's list has no unread event.
func (w *watcher) Progress() uint64 {
	w.h.mu.RLock()
	defer w.h.mu.RUnlock()
	w.b.mu.Lock()
	_, waits := w.b.waiting[w]
	w.b.mu.Unlock()
	cursor := w.cursor.Load()
	if waits || w.epoch.Load() == w.h.epoch && cursor >= w.b.evicted && w.b.events.after(cursor) == w.b.events.len() {
		return w.h.last
	}
	return cursor
}

func (w *watcher) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) Close() {
	w.close.Do(func() {
		w.h.mu.Lock()
		defer w.h.mu.Unlock()
		w.closed = true
		close(w.done)
		delete(w.b.waiting, w)
		w.b.refs--
		w.h.open--
		w.h.tidy(w.b)
	})
}
