package dev

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/kontiki/kontiki/cluster/identity"
)

// identityReview is the interval at which the supervisor checks whether the cluster's keys have changed.
const identityReview = 2 * time.Second

// apiURL returns the URL of the API for this machine.
func (s *Supervisor) apiURL() string {
	return "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(s.state.APIPort))
}

// followIdentity writes the kubeconfig again whenever the masters have a newer identity on disk: after a rotation of the CA the
// previous one would be useless.
func (s *Supervisor) followIdentity(ctx context.Context) error {
	ticker := time.NewTicker(identityReview)
	defer ticker.Stop()
	seen := map[string]time.Time{}
	var newest uint64
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		for _, h := range s.state.of(master) {
			dir := s.state.hostDir(h)
			info, err := os.Stat(filepath.Join(dir, "identity.json"))
			if err != nil || info.ModTime().Equal(seen[dir]) {
				continue
			}
			seen[dir] = info.ModTime()
			id, err := identity.Load(dir)
			if err != nil || id.Generation <= newest {
				continue // it is being replaced, or is older than another master's
			}
			if err := s.options.WriteKubeconfig(s.state.Kubeconfig(), s.apiURL(), id.CA, id.RootsPEM()); err != nil {
				s.log.Warn("the kubeconfig could not be written", "error", err)
				continue
			}
			newest = id.Generation
		}
	}
}

func (s *Supervisor) writeKubeconfig() error {
	id, err := identity.Load(s.state.hostDir(s.state.of(master)[0]))
	if err != nil {
		return err
	}
	return s.options.WriteKubeconfig(s.state.Kubeconfig(), s.apiURL(), id.CA, id.RootsPEM())
}
