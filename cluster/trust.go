package cluster

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/kontiki/kontiki/cluster/identity"
	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/internal/broadcast"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/pause"
	"github.com/kontiki/kontiki/internal/random"
)

const (
	// rotationPoll is how often the leader looks whether everybody has followed, while a rotation is under way.
	rotationPoll = 500 * time.Millisecond
	// saveAgain is the pause after a new identity could not be written to disk.
	saveAgain = time.Second
)

// Keys of what the store says about trust, beside the sealed identity itself: whether workers gossip, and which certificates of a worker
// are refused.
const (
	gossipKey     = identity.Key + "/gossip"
	revokedPrefix = identity.Key + "/revoked/"
)

// trust is what the store says about trust beside the identity.
type trust struct {
	mu      sync.Mutex
	changed broadcast.Signal
	// mastersGossip says that masters alone take part in gossip.
	mastersGossip bool
	// revoked is, by worker, which of its certificates are refused.
	revoked map[string]revocation
}

// revocation says which certificates of a worker are refused: those that were issued when its certificates had been revoked less often. A
// count and not a time, because the clocks of the masters that issue certificates differ.
type revocation struct {
	Count uint64    `json:"count"`
	Since time.Time `json:"since"` // when it was revoked last, for people
}

// revocationOf reads what the state says of a worker; zero for nothing.
func revocationOf(v kv.View, worker string) (r revocation, revision uint64) {
	version, ok := v.Get(revokedPrefix + worker)
	if !ok {
		return revocation{}, 0
	}
	return parseRevocation(version.Value), version.ModRevision
}

// parseRevocation reads a value of the store. An earlier version stored a time: certificates that were issued until then are of count 0, as are
// those that the worker got since, so that its host has to join once more.
func parseRevocation(value []byte) revocation {
	var r revocation
	if err := json.Unmarshal(value, &r); err == nil && r.Count > 0 {
		return r
	}
	since, _ := time.Parse(time.RFC3339, string(value))
	return revocation{Count: 1, Since: since}
}

func (r revocation) check(peer pki.Peer) error {
	if peer.Revocations >= r.Count {
		return nil
	}
	return fmt.Errorf("the certificates that the worker %q got before %s are revoked; let the host join again with a token", peer.Name, r.Since.Format(time.RFC3339))
}

func (s *trust) get() (workersGossip bool, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !s.mastersGossip, s.changed.Next()
}

func (s *trust) set(mastersGossip bool, revoked map[string]revocation) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mastersGossip, s.revoked = mastersGossip, revoked
	s.changed.Tell()
}

// admit implements port.admit: it refuses what was revoked.
func (c *Cluster) admit(peer pki.Peer) error {
	if peer.Role != pki.RoleWorker {
		return nil
	}
	c.trust.mu.Lock()
	revoked := c.trust.revoked[peer.Name]
	c.trust.mu.Unlock()
	return revoked.check(peer)
}

// Admits says why a certificate that is otherwise good is refused: it was revoked. Certificates of others than workers are
// not revoked.
func (c *Cluster) Admits(cert *x509.Certificate) error {
	peer, err := pki.ParsePeer(cert)
	if err != nil {
		return nil // an API client's
	}
	return c.admit(peer)
}

// followIdentity takes over what the store says about trust, as it is replicated.
func (c *Cluster) followIdentity(ctx context.Context) error {
	for ctx.Err() == nil {
		view := c.store.View()
		if !c.takeTrust(ctx, view) {
			continue
		}
		watcher, err := c.store.Watch(identity.Key, view.Revision())
		if err != nil {
			continue // the view is too old by now
		}
		for err == nil {
			var events []*kv.Event
			if events, _, err = watcher.Next(ctx); len(events) > 0 && err == nil {
				if !c.takeTrust(ctx, c.store.View()) {
					break
				}
			}
		}
		watcher.Close()
	}
	return nil
}

// takeTrust takes over what a view says; false asks for another try.
func (c *Cluster) takeTrust(ctx context.Context, view kv.View) bool {
	if v, ok := view.Get(identity.Key); ok {
		id, err := c.identity.Now().Open(v.Value)
		switch {
		case err != nil:
			c.log.Error("this master cannot follow the change of the cluster's identity; remove it from the cluster, and its data, and let it join again", "error", err)
		case id != nil:
			if err := c.adopt(id); err != nil {
				c.log.Error("the cluster's new identity could not be kept, trying again", "generation", id.Generation, "error", err)
				pause.For(ctx, saveAgain)
				return false
			}
		}
	}
	mastersGossip := false
	if v, ok := view.Get(gossipKey); ok {
		mastersGossip = string(v.Value) == gossipMastersOnly
	}
	revoked := map[string]revocation{}
	view.Range(revokedPrefix, kv.PrefixEnd(revokedPrefix), func(v *kv.Version) bool {
		revoked[strings.TrimPrefix(v.Key, revokedPrefix)] = parseRevocation(v.Value)
		return true
	})
	c.trust.set(mastersGossip, revoked)
	c.port.Recheck()
	return true
}

// adopt uses an identity from now on: once it is on disk, since a master that forgot it could not come back.
func (c *Cluster) adopt(id *identity.Identity) error {
	if err := id.Save(c.cfg.DataDir); err != nil {
		return err
	}
	c.identity.Set(id)
	if err := c.gossip.SetKeys(id.GossipKeys); err != nil {
		return err
	}
	c.log.Info("the cluster's identity has changed", "generation", id.Generation)
	return nil
}

