package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kontiki/kontiki/cluster/pki"
)

// liveIdentity is the identity that a master uses now. Readers take it where they need it, and never keep it.
type liveIdentity struct {
	ClusterID string // never changes
	ttl       time.Duration
	state     atomic.Pointer[identityState]
	mu        sync.Mutex // of set
}

// identityState is one generation in use.
type identityState struct {
	*Identity
	roots   *x509.CertPool
	changed chan struct{}
}

// newLiveIdentity begins with an identity; certificates that it issues live as long as ttl says (0 is pki.DefaultTTL).
func newLiveIdentity(id *Identity, ttl time.Duration) *liveIdentity {
	live := &liveIdentity{ClusterID: id.ClusterID, ttl: ttl}
	live.set(id)
	return live
}

func (l *liveIdentity) set(id *Identity) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.state.Swap(&identityState{Identity: id, roots: id.Roots(), changed: make(chan struct{})})
	if before != nil {
		close(before.changed)
	}
}

func (l *liveIdentity) now() *identityState   { return l.state.Load() }
func (l *liveIdentity) roots() *x509.CertPool { return l.state.Load().roots }

// issuer is the CA that issues now.
func (l *liveIdentity) issuer() *pki.Authority { return l.now().CA.WithLifetime(l.ttl) }

// certificates issues a certificate when it is first asked for, and again at two thirds of its life, when the CA
// changes, and when everybody is to renew.
type certificates struct {
	identity *liveIdentity
	issue    func(ca *pki.Authority) (*pki.KeyPair, error)

	mu         sync.Mutex
	current    *tls.Certificate
	generation uint64 // of the identity that current was looked at with
	renewals   uint64
	issuer     string
	renewAt    time.Time
}

// newCertificates are a master's own: every master holds the CA, so that it needs nobody to get one.
func newCertificates(live *liveIdentity, name string, hosts []string) *certificates {
	return &certificates{identity: live, issue: func(ca *pki.Authority) (*pki.KeyPair, error) {
		return ca.IssueMaster(name, hosts)
	}}
}

// get answers the certificate that is to be used now, with the CA behind it.
func (c *certificates) get() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.identity.now()
	pin := id.CA.Pin()
	fresh := c.current != nil && time.Now().Before(c.renewAt) && c.issuer == pin && c.renewals == id.Renewals
	if fresh && c.generation == id.Generation {
		return c.current, nil
	}
	cert := c.current
	if !fresh {
		pair, err := c.issue(id.CA.WithLifetime(c.identity.ttl))
		if err != nil {
			return nil, err
		}
		issued, err := pair.TLS()
		if err != nil {
			return nil, fmt.Errorf("use a certificate just issued: %w", err)
		}
		cert = &issued
	}
	shown := *cert
	shown.Certificate = append([][]byte{cert.Certificate[0]}, id.chain()...)
	c.current, c.renewAt = &shown, pki.RenewAt(shown.Leaf)
	c.generation, c.renewals, c.issuer = id.Generation, id.Renewals, pin
	return c.current, nil
}

// APICertificate is the certificate to serve the API with, for Config.APIHosts and this master's own name and
// addresses. It is renewed in time: call it from tls.Config.GetCertificate.
func (c *Cluster) APICertificate() (*tls.Certificate, error) { return c.apiCertificates.get() }

// AgentClientCertificate is the certificate to call the workers' kubelet ports with; ask for it for every connection.
func (c *Cluster) AgentClientCertificate() (*tls.Certificate, error) {
	return c.agentClientCertificates.get()
}

// certificateLifetime is how long certificates live that this master issues.
func (c *Cluster) certificateLifetime() time.Duration {
	if c.identity.ttl > 0 {
		return c.identity.ttl
	}
	return pki.DefaultTTL
}

// Roots are the CAs that certificates of the cluster are under now; ask for them for every connection.
func (c *Cluster) Roots() *x509.CertPool { return c.identity.roots() }

// Issuer is the CA that issues now, with the lifetime that certificates of this cluster have.
func (c *Cluster) Issuer() *pki.Authority { return c.identity.issuer() }

// IdentityChanged is closed when Identity has changed; take it before asking for that.
func (c *Cluster) IdentityChanged() <-chan struct{} { return c.identity.now().changed }
