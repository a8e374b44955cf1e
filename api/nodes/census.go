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

// CensusConfig says where a Census reads.
type CensusConfig struct {
	// Masters are the addresses of all masters' mTLS ports; asked again every MastersEvery.
	Masters func() []string
	// Connect is a connection to a master's own services. The Census does not close it.
	Connect func(address string) (grpc.ClientConnInterface, error)
	Log     *slog.Logger
	// MastersEvery is 2 s if zero.
	MastersEvery time.Duration
}

// Worker is a worker as the masters' sessions show it.
type Worker struct {
	Name  string
	State State
	// Since is when it came to be so, by this master's clock.
	Since time.Time
}

// Census is what all masters together know of the workers' sessions. Every master keeps one. A leader learns from it of a
// broken session within milliseconds, whichever master had it, and needs no gossip for it. Like gossip it is a hint. A
// master that is gone takes its sessions with it, until their workers have turned to another one, which takes about a
// second. A master with many workers learns from it who has fewer.
//
// Its methods are safe for concurrent use; Next is for one reader.
type Census struct {
	CensusConfig
	mu      sync.Mutex
	masters map[string]map[string]State // by address, those that are watched
	workers map[string]Worker
	order   []string // that Next has yet to answer
	queued  map[string]bool
	wake    chan struct{}
}

// Silence of a master that long breaks the stream to it; a stream that broke is tried again after a pause that doubles.
const (
	masterSilence             = 3 * time.Second
	firstRewatch, lastRewatch = 100 * time.Millisecond, 2 * time.Second
	// forgetAfter is how long a worker without a session is remembered. Workers come and go under new names; what is
	// known of one that was gone for so long, its not having a session, is what is believed of any other.
	forgetAfter = time.Hour
)

// NewCensus makes a Census that knows nobody yet.
func NewCensus(c CensusConfig) *Census {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.MastersEvery == 0 {
		c.MastersEvery = 2 * time.Second
	}
	return &Census{CensusConfig: c, masters: map[string]map[string]State{}, workers: map[string]Worker{}, queued: map[string]bool{}, wake: make(chan struct{}, 1)}
}

// Worker is what is known of a worker; ok is false for one that had no session since the Census began.
func (c *Census) Worker(name string) (w Worker, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	w, ok = c.workers[name]
	return w, ok
}

// Workers are all that had a session since the Census began.
func (c *Census) Workers() []Worker {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := make([]Worker, 0, len(c.workers))
	for _, w := range c.workers {
		out = append(out, w)
	}
	return out
}

// Fewest is the master, other than the one at an address, that has the fewest workers, and how many; ok is false if no other
// one answers.
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

// Next waits for a worker whose state changed, and answers it as it is now. Changes that the reader has not yet seen
// become one.
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

// Run watches the masters until the context ends.
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

// forget drops workers that have been gone since before a time, and were told of.
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

// replace takes over all that one master knows.
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

// update takes over what changed on one master.
func (c *Census) update(address string, states map[string]State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.masters[address]
	if known == nil {
		return // it did not begin with a full set: the next one will
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

// judge brings one worker to what the masters say: the best of it counts. The caller holds mu.
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
