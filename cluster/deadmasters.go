package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/random"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// MinMasters is the number of voting masters below which dead ones are not removed: with two of three masters alive writes go on, while a
// cluster of two could tolerate no further failure.
const MinMasters = 3

// removedPrefix is the prefix of keys that note which masters a user removed, by name: they do not rejoin by themselves.
const removedPrefix = kv.OwnPrefix + "removed/"

// answer is the status of one master, and how long it took to get it; status is nil if the master did not respond.
type answer struct {
	server raft.Server
	status *clusterv1.NodeStatusResponse
	took   time.Duration
}

// askAll asks all other masters for their status at the same time. It takes at most a second.
func (c *Cluster) askAll(ctx context.Context) []answer {
	ctx, cancel := context.WithTimeout(ctx, aliveBound)
	defer cancel()
	var others []answer
	for _, s := range c.consensus.Servers() {
		if s.ID != raft.ServerID(c.cfg.Name) {
			others = append(others, answer{server: s})
		}
	}
	var wg sync.WaitGroup
	for i := range others {
		wg.Go(func() {
			begin := time.Now()
			status, err := c.consensus.Ask(ctx, string(others[i].server.Address))
			if err == nil && status.Name == string(others[i].server.ID) {
				others[i].status, others[i].took = status, time.Since(begin)
			}
		})
	}
	wg.Wait()
	return others
}

// otherMasters returns the status of those other masters that respond.
func (c *Cluster) otherMasters(ctx context.Context) (all []*clusterv1.NodeStatusResponse) {
	for _, a := range c.askAll(ctx) {
		if a.status != nil {
			all = append(all, a.status)
		}
	}
	return all
}

// removeDeadMasters is the leader's duty that removes masters that have been dead for longer than Config.DeadAfter. Gossip is only a hint:
// a master counts as dead if it does not respond either.
func (c *Cluster) removeDeadMasters(ctx context.Context) error {
	if c.cfg.DeadAfter <= 0 {
		return nil
	}
	ticker := time.NewTicker(max(min(c.cfg.DeadAfter/10, 10*time.Second), 20*time.Millisecond))
	defer ticker.Stop()
	since := map[raft.ServerID]time.Time{}
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		c.noteDead(ctx, since, time.Now())
		victim, ok := removable(c.consensus.Servers(), since, time.Now().Add(-c.cfg.DeadAfter))
		if !ok || ctx.Err() != nil {
			continue
		}
		c.log.Warn("removing a master that has been dead for long", "master", victim.ID, "address", victim.Address, "dead_for", time.Since(since[victim.ID]).Round(time.Second))
		if err := c.removeDead(ctx, victim); err != nil && ctx.Err() == nil {
			c.log.Warn("a dead master could not be removed", "master", victim.ID, "error", err)
		}
	}
}

// noteDead updates since when each master has been dead.
func (c *Cluster) noteDead(ctx context.Context, since map[raft.ServerID]time.Time, now time.Time) {
	vouched := map[string]bool{c.cfg.Name: true}
	for _, m := range c.gossip.Members() {
		if m.Role == pki.RoleMaster && m.State == gossip.Alive {
			vouched[m.Name] = true
		}
	}
	var doubtful []raft.ServerID
	for _, s := range c.consensus.Servers() {
		if vouched[string(s.ID)] {
			delete(since, s.ID)
		} else {
			doubtful = append(doubtful, s.ID)
		}
	}
	for id := range since {
		if !slices.Contains(doubtful, id) {
			delete(since, id)
		}
	}
	if len(doubtful) == 0 {
		return
	}
	for _, a := range c.askAll(ctx) {
		if !slices.Contains(doubtful, a.server.ID) {
			continue
		}
		if a.status != nil {
			delete(since, a.server.ID)
		} else if _, known := since[a.server.ID]; !known {
			since[a.server.ID] = now
		}
	}
}

// removable returns the master to remove, if any: the one that has been dead for the longest time, since before the given time. At least
// MinMasters voters must remain, and the voters that are alive must be a majority both before and after the removal.
func removable(servers []raft.Server, since map[raft.ServerID]time.Time, before time.Time) (raft.Server, bool) {
	voters, living := 0, 0
	for _, s := range servers {
		if s.Suffrage != raft.Voter {
			continue
		}
		voters++
		if _, dead := since[s.ID]; !dead {
			living++
		}
	}
	var victim raft.Server
	found := false
	for _, s := range servers {
		at, dead := since[s.ID]
		if !dead || at.After(before) {
			continue
		}
		if s.Suffrage == raft.Voter && (voters-1 < MinMasters || living <= voters/2) {
			continue
		}
		if !found || at.Before(since[victim.ID]) {
			victim, found = s, true
		}
	}
	return victim, found
}

func (c *Cluster) removeDead(ctx context.Context, victim raft.Server) error {
	if err := c.memberChange.Take(ctx); err != nil {
		return err
	}
	defer c.memberChange.Leave()
	if c.alive(ctx, string(victim.ID), string(victim.Address)) {
		return nil
	}
	return c.removeServer(ctx, victim.ID)
}

// noteRemoval stores that a user removed a master; forgetRemoval deletes this, so that a master of that name may join again.
func (c *Cluster) noteRemoval(ctx context.Context, name string) error {
	value, err := json.Marshal(struct {
		RemovedAt time.Time `json:"removedAt"`
	}{time.Now().UTC().Truncate(time.Second)})
	if err != nil {
		return err
	}
	_, err = c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: removedPrefix + name, Value: value}}})
	return err
}

func (c *Cluster) forgetRemoval(ctx context.Context, name string) error {
	if _, noted := c.store.View().Get(removedPrefix + name); !noted {
		return nil
	}
	_, err := c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: removedPrefix + name, Delete: true}}})
	return err
}

// checkRemoved returns errclass.ErrRemoved if a user removed the master of that name.
func (c *Cluster) checkRemoved(name string) error {
	if _, noted := c.store.View().Get(removedPrefix + name); noted {
		return fmt.Errorf("%w: %s", errclass.ErrRemoved, name)
	}
	return nil
}
