package consensus

import (
	"context"
	"time"

	"github.com/hashicorp/raft"
)

// Servers returns the masters in raft's latest configuration, which may not be committed yet.
func (n *Replica) Servers() []raft.Server { return n.node.servers() }

// AddNonvoter adds a master as a non-voter. Like the other configuration changes it returns once the change is committed, and only
// a leader can make it. Errors: raft's, and the context's.
func (n *Replica) AddNonvoter(ctx context.Context, id raft.ServerID, address raft.ServerAddress) error {
	return n.node.await(ctx, func() raft.Future { return n.node.raft.AddNonvoter(id, address, 0, 0) })
}

// AddVoter makes a master a voter.
func (n *Replica) AddVoter(ctx context.Context, id raft.ServerID, address raft.ServerAddress) error {
	return n.node.await(ctx, func() raft.Future { return n.node.raft.AddVoter(id, address, 0, 0) })
}

// DemoteVoter makes a master a non-voter; it continues to follow.
func (n *Replica) DemoteVoter(ctx context.Context, id raft.ServerID) error {
	return n.node.await(ctx, func() raft.Future { return n.node.raft.DemoteVoter(id, 0, 0) })
}

// RemoveServer removes a master.
func (n *Replica) RemoveServer(ctx context.Context, id raft.ServerID) error {
	return n.node.await(ctx, func() raft.Future { return n.node.raft.RemoveServer(id, 0, 0) })
}

// Term, CommitIndex and IsRaftLeader return raft's state. A raft leader may not have passed the barrier of its term: see IsLeader.
func (n *Replica) Term() uint64        { return n.node.raft.CurrentTerm() }
func (n *Replica) CommitIndex() uint64 { return n.node.raft.CommitIndex() }
func (n *Replica) IsRaftLeader() bool  { return n.node.raft.State() == raft.Leader }

// Await calls start and waits for the raft future that it returns, until the context ends: futures may never be resolved once raft
// is shut down.
func (n *Replica) Await(ctx context.Context, start func() raft.Future) error {
	return n.node.await(ctx, start)
}

// Barrier waits until everything that was committed before has been applied here. It fails on other masters than the leader.
func (n *Replica) Barrier(ctx context.Context) error { return n.node.barrier(ctx) }

// Detached returns how long this master has not heard from a leader; 0 on the leader. If it has never heard from one, since counts.
func (n *Replica) Detached(since time.Time) time.Duration {
	if n.leaders.current().Self {
		return 0
	}
	if last := n.node.raft.LastContact(); last.After(since) {
		since = last
	}
	return time.Since(since)
}

// Halted is closed when this master stops applying entries, because a command of the log is newer than the program.
func (n *Replica) Halted() <-chan struct{} { return n.node.halted }
