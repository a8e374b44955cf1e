package cluster

import (
	"context"
	"fmt"

	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
)

// The gossip modes. The cost of gossip grows for every member with the number of members: memberlist exchanges its full state with another
// member every 30 s. Above about 2,000 workers only masters should gossip, and masters then judge workers by their sessions. The leader
// stores its own mode in the state; masters send that to workers and act on it.
const (
	gossipAll         = "all"
	gossipMastersOnly = "masters"
)

// CheckGossipMode returns an error if mode is no gossip mode.
func CheckGossipMode(mode string) error {
	switch mode {
	case "", gossipAll, gossipMastersOnly:
		return nil
	}
	return fmt.Errorf("gossip mode %q: use all or masters", mode)
}

// WorkersGossip reports whether workers take part in gossip.
func (c *Cluster) WorkersGossip() bool {
	gossip, _ := c.trust.get()
	return gossip
}

// recordGossipMode is the leader's duty that stores its gossip mode if the state has another one.
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
			c.log.Info("the gossip mode has changed", "mode", wanted)
			return nil
		}
		c.log.Warn("the gossip mode could not be changed, trying again", "error", err)
		changed.Pause(ctx, featurePause)
	}
	return nil
}