// changeIdentity proposes, on the leader, the next generation, and waits until this master uses it. A change is made only
// when every master has the present generation: so each of them can open the next.
func (c *Cluster) changeIdentity(ctx context.Context, change func(*identity.Identity) (*identity.Identity, error)) (uint64, error) {
	if err := c.identityChange.Take(ctx); err != nil {
		return 0, err
	}
	defer c.identityChange.Leave()
	view, err := c.Consistent(ctx)
	if err != nil {
		return 0, err
	}
	op := kv.Op{Key: identity.Key, Cond: kv.Absent}
	if v, ok := view.Get(identity.Key); ok {
		var stored identity.Sealed
		if err := json.Unmarshal(v.Value, &stored); err != nil {
			return 0, fmt.Errorf("read the replicated identity: %w", err)
		}
		if err := c.waitGeneration(ctx, stored.Generation); err != nil {
			return 0, err
		}
		op.Cond, op.Revision = kv.AtRevision, v.ModRevision
	}
	present := c.identity.Now().Identity
	if behind := c.mastersBehind(ctx, present.Generation); len(behind) > 0 {
		return 0, fmt.Errorf("%w: %s", identity.ErrNotMoved, strings.Join(behind, ", "))
	}
	next, err := change(present)
	if err != nil {
		return 0, err
	}
	if op.Value, err = next.SealFor(present); err != nil {
		return 0, err
	}
	result, err := c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{op}})
	if err != nil {
		return 0, fmt.Errorf("change the cluster's identity: %w", err)
	}
	if result.Failed != nil {
		return 0, fmt.Errorf("change the cluster's identity: another change came first, try again: %w", result.Failed)
	}
	return next.Generation, c.waitGeneration(ctx, next.Generation)
}

// waitGeneration waits until this master uses a generation.
func (c *Cluster) waitGeneration(ctx context.Context, generation uint64) error {
	ctx, cancel := c.consensus.Bounded(ctx)
	defer cancel()
	for {
		id := c.identity.Now()
		if id.Generation >= generation {
			return nil
		}
		select {
		case <-id.Changed:
		case <-ctx.Done():
			return fmt.Errorf("this master does not get the cluster's identity of generation %d, see its log: %w", generation, context.Cause(ctx))
		}
	}
}

// advanceRotations is the duty of the leader that takes rotations from step to step.
func (c *Cluster) advanceRotations(ctx context.Context) error {
	for ctx.Err() == nil {
		id := c.identity.Now()
		if _, pending := id.Advanced(); !pending {
			select {
			case <-id.Changed:
			case <-ctx.Done():
			}
			continue
		}
		if behind := c.behind(ctx, id.Generation); len(behind) == 0 {
			generation, err := c.changeIdentity(ctx, func(present *identity.Identity) (*identity.Identity, error) {
				if next, pending := present.Advanced(); pending && present.Generation == id.Generation {
					return next, nil
				}
				return nil, errors.New("it has changed meanwhile")
			})
			if err == nil {
				c.log.Info("a rotation has gone on: everybody has the last step", "generation", generation)
				continue
			}
			c.log.Info("a rotation does not go on yet", "error", err)
		}
		pause.For(ctx, rotationPoll)
	}
	return nil
}

// RevokeWorker refuses the certificates that a worker got before now, on every master and at once; the host may join
// again with a token.
func (c *Cluster) RevokeWorker(ctx context.Context, name string) error {
	if err := join.CheckName(name); err != nil {
		return err
	}
	for {
		view, err := c.Consistent(ctx)
		if err != nil {
			return fmt.Errorf("revoke the certificates of the worker %s: %w", name, err)
		}
		now, revision := revocationOf(view, name)
		value, err := json.Marshal(revocation{Count: now.Count + 1, Since: time.Now().UTC().Truncate(time.Second)})
		if err != nil {
			return err
		}
		result, err := c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: []kv.Op{{Key: revokedPrefix + name, Value: value, Cond: kv.AtOrAbsent(revision), Revision: revision}}})
		if err != nil {
			return fmt.Errorf("revoke the certificates of the worker %s: %w", name, err)
		}
		if result.Failed == nil {
			return nil
		}
	}
}

// APICertificate is the certificate to serve the API with, for Config.APIHosts and this master's own name and
// addresses. It is renewed in time: call it from tls.Config.GetCertificate.
func (c *Cluster) APICertificate() (*tls.Certificate, error) { return c.apiCertificates.Get() }

// AgentClientCertificate is the certificate to call the workers' kubelet ports with; ask for it for every connection.
func (c *Cluster) AgentClientCertificate() (*tls.Certificate, error) {
	return c.agentClientCertificates.Get()
}

// Roots are the CAs that certificates of the cluster are under now; ask for them for every connection.
func (c *Cluster) Roots() *x509.CertPool { return c.identity.Roots() }

// Issuer is the CA that issues now, with the lifetime that certificates of this cluster have.
func (c *Cluster) Issuer() *pki.Authority { return c.identity.Issuer() }

// IdentityChanged is closed when Identity has changed; take it before asking for that.
func (c *Cluster) IdentityChanged() <-chan struct{} { return c.identity.Now().Changed }
