package raftfix

import (
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Wire carries raft's calls between masters.
type Wire interface {
	raft.Transport
	raft.WithPreVote
	raft.WithClose
	// Suspend ends all outgoing calls and refuses new ones, until it is called with false. Cut ends the calls to one peer
	// that are under way. HangUp ends all calls for good.
	Suspend(suspended bool)
	Cut(target raft.ServerAddress)
	HangUp()
}

// Transport is a wire with pipelines that cannot get stuck, with installs of snapshots that end what raft does not, and without a
// pause before a follower that came back.
type Transport struct {
	Wire
	incoming *incoming
	reach    *reach
}

// Wrap puts what this package does around a wire, a log store and a snapshot store. Raft is to be given the results, and the transport to be told
// of it once it has started. A log that conflicts with the newest snapshot is dropped.
func Wrap(w Wire, logs raft.LogStore, snapshots raft.SnapshotStore, heartbeat time.Duration, log *slog.Logger) (raft.LogStore, raft.SnapshotStore, *Transport, error) {
	wrapped := &installLog{LogStore: logs}
	kept := installSnapshots{snapshots, wrapped}
	if err := wrapped.dropConflicting(kept, log); err != nil {
		return nil, nil, nil, err
	}
	return wrapped, kept, &Transport{w, newIncoming(w.Consumer(), wrapped, log), newReach(heartbeat)}, nil
}

// Started tells of raft once it runs: what depends on who leads begins then.
func (t *Transport) Started(node *raft.Raft) {
	t.reach.node.Store(node)
	t.incoming.logs.node.Store(node)
}

// Release lets go of the calls that are held back; call it before raft is shut down.
func (t *Transport) Release() { t.reach.close() }

// Consumer implements raft.Transport.
func (t *Transport) Consumer() <-chan raft.RPC { return t.incoming.to }

// Close implements raft.WithClose.
func (t *Transport) Close() error {
	err := t.Wire.Close()
	t.incoming.close()
	t.reach.close()
	return err
}

// AppendEntriesPipeline implements raft.Transport.
func (t *Transport) AppendEntriesPipeline(id raft.ServerID, target raft.ServerAddress) (raft.AppendPipeline, error) {
	inner, err := t.Wire.AppendEntriesPipeline(id, target)
	if err != nil {
		return nil, err
	}
	return drain(inner), nil
}

// drained is a pipeline whose answers are always taken. Raft (v1.8.0) stops to read answers at the first refusal, perhaps while
// it is about to send more. Its own pipeline waits for an answer to be read before it takes the next one, and a sender waits
// for that: then neither ends, the follower is sent nothing until leadership moves, and raft never shuts down. With
// somebody who takes every answer, a sender waits for the network at most, which has deadlines.
type drained struct {
	raft.AppendPipeline
	answers chan raft.AppendFuture
	closed  chan struct{}
	once    sync.Once
	pump    sync.WaitGroup
}

func drain(inner raft.AppendPipeline) *drained {
	d := &drained{AppendPipeline: inner, answers: make(chan raft.AppendFuture), closed: make(chan struct{})}
	d.pump.Go(d.run)
	return d
}

// run keeps answers that nobody has read yet: no more than are in flight, since raft reads them fast or closes.
func (d *drained) run() {
	var queue []raft.AppendFuture
	for {
		var out chan raft.AppendFuture
		var next raft.AppendFuture
		if len(queue) > 0 {
			out, next = d.answers, queue[0]
		}
		select {
		case answer := <-d.AppendPipeline.Consumer():
			queue = append(queue, answer)
		case out <- next:
			queue = queue[1:]
		case <-d.closed:
			return
		}
	}
}

// Consumer implements raft.AppendPipeline.
func (d *drained) Consumer() <-chan raft.AppendFuture { return d.answers }

// Close implements raft.AppendPipeline.
func (d *drained) Close() error {
	d.once.Do(func() { close(d.closed) })
	err := d.AppendPipeline.Close()
	d.pump.Wait()
	return err
}
