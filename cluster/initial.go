package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/internal/kv"
)

// maxSeeds is how many gossip addresses are remembered.
const maxSeeds = 16

// initialTokens are the files that the first master leaves its first tokens in.
var initialTokens = map[pki.Role]string{
	pki.RoleMaster: "token-master",
	pki.RoleWorker: "token-worker",
}

// writeInitialTokens chooses the first tokens. They are written before they are stored, so that a crash between the two
// is made good at the next start.
func writeInitialTokens(dir string, identity *Identity) error {
	for role, file := range initialTokens {
		path := filepath.Join(dir, file)
		if data, err := os.ReadFile(path); err == nil {
			if t, err := parseToken(string(data)); err == nil && identity.accepts(t.pin) {
				continue
			}
		}
		t, err := newToken(identity.CA, role)
		if err != nil {
			return err
		}
		if err := durable.WriteFile(path, []byte(t.String()+"\n"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// storeInitialTokens makes the first tokens valid.
func (c *Cluster) storeInitialTokens(ctx context.Context) error {
	for _, file := range initialTokens {
		data, err := os.ReadFile(filepath.Join(c.cfg.DataDir, file))
		if err != nil {
			return fmt.Errorf("read the initial token: %w", err)
		}
		t, err := parseToken(string(data))
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for {
			// A token that is there already was stored before a crash.
			_, err = c.storeToken(ctx, t.stored(0, "made when the cluster was started"))
			if err == nil {
				break
			}
			if ctx.Err() != nil || !(errors.Is(err, kv.ErrNoLeader) || errors.Is(err, kv.ErrOutcomeUnknown)) {
				return err
			}
		}
	}
	return nil
}

// InitialTokens are the join tokens that the first master made, for masters and for workers; fs.ErrNotExist on the
// other masters. They do not expire, but can be revoked.
func (c *Cluster) InitialTokens() (master, worker string, err error) {
	texts := map[pki.Role]string{}
	for role, file := range initialTokens {
		data, err := os.ReadFile(filepath.Join(c.cfg.DataDir, file))
		if errors.Is(err, fs.ErrNotExist) {
			return "", "", fmt.Errorf("this master did not start the cluster: %w", err)
		}
		if err != nil {
			return "", "", err
		}
		texts[role] = strings.TrimSpace(string(data))
	}
	return texts[pki.RoleMaster], texts[pki.RoleWorker], nil
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
