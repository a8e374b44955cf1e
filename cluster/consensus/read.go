package consensus

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/raftfix"
	"github.com/kontiki/kontiki/fsm"
	"github.com/kontiki/kontiki/internal/kv"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// readBound is the time limit of one round for a read index.
const readBound = 5 * time.Second

// Consistent returns a view that includes every write that any master acknowledged before the call. It costs a round among the
// masters, which all concurrent callers share. Errors: kv.ErrNoLeader if no quorum responded before the context's end
// (Timings.Propose if it has no deadline).
func (n *Replica) Consistent(ctx context.Context) (kv.View, error) {
	ctx, cancel := n.Bounded(ctx)
	defer cancel()
	var last error
	for {
		lead := n.leaders.current()
		var index uint64
		err := errors.New("no leader is known")
		switch {
		case lead.Self:
			index, err = n.ownIndex.do(ctx)
		case lead.Name != "":
			index, err = n.leaderIndex.do(ctx)
		}
		if err == nil {
			err = n.store.WaitIndex(ctx, index)
		}
		if err == nil {
			return n.store.View(), nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if !lead.Pause(ctx, retryPause) {
			return nil, fmt.Errorf("consistent read: %w (%w; last attempt: %v)", kv.ErrNoLeader, context.Cause(ctx), last)
		}
	}
}

// askLeader is one round of a follower: it returns the index that its readers must wait for.
func (n *Replica) askLeader() (uint64, error) {
	lead := n.leaders.current()
	if lead.Name == "" {
		return 0, errors.New("no leader is known")
	}
	ctx, cancel := lead.attempt(n.life, readBound)
	defer cancel()
	if lead.Self {
		return n.ownIndex.do(ctx)
	}
	conn, err := n.peers.Line(lead.Address)
	if err != nil {
		return 0, err
	}
	response, err := clusterv1.NewClusterServiceClient(conn).ReadIndex(ctx, &clusterv1.ReadIndexRequest{})
	if err != nil {
		return 0, fmt.Errorf("ask the leader %s for a read index: %w", lead.Name, err)
	}
	return response.Index, nil
}

// verifyIndex is one round of a leader. The last command that it has applied covers every acknowledged write: writes of its own
// term are acknowledged once they are applied here, and the barrier at the term's start has brought in those of earlier terms. It
// remains to show that no later term had begun when the round began, which is true if a quorum still follows (verifier), and if the
// term is the same afterwards.
func (n *Replica) verifyIndex() (uint64, error) {
	lead := n.leaders.current()
	ctx, cancel := lead.attempt(n.life, readBound)
	defer cancel()
	term, err := n.WaitReady(ctx)
	if err != nil {
		return 0, err
	}
	index := n.store.AppliedIndex()
	if err := n.node.verify(ctx, term); err != nil {
		if errors.Is(err, raftfix.ErrNotFollowed) {
			err = fmt.Errorf("%w: %w", errclass.ErrNotLeader, err)
		}
		return 0, fmt.Errorf("verify leadership: %w", err)
	}
	if n.node.raft.CurrentTerm() != term {
		return 0, errclass.ErrNotLeader
	}
	return index, nil
}

// WaitReady waits until this master, if it leads, has passed the barrier of its term, and returns the term.
func (n *Replica) WaitReady(ctx context.Context) (uint64, error) {
	for {
		lead := n.leaders.current()
		if n.node.raft.State() != raft.Leader {
			return 0, errclass.ErrNotLeader
		}
		term := n.node.raft.CurrentTerm()
		if n.readyTerm.Load() == term {
			return term, nil
		}
		if !lead.Pause(ctx, time.Second) {
			return 0, ctx.Err()
		}
	}
}

// View returns this master's present state, which may lag behind the leader's.
func (n *Replica) View() kv.View { return n.store.View() }

// Snapshot returns this master's present state, in constant time.
func (n *Replica) Snapshot() *fsm.Snapshot { return n.store.Snapshot() }

// Watch reads this master's history: see kv.Reader.
func (n *Replica) Watch(prefix string, after uint64) (kv.Watcher, error) {
	return n.store.Watch(prefix, after)
}
