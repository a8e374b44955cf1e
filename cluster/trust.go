package cluster

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
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
	// rotationPoll is how often the leader checks, while a rotation is in progress, whether every host has completed the present step.
	rotationPoll = 500 * time.Millisecond
	// followBound is how long a change of the identity waits for masters that have not adopted the one before it yet.
	followBound = 5 * time.Second
	// saveAgain is the pause after a new identity could not be written to disk.
	saveAgain = time.Second
)

// Keys in the store below the sealed identity: whether workers gossip, and which certificates of each worker are revoked.
const (
	gossipKey     = identity.Key + "/gossip"
	revokedPrefix = identity.Key + "/revoked/"
)

// trust is a copy of those keys, as this master has applied them.
type trust struct {
	mu      sync.Mutex
	changed broadcast.Signal
	// mastersGossip is true if only masters take part in gossip.
	mastersGossip bool
	// revoked has the revocation of each worker, by name.
	revoked map[string]revocation
}

// revocation revokes those certificates of a worker that carry a smaller count: a certificate carries how often its worker's certificates
// had been revoked when it was issued. It is a count and not a time, because the clocks of the masters that issue certificates differ.
type revocation struct {
	Count uint64    `json:"count"`
	Since time.Time `json:"since"` // time of the last revocation, for display
}

// revocationOf returns the revocation of a worker in a view, and the revision of its key; zero values if there is none.
func revocationOf(v kv.View, worker string) (r revocation, revision uint64) {
	version, ok := v.Get(revokedPrefix + worker)
	if !ok {
		return revocation{}, 0
	}
	return parseRevocation(version.Value), version.ModRevision
}

// parseRevocation decodes a stored revocation. An earlier version stored a time instead: it counts as one revocation, and since all
// certificates of that version carry count 0, also those issued later, the worker's host must join once more.
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
	return fmt.Errorf("the certificates that the worker %q got before %s are revoked; join that host again with a token", peer.Name, r.Since.Format(time.RFC3339))
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

// admit is called by the mTLS port for each peer. It refuses revoked certificates.
func (c *Cluster) admit(peer pki.Peer) error {
	if peer.Role != pki.RoleWorker {
		return nil
	}
	c.trust.mu.Lock()
	revoked := c.trust.revoked[peer.Name]
	c.trust.mu.Unlock()
	return revoked.check(peer)
}

// Admits returns an error if a certificate, which the caller has verified, is revoked. Only certificates of workers can be.
func (c *Cluster) Admits(cert *x509.Certificate) error {
	peer, err := pki.ParsePeer(cert)
	if err != nil {
		return nil // the certificate of an API client
	}
	return c.admit(peer)
}

