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

// identityReview is how often the supervisor looks whether the cluster's keys have changed.
const identityReview = 2 * time.Second

// apiURL is where this machine reaches the API.
func (s *Supervisor) apiURL() string {
	return "https://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(s.state.APIPort))
}

// followIdentity writes the kubeconfig anew whenever the masters have a newer identity on disk: after a rotation of the CA
// the one before would be good for nothing.
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
				continue // it is replaced at this moment, or older than another master's
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
