package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/raftfix"
	"github.com/kontiki/kontiki/internal/kv"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// readBound bounds one round of asking for a read index.
const readBound = 5 * time.Second

var errNotLeader = errors.New("this master does not lead")

// Consistent answers a view that shows every write that was acknowledged, by any master, before the call. It costs a
// round among the masters that all concurrent callers share. Errors: kv.ErrNoLeader when no quorum answered before the
// context's end (Timings.Propose where it has no deadline).
func (c *Cluster) Consistent(ctx context.Context) (kv.View, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	var last error
	for {
		lead := c.leaders.current()
		var index uint64
		err := errors.New("no leader is known")
		switch {
		case lead.self:
			index, err = c.ownIndex.do(ctx)
		case lead.name != "":
			index, err = c.leaderIndex.do(ctx)
		}
		if err == nil {
			err = c.store.WaitIndex(ctx, index)
		}
		if err == nil {
			return c.store.View(), nil
		}
		if ctx.Err() == nil || last == nil {
			last = err
		}
		if !lead.pause(ctx, retryPause) {
			return nil, fmt.Errorf("consistent read: %w (%w; last attempt: %v)", kv.ErrNoLeader, context.Cause(ctx), last)
		}
	}
}

// askLeader is one round of a follower: the index that its readers must wait for.
func (c *Cluster) askLeader() (uint64, error) {
	lead := c.leaders.current()
	if lead.name == "" {
		return 0, errors.New("no leader is known")
	}
	ctx, cancel := lead.attempt(c.life, readBound)
	defer cancel()
	if lead.self {
		return c.ownIndex.do(ctx)
	}
	conn, err := c.peers.Line(lead.address)
	if err != nil {
		return 0, err
	}
	response, err := clusterv1.NewClusterServiceClient(conn).ReadIndex(ctx, &clusterv1.ReadIndexRequest{})
	if err != nil {
		return 0, fmt.Errorf("ask the leader %s for a read index: %w", lead.name, err)
	}
	return response.Index, nil
}

// verifyIndex is one round of a leader. The last command that it has applied covers every acknowledged write: writes of
// its own term are acknowledged once they are applied here, and the barrier at the term's start has brought in those of
// earlier terms. What is left to show is that no later term had begun when it was asked, which is so if a quorum still follows
// (verifier), and if the term is the same afterwards.
func (c *Cluster) verifyIndex() (uint64, error) {
	lead := c.leaders.current()
	ctx, cancel := lead.attempt(c.life, readBound)
	defer cancel()
	term, err := c.waitReady(ctx)
	if err != nil {
		return 0, err
	}
	index := c.store.AppliedIndex()
	if err := c.replica.verify(ctx, term); err != nil {
		if errors.Is(err, raftfix.ErrNotFollowed) {
			err = fmt.Errorf("%w: %w", errNotLeader, err)
		}
		return 0, fmt.Errorf("verify leadership: %w", err)
	}
	if c.replica.raft.CurrentTerm() != term {
		return 0, errNotLeader
	}
	return index, nil
}

// waitReady waits until this master, if it leads, has passed the barrier of its term, and answers the term.
func (c *Cluster) waitReady(ctx context.Context) (uint64, error) {
	for {
		lead := c.leaders.current()
		if c.replica.raft.State() != raft.Leader {
			return 0, errNotLeader
		}
		term := c.replica.raft.CurrentTerm()
		if c.readyTerm.Load() == term {
			return term, nil
		}
		if !lead.pause(ctx, time.Second) {
			return 0, ctx.Err()
		}
	}
}

// View is this master's state now; it may lag behind the leader's.
func (c *Cluster) View() kv.View { return c.store.View() }

// Watch reads this master's history: see kv.Reader.
func (c *Cluster) Watch(prefix string, after uint64) (kv.Watcher, error) {
	return c.store.Watch(prefix, after)
}
