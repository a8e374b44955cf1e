package cluster

import (
	"context"
	"fmt"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

// Who takes part in gossip. Gossip costs every member the more, the more there are: memberlist exchanges its full state with one other member
// every 30 s. Above about 2,000 workers masters should gossip alone, and judge workers by their sessions. The leader's flag counts; the
// leader stores it, masters tell it to workers, and judge these by it.
const (
	gossipAll         = "all"
	gossipMastersOnly = "masters"
)

// CheckGossipMode says whether a mode is one.
func CheckGossipMode(mode string) error {
	switch mode {
	case "", gossipAll, gossipMastersOnly:
		return nil
	}
	return fmt.Errorf("gossip mode %q: use all or masters", mode)
}

// WorkersGossip says whether workers take part in gossip.
func (c *Cluster) WorkersGossip() bool {
	gossip, _ := c.trust.get()
	return gossip
}

// recordGossipMode is the duty of the leader that stores its mode where the state has another.
func (c *Cluster) recordGossipMode(ctx context.Context) error {
	wanted := c.cfg.GossipMode
	if wanted == "" {
		wanted = gossipAll
	}
	for ctx.Err() == nil {
		present := gossipAll
		if v, ok := c.store.View().Get(gossipKey); ok {
			present = string(v.Value)
		}
		if present == wanted {
			return nil
		}
		changed := c.consensus.Leadership()
		_, err := c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: gossipKey, Value: []byte(wanted)}}})
		if err == nil {
			c.log.Info("changed who takes part in gossip", "now", wanted)
			return nil
		}
		c.log.Warn("who takes part in gossip could not be changed, trying again", "error", err)
		changed.Pause(ctx, featurePause)
	}
	return nil
}
