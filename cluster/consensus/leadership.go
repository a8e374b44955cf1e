package consensus

import (
	"context"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/internal/broadcast"
)

// leaders knows who leads, and wakes those who wait for a change.
type leaders struct {
	raft *raft.Raft
	self raft.ServerID

	changed broadcast.Signal
	// observed is told what raft reports; nil for nobody.
	observed func(raft.Observation)
}

func newLeaders(r *raft.Raft, self raft.ServerID) *leaders { return &leaders{raft: r, self: self} }

// Leadership is who leads as far as this master knows. An empty name means that no leader is known.
type Leadership struct {
	Name, Address string
	Self          bool
	// changed is closed when this may have changed. It was taken before the other fields were read.
	changed <-chan struct{}
}

func (l *leaders) current() Leadership {
	changed := l.changed.Next()
	address, id := l.raft.LeaderWithID()
	return Leadership{Name: string(id), Address: string(address), Self: id == l.self && id != "", changed: changed}
}

// bump wakes all waiters.
func (l *leaders) bump() { l.changed.Tell() }

// watch calls bump at every change that raft reports.
func (l *leaders) watch(ctx context.Context) {
	observations := make(chan raft.Observation, 16)
	observer := raft.NewObserver(observations, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState, raft.PeerObservation:
			return true
		}
		return false
	})
	l.raft.RegisterObserver(observer)
	defer l.raft.DeregisterObserver(observer)
	l.bump()
	for {
		select {
		case o := <-observations:
			if l.observed != nil {
				l.observed(o)
			}
			l.bump()
		case <-ctx.Done():
			return
		}
	}
}

// Pause waits for a change, but at most for d; it returns false if the context ended.
func (l Leadership) Pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-l.changed:
		return ctx.Err() == nil
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// round shares one run of a function among all callers that arrived before it began. At most one run is in progress: callers that
// arrive during it get the next, so a result is never older than its caller's request.
type round[T any] struct {
	run func() (T, error)

	mu      sync.Mutex
	next    *call[T]
	running bool
	tasks   *tasks
}

type call[T any] struct {
	done  chan struct{}
	value T
	err   error
}

func (r *round[T]) do(ctx context.Context) (T, error) {
	r.mu.Lock()
	if r.next == nil {
		r.next = &call[T]{done: make(chan struct{})}
	}
	c := r.next
	if !r.running {
		if !r.tasks.start(r.loop) {
			r.mu.Unlock()
			var zero T
			return zero, mtls.ErrClosed
		}
		r.running = true
	}
	r.mu.Unlock()
	select {
	case <-c.done:
		return c.value, c.err
	case <-ctx.Done():
		var zero T
		return zero, ctx.Err()
	}
}

func (r *round[T]) loop() {
	for {
		r.mu.Lock()
		c := r.next
		r.next = nil
		if c == nil {
			r.running = false
			r.mu.Unlock()
			return
		}
		r.mu.Unlock()
		c.value, c.err = r.run()
		close(c.done)
	}
}

// tasks are goroutines that close waits for; after close, no new one starts.
type tasks struct {
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

func (t *tasks) start(f func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return false
	}
	t.wg.Go(f)
	return true
}

// close refuses new tasks and waits for the running ones.
func (t *tasks) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	t.wg.Wait()
}
