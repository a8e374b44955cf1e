package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kontiki/kontiki/cluster/identity"

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
func writeInitialTokens(dir string, id *identity.Identity) error {
	for role, file := range initialTokens {
		path := filepath.Join(dir, file)
		if data, err := os.ReadFile(path); err == nil {
			if t, err := parseToken(string(data)); err == nil && id.Accepts(t.pin) {
				continue
			}
		}
		t, err := newToken(id.CA, role)
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
