package nodes

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/kontiki/kontiki/internal/contain"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// CensusConfig says where a Census gets its data.
type CensusConfig struct {
	// Masters returns the addresses of all masters' mTLS ports; it is called every MastersEvery.
	Masters func() []string
	// Connect returns a connection to a master's own services. The Census does not close it.
	Connect func(address string) (grpc.ClientConnInterface, error)
	Log     *slog.Logger
	// MastersEvery defaults to 2 s.
	MastersEvery time.Duration
}

// Worker is a worker's state according to the masters' sessions.
type Worker struct {
	Name  string
	State State
	// Since is when the worker got this state, by this master's clock.
	Since time.Time
}

// Census merges what all masters know about the workers' sessions. Every master keeps one. From it a leader learns of a broken
// session within milliseconds, whichever master had it, and without gossip. Like gossip it is only a hint: if a master dies, its
// sessions are missing until their workers have connected to another one, which takes about a second. A master with many workers
// uses it to find a master with fewer.
//
// Its methods are safe for concurrent use, except that only one goroutine may call Next.
type Census struct {
	CensusConfig
	mu      sync.Mutex
	masters map[string]map[string]State // by address; masters with an open stream
	workers map[string]Worker
	order   []string // workers that Next has not returned yet
	queued  map[string]bool
	wake    chan struct{}
}

// A stream to a master that is silent for this long is closed; a stream that broke is retried after a pause that doubles.
const (
	masterSilence             = 3 * time.Second
	firstRewatch, lastRewatch = 100 * time.Millisecond, 2 * time.Second
	// forgetAfter is how long a worker without a session is remembered. Workers come and go under new names, and a worker that is
	// unknown is treated like one without a session.
	forgetAfter = time.Hour
)

// NewCensus creates a Census that knows no workers yet.
func NewCensus(c CensusConfig) *Census {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.MastersEvery == 0 {
		c.MastersEvery = 2 * time.Second
	}
	return &Census{CensusConfig: c, masters: map[string]map[string]State{}, workers: map[string]Worker{}, queued: map[string]bool{}, wake: make(chan struct{}, 1)}
}

// Worker returns what is known of a worker; ok is false if it had no session since the Census began.
func (c *Census) Worker(name string) (w Worker, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, ok = c.workers[name]
	return w, ok
}

// Workers returns all workers that had a session since the Census began.
func (c *Census) Workers() []Worker {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Worker, 0, len(c.workers))
	for _, w := range c.workers {
		out = append(out, w)
	}
	return out
}

// Fewest returns the master with the fewest workers, except the one at the address but, and their number; ok is false if no other
// master responds.
func (c *Census) Fewest(but string) (address string, workers int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for a, states := range c.masters {
		if a != but && (!ok || len(states) < workers) {
			address, workers, ok = a, len(states), true
		}
	}
	return address, workers, ok
}

// Next waits for a worker whose state changed, and returns its present state. Changes that the reader has not yet read are merged.
func (c *Census) Next(ctx context.Context) (Worker, error) {
	for {
		c.mu.Lock()
		if len(c.order) > 0 {
			name := c.order[0]
			c.order = c.order[1:]
			delete(c.queued, name)
			w := c.workers[name]
			c.mu.Unlock()
			return w, nil
		}
		c.mu.Unlock()
		select {
		case <-c.wake:
		case <-ctx.Done():
			return Worker{}, ctx.Err()
		}
	}
}

// Run follows the masters until the context ends.
func (c *Census) Run(ctx context.Context) error {
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stops := map[string]context.CancelFunc{}
	ticker := time.NewTicker(c.MastersEvery)
	defer ticker.Stop()
	for {
		masters := c.Masters()
		for _, address := range masters {
			if stops[address] != nil {
				continue
			}
			one, stop := context.WithCancel(ctx)
			stops[address] = stop
			watching.Go(func() { c.follow(one, address) })
		}
		for address, stop := range stops {
			if !slices.Contains(masters, address) {
				stop()
				delete(stops, address)
			}
		}
		select {
		case <-ticker.C:
			c.forget(time.Now().Add(-forgetAfter))
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// forget drops workers without a session since before a time whose last change Next has returned.
func (c *Census) forget(before time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for name, w := range c.workers {
		if w.State == Gone && w.Since.Before(before) && !c.queued[name] {
			delete(c.workers, name)
		}
	}
}

// follow keeps a stream to one master.
func (c *Census) follow(ctx context.Context, address string) {
	pause := firstRewatch
	for ctx.Err() == nil {
		var heard bool
		err := contain.Run(func() (err error) {
			heard, err = c.watch(ctx, address)
			return err
		})
		c.replace(address, nil)
		if ctx.Err() != nil {
			return
		}
		c.Log.Debug("the sessions of a master cannot be watched", "master", address, "error", err)
		if pause = min(2*pause, lastRewatch); heard {
			pause = firstRewatch
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

var errSilentMaster = errors.New("the master is silent")

func (c *Census) watch(ctx context.Context, address string) (heard bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	conn, err := c.Connect(address)
	if err != nil {
		return false, err
	}
	silence := time.AfterFunc(masterSilence, func() { cancel(errSilentMaster) })
	defer silence.Stop()
	stream, err := clusterv1.NewSessionServiceClient(conn).WatchSessions(ctx, &clusterv1.WatchSessionsRequest{})
	if err != nil {
		return false, err
	}
	for {
		m, err := stream.Recv()
		if err != nil {
			return heard, err
		}
		heard = true
		silence.Reset(masterSilence)
		states := make(map[string]State, len(m.Workers))
		for _, w := range m.Workers {
			states[w.Name] = fromProto[w.State]
		}
		if m.Full {
			c.replace(address, states)
		} else {
			c.update(address, states)
		}
	}
}

// replace takes over the full set of one master's sessions.
func (c *Census) replace(address string, states map[string]State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.masters[address]
	if states == nil {
		delete(c.masters, address)
	} else {
		c.masters[address] = states
	}
	for name := range before {
		c.judge(name)
	}
	for name := range states {
		c.judge(name)
	}
}

// update takes over the changes of one master's sessions.
func (c *Census) update(address string, states map[string]State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.masters[address]
	if known == nil {
		return // the stream did not begin with a full set: the next one will
	}
	for name, state := range states {
		if state == Gone {
			delete(known, name)
		} else {
			known[name] = state
		}
		c.judge(name)
	}
}

// judge recomputes a worker's state: the best one that any master reports. The caller holds mu.
func (c *Census) judge(name string) {
	state := Gone
	for _, states := range c.masters {
		if s, ok := states[name]; ok {
			if state = s; s == Connected {
				break
			}
		}
	}
	known, ok := c.workers[name]
	if known.State == state || !ok && state == Gone {
		return
	}
	c.workers[name] = Worker{Name: name, State: state, Since: time.Now()}
	if !c.queued[name] {
		c.queued[name] = true
		c.order = append(c.order, name)
		select {
		case c.wake <- struct{}{}:
		default:
		}
	}
}