// followIdentity applies changes of the identity and of trust as they are replicated, until the context ends.
func (c *Cluster) followIdentity(ctx context.Context) error {
	for ctx.Err() == nil {
		view := c.store.View()
		if !c.takeTrust(ctx, view) {
			continue
		}
		watcher, err := c.store.Watch(identity.Key, view.Revision())
		if err != nil {
			continue // the view has become too old for a watch
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

// takeTrust applies the identity and the trust of a view. It returns false if the identity could not be saved: call it again.
func (c *Cluster) takeTrust(ctx context.Context, view kv.View) bool {
	if v, ok := view.Get(identity.Key); ok {
		id, err := c.identity.Now().Open(v.Value)
		switch {
		case err != nil:
			c.log.Error("this master cannot follow the change of the cluster's identity; remove it from the cluster, delete its data, and join it again", "error", err)
		case id != nil:
			if err := c.adopt(id); err != nil {
				c.log.Error("the cluster's new identity could not be saved, trying again", "generation", id.Generation, "error", err)
				pause.For(ctx, saveAgain)
				return false
			}
		}
	}
	c.compactRetired(view)
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

// adopt saves an identity and then uses it. It is saved first, since a master that lost it in a crash could not rejoin the cluster.
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

// changeIdentity proposes the next generation on the leader, and waits until this master uses it. It requires that every master has the
// present generation, because the next one is sealed under the present one's key.
func (c *Cluster) changeIdentity(ctx context.Context, change func(*identity.Identity) (*identity.Identity, error)) (uint64, error) {
	return c.changeIdentityIf(ctx, change)
}

// changeIdentityIf is changeIdentity with further operations in the same command, such as conditions.
func (c *Cluster) changeIdentityIf(ctx context.Context, change func(*identity.Identity) (*identity.Identity, error), further ...kv.Op) (uint64, error) {
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
	if err := c.awaitMasters(ctx, present.Generation); err != nil {
		return 0, err
	}
	next, err := change(present)
	if err != nil {
		return 0, err
	}
	if op.Value, err = next.SealFor(present); err != nil {
		return 0, err
	}
	result, err := c.Propose(ctx, &kv.Command{ID: random.CommandID(), Ops: append([]kv.Op{op}, further...)})
	if err != nil {
		return 0, fmt.Errorf("change the cluster's identity: %w", err)
	}
	if result.Failed != nil {
		return 0, fmt.Errorf("change the cluster's identity: another change was made at the same time, try again: %w", result.Failed)
	}
	return next.Generation, c.waitGeneration(ctx, next.Generation)
}

// awaitMasters waits until every master has a generation. It waits for followBound at most, and not for masters that do not respond.
// Errors: identity.ErrNotMoved.
func (c *Cluster) awaitMasters(ctx context.Context, generation uint64) error {
	for deadline := time.Now().Add(followBound); ; {
		masters := c.everyMaster(ctx)
		behind := mastersBehind(masters, generation)
		if len(behind) == 0 {
			return nil
		}
		away := slices.ContainsFunc(masters, func(m MasterCertificates) bool { return !m.Reachable })
		if away || time.Now().After(deadline) || !pause.For(ctx, rotationPoll/10) {
			return fmt.Errorf("%w: %s", identity.ErrNotMoved, strings.Join(behind, ", "))
		}
	}
}

// waitGeneration waits until this master uses a generation or a later one.
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
			return fmt.Errorf("this master has not received generation %d of the cluster's identity, see its log: %w", generation, context.Cause(ctx))
		}
	}
}

// advanceRotations is the leader's duty that moves rotations from step to step.
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
		behind := c.behind(ctx, id.Generation)
		if next := id.NextSealingKey(); next != "" && len(behind) == 0 {
			behind = append(behind, unusable(c.everyMastersKeys(ctx), next)...)
		}
		if len(behind) == 0 {
			generation, err := c.changeIdentity(ctx, func(present *identity.Identity) (*identity.Identity, error) {
				if next, pending := present.Advanced(); pending && present.Generation == id.Generation {
					return next, nil
				}
				return nil, errors.New("the identity has changed meanwhile")
			})
			if err == nil {
				c.log.Info("a rotation has moved to its next step", "generation", generation)
				continue
			}
			c.log.Info("a rotation cannot move to its next step yet", "error", err)
		}
		pause.For(ctx, rotationPoll)
	}
	return nil
}

// RevokeWorker revokes all certificates that were issued to a worker so far: every master that has applied this refuses them. The host can
// join again with a token.
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

// APICertificate returns the certificate that serves the API, for Config.APIHosts and this master's own name and address. It is renewed
// before it expires: call APICertificate for each connection, from tls.Config.GetCertificate.
func (c *Cluster) APICertificate() (*tls.Certificate, error) { return c.apiCertificates.Get() }

// AgentClientCertificate returns the client certificate for calls to the workers' kubelet ports; call it for each connection.
func (c *Cluster) AgentClientCertificate() (*tls.Certificate, error) {
	return c.agentClientCertificates.Get()
}

// Roots returns the CAs that are trusted at present; call it for each connection.
func (c *Cluster) Roots() *x509.CertPool { return c.identity.Roots() }

// ClientRoots returns the CAs of the API's clients that are trusted at present: those of Roots, and the CA of SignClient.
func (c *Cluster) ClientRoots() *x509.CertPool { return c.identity.ClientRoots() }

// SignClient signs what a user of the API requested, as pki.Authority.SignClient does. Only the API accepts the certificate.
func (c *Cluster) SignClient(template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	view := c.store.View()
	return c.identity.Now().CA.Clients().SignClient(template, public, func(worker string) uint64 {
		revoked, _ := revocationOf(view, worker)
		return revoked.Count
	})
}

// Issuer returns the CA that issues certificates at present, with their lifetime.
func (c *Cluster) Issuer() *pki.Authority { return c.identity.Issuer() }

// IdentityChanged returns a channel that is closed when Identity has changed; call it before Identity.
func (c *Cluster) IdentityChanged() <-chan struct{} { return c.identity.Now().Changed }
