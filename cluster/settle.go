package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kontiki/kontiki/cluster/consensus"
	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/internal/failpoint"
)

// settle loads this master's identity and membership. In an empty data directory it joins a cluster or starts one, as configured.
func settle(ctx context.Context, cfg *Config, address string) (*identity.Identity, *member, error) {
	dir := cfg.DataDir
	id, err := identity.Load(dir)
	if errors.Is(err, fs.ErrNotExist) {
		id, err = nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	self, err := loadMember(dir)
	if err != nil {
		return nil, nil, err
	}
	raftState := consensus.HasState(filepath.Join(dir, "raft"))
	switch {
	case id == nil && (self != nil || raftState):
		return nil, nil, fmt.Errorf("%s holds a master's data, but not its %s: restore that file, or remove the directory and join again", dir, identity.File)
	case self != nil && self.Name != cfg.Name:
		return nil, nil, fmt.Errorf("the data in %s is the master %q's, not %q's: give that name, or another directory", dir, self.Name, cfg.Name)
	case self != nil:
		if token, err := join.ParseToken(cfg.Token); err == nil && !id.Owns(token.Pin) {
			return nil, nil, fmt.Errorf("%w: it is for another cluster (%s...) than the one that %s belongs to (%s...); to move this master, remove that directory",
				errclass.ErrToken, join.ShortPin(token.Pin), dir, join.ShortPin(id.CA.Pin()))
		}
		return id, self, nil
	case len(cfg.Join) > 0:
		cfg.Logger.Info("joining a cluster", "master", cfg.Name, "by", cfg.Join)
		if id, self, err = joinMaster(ctx, cfg, address); err != nil {
			return nil, nil, err
		}
	case cfg.Bootstrap:
		if id == nil {
			if id, err = identity.New(); err != nil {
				return nil, nil, err
			}
		}
		cfg.Logger.Info("starting a new cluster", "master", cfg.Name, "cluster", id.ClusterID)
		if err := writeInitialTokens(dir, id); err != nil {
			return nil, nil, err
		}
		self = &member{Name: cfg.Name, Address: address, Bootstrap: true}
	default:
		return nil, nil, fmt.Errorf("%s is empty: start a new cluster (bootstrap), or give an address to join by and a token", dir)
	}
	if err := id.Save(dir); err != nil {
		return nil, nil, err
	}
	failpoint.Hit("cluster.join.identitySaved")
	if err := self.save(dir); err != nil {
		return nil, nil, err
	}
	failpoint.Hit("cluster.join.saved")
	return id, self, nil
}

// settleIn makes this master a member if it is none yet, and closes ready once a consistent read has succeeded.
func (c *Cluster) settleIn(ctx context.Context) error {
	self := c.memberNow()
	switch {
	case !self.Complete && self.Bootstrap:
		if err := c.storeInitialTokens(ctx); err != nil {
			return fmt.Errorf("start a new cluster: %w", err)
		}
	case !self.Complete || self.Address != c.address:
		if err := c.becomeMember(ctx); err != nil {
			return err
		}
		failpoint.Hit("cluster.join.member")
	}
	if !self.Complete || self.Address != c.address {
		if err := c.changeMember(func(m *member) { m.Complete, m.Address = true, c.address }); err != nil {
			return err
		}
	}
	for {
		if c.removed() || c.missedRemoval(ctx) {
			if err := c.comeBack(ctx); err != nil {
				return err
			}
		}
		if err := c.checkLevel(); err != nil {
			return err
		}
		attempt, cancel := context.WithTimeout(ctx, 10*c.cfg.Timings.Election)
		_, err := c.Consistent(attempt)
		cancel()
		switch {
		case err == nil:
			if err := c.checkSettings(c.cfg.Name, c.cfg.Settings.Fixed); err != nil {
				return err
			}
			c.storeAPIHosts(ctx)
			c.log.Info("this master is ready", "address", c.address, "leader", c.consensus.Leadership().Name)
			close(c.ready)
			return nil
		case ctx.Err() != nil || c.consensus.Life().Err() != nil:
			return ctx.Err()
		}
		c.log.Warn("no quorum of masters yet", "error", err)
	}
}

// refreshInterval is how often refresh runs if the masters do not change.
const refreshInterval = 15 * time.Second

// refresh stores the addresses that the next start needs, closes connections to masters that were removed, and notices if this master
// was removed itself.
func (c *Cluster) refresh(ctx context.Context) error {
	select {
	case <-c.ready:
	case <-ctx.Done():
		return nil
	}
	interval := refreshInterval
	if c.cfg.Timings.Gossip == gossip.Local {
		interval /= 50
	}
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	wasRemoved := false
	for {
		c.remember(c.gossip.AliveAddresses(), c.MasterAddresses()[1:])
		c.storeAPIHosts(ctx)
		keep := map[string]bool{}
		for _, address := range c.MasterAddresses() {
			keep[address] = true
		}
		c.consensus.Forget(keep)
		if err := c.checkLevel(); err != nil {
			return err
		}
		// An uncommitted configuration may still be replaced by an older one, so two rounds must agree.
		removed := c.removed() || c.missedRemoval(ctx)
		if removed && wasRemoved {
			if err := c.comeBack(ctx); err != nil {
				return err
			}
			removed = false
		}
		wasRemoved = removed
		select {
		case <-ticker.C:
		case <-c.reconfigured:
		case <-ctx.Done():
			return nil
		}
	}
}

// removed reports whether this master's latest configuration lacks it.
func (c *Cluster) removed() bool {
	servers := c.consensus.Servers()
	for _, s := range servers {
		if s.ID == raft.ServerID(c.cfg.Name) {
			return false
		}
	}
	return len(servers) > 0
}

// missedRemoval reports whether the leader's configuration lacks this master. It asks the other masters, and only if this one knows of
// no leader: raft tries only once to send a removed master the configuration without it.
func (c *Cluster) missedRemoval(ctx context.Context) bool {
	if c.consensus.Leadership().Name != "" {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, aliveBound)
	defer cancel()
	for _, s := range c.consensus.Servers() {
		if s.ID == raft.ServerID(c.cfg.Name) {
			continue
		}
		answer, err := c.consensus.Ask(ctx, string(s.Address))
		if err == nil && answer.Leader == answer.Name && !slices.Contains(answer.Masters, c.cfg.Name) {
			return true
		}
	}
	return false
}

// comeBack makes this master a member again if the leader removed it because it was dead. A master that a user removed is refused.
func (c *Cluster) comeBack(ctx context.Context) error {
	c.log.Warn("this master is no longer a member: it was away for long, and asks to be let in again")
	err := c.becomeMember(ctx)
	if errors.Is(err, errclass.ErrRemoved) {
		return fmt.Errorf("%w: to join again, remove %s and start with a token", err, c.cfg.DataDir)
	}
	return err
}
