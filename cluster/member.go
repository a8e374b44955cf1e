package cluster

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/kontiki/kontiki/internal/durable"
)

// member is what a master stores about its membership. A master whose member is complete does not join again.
type member struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	// Bootstrap is true for the first master of a cluster. Join are the addresses of the masters that another one joins through.
	Bootstrap bool     `json:"bootstrap,omitempty"`
	Join      []string `json:"join,omitempty"`
	// Complete is true once the master has its vote (the first master: once the initial tokens are stored).
	Complete bool `json:"complete"`
	// Gossip are the gossip addresses at which to find other hosts.
	Gossip []string `json:"gossip,omitempty"`
	// Recoveries is the number of recoveries of the cluster up to when this master joined or was recovered itself.
	Recoveries uint64 `json:"recoveries,omitempty"`
	// Recovered is the lineage that a recovery of this master chose; it is empty again once the state has it.
	Recovered string `json:"recovered,omitempty"`
	// Masters are the mTLS addresses of the other masters, which this one asks if it has lost its data.
	Masters []string `json:"masters,omitempty"`
}

// membership is the member in memory and on disk. Reading it never waits for the disk.
type membership struct {
	saving sync.Mutex // one change at a time
	now    atomic.Pointer[member]
}

const memberFile = "member.json"

// loadMember returns nil if there is no such file.
func loadMember(dir string) (*member, error) {
	m, err := durable.Load[member](filepath.Join(dir, memberFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return m, err
}

func (m *member) save(dir string) error {
	return durable.Save(filepath.Join(dir, memberFile), m)
}

// remember stores other hosts' addresses for the next start: gossip addresses, and the mTLS addresses of the other masters.
func (c *Cluster) remember(seeds, masters []string) {
	now := c.memberNow()
	if seeds = seeds[:min(len(seeds), maxSeeds)]; len(seeds) == 0 {
		seeds = now.Gossip
	}
	if slices.Equal(seeds, now.Gossip) && slices.Equal(masters, now.Masters) {
		return
	}
	if err := c.changeMember(func(m *member) { m.Gossip, m.Masters = seeds, masters }); err != nil {
		c.log.Warn("could not store the other hosts' addresses", "error", err)
	}
}

// seeds returns the stored gossip addresses.
func (c *Cluster) seeds() []string { return slices.Clone(c.memberNow().Gossip) }

// memberNow returns the present member, which must not be modified.
func (c *Cluster) memberNow() member {
	return *c.member.now.Load()
}

// changeMember changes the member, on disk first.
func (c *Cluster) changeMember(change func(*member)) error {
	c.member.saving.Lock()
	defer c.member.saving.Unlock()
	changed := c.memberNow()
	change(&changed)
	if err := changed.save(c.cfg.DataDir); err != nil {
		return err
	}
	c.member.now.Store(&changed)
	return nil
}
