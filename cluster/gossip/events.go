package gossip

import (
	"context"
	"net"
	"sync"

	"github.com/kontiki/kontiki/internal/broadcast"
)

// Events is a stream of changed members. Only one goroutine may read it.
type Events struct {
	g     *Gossip
	mu    sync.Mutex
	order []string
	last  map[string]Member
	wake  chan struct{}
	ended bool
}

// Events returns a stream that begins with the present state of all members. It never blocks gossip: changes of one member that the
// reader has not yet read are merged.
func (g *Gossip) Events() *Events {
	e := &Events{g: g, last: map[string]Member{}, wake: make(chan struct{}, 1)}
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, m := range g.members {
		e.push(*m)
	}
	select {
	case <-g.done:
		e.end()
	default:
		g.streams[e] = struct{}{}
	}
	return e
}

func (e *Events) push(m Member) {
	key := gossipName(m.Role, m.Name)
	e.mu.Lock()
	if _, queued := e.last[key]; !queued {
		e.order = append(e.order, key)
	}
	e.last[key] = m
	e.mu.Unlock()
	broadcast.Poke(e.wake)
}

func (e *Events) end() {
	e.mu.Lock()
	e.ended = true
	e.mu.Unlock()
	broadcast.Poke(e.wake)
}

// Next waits for the next change and returns the member's present state. Errors: the context's, and net.ErrClosed once gossip has
// stopped.
func (e *Events) Next(ctx context.Context) (Member, error) {
	for {
		e.mu.Lock()
		if len(e.order) > 0 {
			key := e.order[0]
			e.order = e.order[1:]
			m := e.last[key]
			delete(e.last, key)
			e.mu.Unlock()
			return m, nil
		}
		ended := e.ended
		e.mu.Unlock()
		if ended {
			return Member{}, net.ErrClosed
		}
		select {
		case <-e.wake:
		case <-ctx.Done():
			return Member{}, ctx.Err()
		}
	}
}

// Close ends the stream.
func (e *Events) Close() {
	e.g.mu.Lock()
	delete(e.g.streams, e)
	e.g.mu.Unlock()
	e.end()
}
