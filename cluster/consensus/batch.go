package consensus

import (
	"context"
	"time"

	"github.com/kontiki/kontiki/internal/turn"
)

const (
	// A batch is closed at batchBytes or batchCommands; batchSenders of them are on their way at once. batchWait is how long one
	// waits, and grows, while the one before it is not answered.
	batchBytes    = 1 << 20
	batchCommands = 512
	batchSenders  = 4
	batchWait     = 2 * time.Millisecond
)

// batches puts commands that are proposed at the same time into few calls to the leader, or, on the leader, into few walks through
// raft. A batch costs every master a commit on its disk and messages, whatever is in it. So while one is on its way, the next one
// gathers until that is answered: a lone proposal waits for nobody, and many share what they cost. Where answers take long, because of
// the disks or the network, the next one follows after batchWait, so that proposals wait for one another no longer.
type batches struct {
	proposals chan *proposal
	gathering turn.Turn // one sender gathers at a time
	flight    turn.Turn // held by a batch that is on its way
}

// proposal is one command on its way to the leader.
type proposal struct {
	data []byte
	done chan attemptResult // has room for the one answer
}

func newBatches() *batches {
	return &batches{proposals: make(chan *proposal), gathering: make(turn.Turn, 1), flight: make(turn.Turn, 1)}
}

// propose sends a command with the next batch and answers its outcome.
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

// run is the life of one sender. send answers an outcome for each command.
func (b *batches) run(ctx context.Context, send func(ctx context.Context, commands [][]byte) []attemptResult) {
	var batch []*proposal
	for b.gathering.Take(ctx) == nil {
		var landed func()
		batch, landed = b.gather(ctx, batch[:0])
		b.gathering.Leave()
		if len(batch) == 0 {
			return
		}
		commands := make([][]byte, len(batch)) // raft may still hold them when an attempt has ended
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

// gather answers the next batch, which is empty only when the context has ended, and what to call once it is answered.
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
		case b.flight <- struct{}{}: // what came meanwhile still goes with it
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
