package consensus

import (
	"context"
	"time"

	"github.com/kontiki/kontiki/internal/turn"
)

const (
	// A batch is closed at batchBytes or batchCommands; batchSenders batches may be in flight. A batch waits for at most batchWait,
	// and grows meanwhile, while the one before it is in flight.
	batchBytes    = 1 << 20
	batchCommands = 512
	batchSenders  = 4
	batchWait     = 2 * time.Millisecond
)

// batches collects commands that are proposed at the same time into few calls to the leader or, on the leader, into few passes
// through raft. A batch costs every master a commit on its disk and messages, however many commands it has. So while one batch is
// in flight, the next one collects commands: a lone proposal is sent at once, and many share the cost. If responses take long,
// because of the disks or the network, the next batch is sent after batchWait, so that proposals do not wait for each other longer
// than that.
type batches struct {
	proposals chan *proposal
	gathering turn.Turn // one sender collects at a time
	flight    turn.Turn // held by a batch in flight
}

// proposal is one command that is being proposed.
type proposal struct {
	data []byte
	done chan attemptResult // has capacity for the one result
}

func newBatches() *batches {
	return &batches{proposals: make(chan *proposal), gathering: make(turn.Turn, 1), flight: make(turn.Turn, 1)}
}

// propose sends a command with the next batch and returns its result.
func (b *batches) propose(ctx context.Context, data []byte) attemptResult {
	p := &proposal{data: data, done: make(chan attemptResult, 1)}
	select {
	case b.proposals <- p:
	case <-ctx.Done():
		return refused(ctx.Err())
	}
	select {
	case out := <-p.done:
		return out
	case <-ctx.Done():
		return unknownResult(ctx.Err())
	}
}

// run is the loop of one sender. send returns a result for each command.
func (b *batches) run(ctx context.Context, send func(ctx context.Context, commands [][]byte) []attemptResult) {
	var batch []*proposal
	for b.gathering.Take(ctx) == nil {
		var landed func()
		batch, landed = b.gather(ctx, batch[:0])
		b.gathering.Leave()
		if len(batch) == 0 {
			return
		}
		commands := make([][]byte, len(batch)) // raft may still reference them when an attempt has ended
		for i, p := range batch {
			commands[i] = p.data
		}
		outcomes := send(ctx, commands)
		landed()
		for i, out := range outcomes {
			batch[i].done <- out
		}
		clear(batch)
	}
}

// gather returns the next batch, which is empty only if the context has ended, and a function to call when its response has
// arrived.
func (b *batches) gather(ctx context.Context, batch []*proposal) (_ []*proposal, landed func()) {
	size := 0
	add := func(p *proposal) {
		batch = append(batch, p)
		size += len(p.data)
	}
	select {
	case p := <-b.proposals:
		add(p)
	case <-ctx.Done():
		return nil, nil
	}
	landed = func() {}
	var late <-chan time.Time
	for flying := true; len(batch) < batchCommands && size < batchBytes; {
		select {
		case p := <-b.proposals:
			add(p)
			continue
		default:
		}
		if !flying {
			break
		}
		select {
		case b.flight <- struct{}{}: // what arrived meanwhile is still added
			flying, landed = false, b.flight.Leave
			continue
		default:
		}
		if late == nil {
			timer := time.NewTimer(batchWait)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case p := <-b.proposals:
			add(p)
		case b.flight <- struct{}{}:
			flying, landed = false, b.flight.Leave
		case <-late:
			return batch, landed
		case <-ctx.Done():
			return batch, landed
		}
	}
	return batch, landed
}
