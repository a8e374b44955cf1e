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

// member is what a master remembers of itself. A master whose member is complete never joins again.
type member struct {
	Name    string `json:"name"`
	Address string `json:"address"`
	// Bootstrap says that this master is the first of its cluster; Join are the masters that it joins by otherwise.
	Bootstrap bool     `json:"bootstrap,omitempty"`
	Join      []string `json:"join,omitempty"`
	// Complete says that the master has its vote (first master: that the initial tokens are stored).
	Complete bool `json:"complete"`
	// Gossip are gossip addresses to find the other hosts by.
	Gossip []string `json:"gossip,omitempty"`
	// Recoveries is how many recoveries the cluster went through, as of when this master joined or was recovered itself.
	Recoveries uint64 `json:"recoveries,omitempty"`
	// Recovered is the lineage that a recovery of this master chose, until the state says so.
	Recovered string `json:"recovered,omitempty"`
	// Masters are the mTLS addresses of the other masters: whom to ask when this one has lost its data.
	Masters []string `json:"masters,omitempty"`
}

// membership is what a master remembers of itself, now and on disk. Reading it never waits for the disk.
type membership struct {
	saving sync.Mutex // one change at a time
	now    atomic.Pointer[member]
}

const memberFile = "member.json"

// loadMember returns nil where there is no such file.
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

// remember keeps addresses of others for the next start: gossip's, and the mTLS addresses of the other masters.
func (c *Cluster) remember(seeds, masters []string) {
	now := c.memberNow()
	if seeds = seeds[:min(len(seeds), maxSeeds)]; len(seeds) == 0 {
		seeds = now.Gossip
	}
	if slices.Equal(seeds, now.Gossip) && slices.Equal(masters, now.Masters) {
		return
	}
	if err := c.changeMember(func(m *member) { m.Gossip, m.Masters = seeds, masters }); err != nil {
		c.log.Warn("could not remember the other hosts' addresses", "error", err)
	}
}

// seeds are gossip addresses known from before.
func (c *Cluster) seeds() []string { return slices.Clone(c.memberNow().Gossip) }

// memberNow is what this master remembers of itself.
func (c *Cluster) memberNow() member {
	return *c.member.now.Load()
}

// changeMember changes what this master remembers of itself, on disk first.
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
