package consensus

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
)

// Servers are the masters by raft's latest configuration, which need not be committed yet.
func (n *Replica) Servers() []raft.Server { return n.node.servers() }

// AddNonvoter adds a master that follows and has no vote. Like the other changes of the configuration it returns once the change is
// committed, and only a leader can make it. Errors: raft's, and the context's.
func (n *Replica) AddNonvoter(ctx context.Context, id raft.ServerID, address raft.ServerAddress) error {
	return n.node.await(ctx, func() raft.Future { return n.node.raft.AddNonvoter(id, address, 0, 0) })
}

// AddVoter gives a master its vote.
func (n *Replica) AddVoter(ctx context.Context, id raft.ServerID, address raft.ServerAddress) error {
	return n.node.await(ctx, func() raft.Future { return n.node.raft.AddVoter(id, address, 0, 0) })
}

// DemoteVoter takes a master's vote; it goes on following.
func (n *Replica) DemoteVoter(ctx context.Context, id raft.ServerID) error {
	return n.node.await(ctx, func() raft.Future { return n.node.raft.DemoteVoter(id, 0, 0) })
}

// RemoveServer removes a master.
func (n *Replica) RemoveServer(ctx context.Context, id raft.ServerID) error {
	return n.node.await(ctx, func() raft.Future { return n.node.raft.RemoveServer(id, 0, 0) })
}

// Term, CommitIndex and IsRaftLeader are what raft says of itself. A raft leader may not have passed the barrier of its term: see IsLeader.
func (n *Replica) Term() uint64        { return n.node.raft.CurrentTerm() }
func (n *Replica) CommitIndex() uint64 { return n.node.raft.CommitIndex() }
func (n *Replica) IsRaftLeader() bool  { return n.node.raft.State() == raft.Leader }

// Await calls start and waits for the raft future that it returns, no longer than the context: futures may never be answered once raft is
// shut down.
func (n *Replica) Await(ctx context.Context, start func() raft.Future) error {
	return n.node.await(ctx, start)
}

// Barrier waits until everything that was committed before has been applied here. Only a leader can.
func (n *Replica) Barrier(ctx context.Context) error { return n.node.barrier(ctx) }

// Detached is how long this master has not heard of a leader; 0 on the leader. since is what counts where it has heard of none yet.
func (n *Replica) Detached(since time.Time) time.Duration {
	if n.leaders.current().Self {
		return 0
	}
	if last := n.node.raft.LastContact(); last.After(since) {
		since = last
	}
	return time.Since(since)
}

// Halted is closed when this master's state goes no further, because a command of the log is newer than the program.
func (n *Replica) Halted() <-chan struct{} { return n.node.halted }
