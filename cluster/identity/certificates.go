package identity

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/kontiki/kontiki/cluster/pki"
)

// Live provides the identity that a master uses now. Callers get it where they need it, and never keep it.
type Live struct {
	ClusterID string // never changes
	ttl       time.Duration
	state     atomic.Pointer[identityState]
	mu        sync.Mutex // guards set
}

// identityState is one generation of the identity, and the values derived from it.
type identityState struct {
	*Identity
	roots, clientRoots *x509.CertPool
	Changed            chan struct{}
}

// NewLive returns a Live with an identity; certificates that it issues are valid for ttl (0 means pki.DefaultTTL).
func NewLive(id *Identity, ttl time.Duration) *Live {
	live := &Live{ClusterID: id.ClusterID, ttl: ttl}
	live.Set(id)
	return live
}

func (l *Live) Set(id *Identity) {
	l.mu.Lock()
	defer l.mu.Unlock()
	before := l.state.Swap(&identityState{Identity: id, roots: id.Roots(), clientRoots: id.ClientRoots(), Changed: make(chan struct{})})
	if before != nil {
		close(before.Changed)
	}
}

func (l *Live) Now() *identityState   { return l.state.Load() }
func (l *Live) Roots() *x509.CertPool { return l.state.Load().roots }

// ClientRoots returns Identity.ClientRoots.
func (l *Live) ClientRoots() *x509.CertPool { return l.state.Load().clientRoots }

// Issuer returns the CA that issues certificates now.
func (l *Live) Issuer() *pki.Authority { return l.Now().CA.WithLifetime(l.ttl) }

// Lifetime returns how long certificates that are issued now are valid.
func (l *Live) Lifetime() time.Duration {
	if l.ttl > 0 {
		return l.ttl
	}
	return pki.DefaultTTL
}

// Certificates issues a certificate when it is first requested, and again at two thirds of its lifetime, when the CA changes, and
// when an administrator has asked all hosts to renew.
type Certificates struct {
	Live  *Live
	Issue func(ca *pki.Authority) (*pki.KeyPair, error)

	mu         sync.Mutex
	current    *tls.Certificate
	generation uint64 // of the identity for which current was last checked
	renewals   uint64
	issuer     string
	renewAt    time.Time
}

// NewCertificates issues a master's own certificates: every master has the CA's key, so it needs no other master for that.
func NewCertificates(live *Live, name string, hosts []string) *Certificates {
	return &Certificates{Live: live, Issue: func(ca *pki.Authority) (*pki.KeyPair, error) {
		return ca.IssueMaster(name, hosts)
	}}
}

// Get returns the certificate to use now, followed by the CA's.
func (c *Certificates) Get() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	id := c.Live.Now()
	pin := id.CA.Pin()
	fresh := c.current != nil && time.Now().Before(c.renewAt) && c.issuer == pin && c.renewals == id.Renewals
	if fresh && c.generation == id.Generation {
		return c.current, nil
	}
	cert := c.current
	if !fresh {
		pair, err := c.Issue(id.CA.WithLifetime(c.Live.ttl))
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
