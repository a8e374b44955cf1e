package nodes

import (
	"context"
	"sync"
	"time"
)

// turns limits how many full sets are sent at a time, so that many sessions that begin together do not all become slow together. Those
// that wait are served in order, one session of a worker at a time, and are kept alive by heartbeats meanwhile.
//
// A worker that does not read cannot hold its turn for longer than a limit: the next one then begins too.
type turns struct {
	limit time.Duration

	mu      sync.Mutex
	free    int
	busy    map[string]bool
	waiting []*turn
}

// turn is one session's.
type turn struct {
	node  string
	ready chan struct{}
}

func newTurns(atOnce int, limit time.Duration) *turns {
	return &turns{limit: limit, free: atOnce, busy: map[string]bool{}}
}

// take waits for the turn of a session of a node. The caller calls done when it is over.
func (t *turns) take(ctx context.Context, node string) (done func(), err error) {
	mine := &turn{node, make(chan struct{})}
	t.mu.Lock()
	t.waiting = append(t.waiting, mine)
	t.next()
	t.mu.Unlock()
	select {
	case <-mine.ready:
	case <-ctx.Done():
		if t.leave(mine) {
			return nil, ctx.Err()
		}
		<-mine.ready
		t.end(node)
		return nil, ctx.Err()
	}
	var once sync.Once
	over := func() { once.Do(func() { t.end(node) }) }
	late := time.AfterFunc(t.limit, over)
	return func() {
		late.Stop()
		over()
	}, nil
}

// leave removes a session that waits. It returns false if its turn has begun.
func (t *turns) leave(who *turn) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, w := range t.waiting {
		if w == who {
			t.waiting = append(t.waiting[:i], t.waiting[i+1:]...)
			return true
		}
	}
	return false
}

func (t *turns) end(node string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.busy, node)
	t.free++
	t.next()
}

// next begins the turns for which there is room. The caller holds mu.
func (t *turns) next() {
	for i := 0; i < len(t.waiting) && t.free > 0; {
		w := t.waiting[i]
		if t.busy[w.node] {
			i++
			continue
		}
		t.waiting = append(t.waiting[:i], t.waiting[i+1:]...)
		t.free--
		t.busy[w.node] = true
		close(w.ready)
	}
}
