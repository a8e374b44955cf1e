package cluster

import (
	"context"

	"github.com/kontiki/kontiki/internal/kv"
)

// Propose replicates a command and returns its result; any master may propose. See consensus.Replica.Propose.
func (c *Cluster) Propose(ctx context.Context, cmd *kv.Command) (kv.Result, error) {
	return c.consensus.Propose(ctx, cmd)
}

// Consistent returns a view that shows every write that was acknowledged, by any master, before the call. See consensus.Replica.Consistent.
func (c *Cluster) Consistent(ctx context.Context) (kv.View, error) {
	return c.consensus.Consistent(ctx)
}

// View is this master's state now; it may lag behind the leader's.
func (c *Cluster) View() kv.View { return c.store.View() }

// Watch reads this master's history: see kv.Reader.
func (c *Cluster) Watch(prefix string, after uint64) (kv.Watcher, error) {
	return c.store.Watch(prefix, after)
}

// IsLeader says whether this master believes to lead, and has passed the barrier of its term.
func (c *Cluster) IsLeader() bool { return c.consensus.IsLeader() }

// Leader is the name and mTLS address of who leads, as far as this master knows; empty for nobody.
func (c *Cluster) Leader() (name, address string) { return c.consensus.Leader() }

// FeatureLevel is the cluster's level, as this master's state has it.
func (c *Cluster) FeatureLevel() int { return c.consensus.FeatureLevel() }

// AddDuty registers work for the leader; it may be called at any time. See consensus.Replica.AddDuty.
func (c *Cluster) AddDuty(name string, run func(ctx context.Context) error) {
	c.consensus.AddDuty(name, run)
}
