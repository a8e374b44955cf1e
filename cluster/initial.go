package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/internal/kv"
)

// maxSeeds is how many gossip addresses are stored.
const maxSeeds = 16

// initialTokens are the files to which the first master writes the initial tokens.
var initialTokens = map[pki.Role]string{
	pki.RoleMaster: "token-master",
	pki.RoleWorker: "token-worker",
}

// writeInitialTokens generates the initial tokens and writes their files. storeInitialTokens stores them in the state later, also after a
// crash in between.
func writeInitialTokens(dir string, id *identity.Identity) error {
	for role, file := range initialTokens {
		path := filepath.Join(dir, file)
		if data, err := os.ReadFile(path); err == nil {
			if t, err := join.ParseToken(string(data)); err == nil && id.Accepts(t.Pin) {
				continue
			}
		}
		t, err := join.NewToken(id.CA, role)
		if err != nil {
			return err
		}
		if err := durable.WriteFile(path, []byte(t.String()+"\n"), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// storeInitialTokens stores the initial tokens in the state, which makes them valid.
func (c *Cluster) storeInitialTokens(ctx context.Context) error {
	for _, file := range initialTokens {
		data, err := os.ReadFile(filepath.Join(c.cfg.DataDir, file))
		if err != nil {
			return fmt.Errorf("read the initial token: %w", err)
		}
		t, err := join.ParseToken(string(data))
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		for {
			// A token that exists already was stored before a crash.
			_, err = c.storeToken(ctx, storedOf(t, 0, "made when the cluster was started"))
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

// initialTokensStored waits until the initial tokens of a cluster that this master starts are valid: their files are there before, so hosts may
// join with them at once.
func (c *Cluster) initialTokensStored(ctx context.Context) error {
	if self := c.memberNow(); !self.Bootstrap || self.Complete {
		return nil
	}
	select {
	case <-c.ready:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the cluster is being started: %w", kv.ErrNoLeader)
	case <-c.consensus.Life().Done():
		return fmt.Errorf("this master stops: %w", kv.ErrNoLeader)
	}
}
