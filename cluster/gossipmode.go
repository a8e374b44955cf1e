package cluster

import (
	"context"
	"fmt"
	"time"

	"github.com/kontiki/kontiki/internal/kv"
)

// Who takes part in gossip. Gossip costs every member the more, the more there are: in a large cluster only masters
// gossip, and workers are judged by their sessions alone. The leader decides, and what it decided is replicated: masters
// tell it to workers, and judge these by it.
const (
	gossipAll         = "all"
	gossipMastersOnly = "masters"
	gossipAuto        = "auto"

	// defaultGossipLimit is up to how many workers gossip: above it, memberlist's exchanges of the full state weigh more
	// than what they are good for. They gossip again when there are a quarter fewer.
	defaultGossipLimit = 2000
	gossipReview       = 30 * time.Second
)

// CheckGossipMode says whether a mode is one.
func CheckGossipMode(mode string) error {
	switch mode {
	case "", gossipAll, gossipMastersOnly, gossipAuto:
		return nil
	}
	return fmt.Errorf("gossip mode %q: use all, masters or auto", mode)
}

// WorkersGossip says whether workers take part in gossip.
func (c *Cluster) WorkersGossip() bool {
	gossip, _ := c.settings.get()
	return gossip
}

// wantedGossip is who should gossip with a number of workers, where the present mode is given.
func (cfg *Config) wantedGossip(present string, workers int) string {
	if cfg.GossipMode != "" && cfg.GossipMode != gossipAuto {
		return cfg.GossipMode
	}
	limit := cfg.GossipLimit
	if limit == 0 {
		limit = defaultGossipLimit
	}
	switch {
	case workers > limit:
		return gossipMastersOnly
	case workers <= limit*3/4:
		return gossipAll
	}
	return present
}

// chooseGossip is the duty of the leader that decides who gossips.
func (c *Cluster) chooseGossip(ctx context.Context) error {
	review := gossipReview
	if c.cfg.Timings.Gossip == GossipLocal {
		review /= 100
	}
	ticker := time.NewTicker(review)
	defer ticker.Stop()
	for {
		present := gossipAll
		if !c.WorkersGossip() {
			present = gossipMastersOnly
		}
		if wanted := c.cfg.wantedGossip(present, c.countWorkers(ctx)); wanted != present && ctx.Err() == nil {
			c.log.Info("changing who takes part in gossip", "now", wanted)
			_, err := c.Propose(ctx, &kv.Command{ID: NewCommandID(), Ops: []kv.Op{{Key: gossipKey, Value: []byte(wanted)}}})
			if err != nil && ctx.Err() == nil {
				c.log.Warn("who takes part in gossip could not be changed", "error", err)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func (c *Cluster) countWorkers(ctx context.Context) int {
	if known := c.knownWorkers.Load(); known != nil {
		return len((*known)())
	}
	count := 0
	for _, w := range workersOf(c.everyMaster(ctx)) {
		if w.Master != "" {
			count++
		}
	}
	return count
}
