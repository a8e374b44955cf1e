package raftfix

import (
	"log/slog"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Wire sends raft's calls to other masters.
type Wire interface {
	raft.Transport
	raft.WithPreVote
	raft.WithClose
	// Suspend(true) ends all outgoing calls and refuses new ones, until Suspend(false). Cut ends the calls in flight to one peer.
	// HangUp ends all calls permanently.
	Suspend(suspended bool)
	Cut(target raft.ServerAddress)
	HangUp()
}

// Transport is a Wire whose pipelines cannot deadlock, which completes installs of snapshots, and which has no long pause before a
// follower that has come back.
type Transport struct {
	Wire
	incoming *incoming
	reach    *reach
}

// Wrap wraps a wire, a log store and a snapshot store. Pass the results to raft, and call Started once raft has started. A log that
// conflicts with the newest snapshot is dropped.
func Wrap(w Wire, logs raft.LogStore, snapshots raft.SnapshotStore, heartbeat time.Duration, log *slog.Logger) (raft.LogStore, raft.SnapshotStore, *Transport, error) {
	wrapped := &installLog{LogStore: logs}
	kept := installSnapshots{snapshots, wrapped}
	if err := wrapped.dropConflicting(kept, log); err != nil {
		return nil, nil, nil, err
	}
	return wrapped, kept, &Transport{w, newIncoming(w.Consumer(), wrapped, log), newReach(heartbeat)}, nil
}

// Started is called once raft runs; it enables what depends on who leads.
func (t *Transport) Started(node *raft.Raft) {
	t.reach.node.Store(node)
	t.incoming.logs.node.Store(node)
}

// Release makes the delayed calls return; call it before raft is shut down.
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

// drained is a pipeline whose responses are always read. Raft (v1.8.0) stops reading responses at the first refusal, possibly while
// it is about to send more. Its own pipeline waits for a response to be read before it reads the next one, and a sender waits for
// that: then neither returns, the follower is sent nothing until leadership changes, and raft never shuts down. If all responses
// are read, a sender waits at most for the network, which has deadlines.
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

// run queues responses that raft has not read yet: never more than are in flight, since raft reads them quickly or closes the
// pipeline.
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
