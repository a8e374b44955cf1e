package auth

import (
	"crypto/sha256"
	"crypto/x509"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
)

// verified caches the users of client certificates, so that the many requests of one connection cost one verification of a
// signature. An entry is valid for the roots that it was verified with, and until the first certificate of the chain expires. The
// zero value is ready to use; safe for concurrent use.
type verified struct {
	mu    sync.Mutex
	roots *x509.CertPool
	known map[[sha256.Size]byte]identity
}

type identity struct {
	who   user.Info
	until time.Time
}

// maxVerified limits the number of entries; when it is reached, all are dropped.
const maxVerified = 4096

func (v *verified) get(roots *x509.CertPool, leaf *x509.Certificate) (user.Info, bool) {
	key := sha256.Sum256(leaf.Raw)
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.roots == nil || roots == nil || !(v.roots == roots || v.roots.Equal(roots)) {
		return nil, false
	}
	found, ok := v.known[key]
	if !ok || time.Now().After(found.until) {
		return nil, false
	}
	return found.who, true
}

func (v *verified) put(roots *x509.CertPool, chains [][]*x509.Certificate, who user.Info) {
	// If several chains are valid now, use the one that expires first, which is on the safe side.
	until := chains[0][0].NotAfter
	for _, chain := range chains {
		for _, cert := range chain {
			if cert.NotAfter.Before(until) {
				until = cert.NotAfter
			}
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.roots != roots || len(v.known) >= maxVerified {
		v.roots, v.known = roots, map[[sha256.Size]byte]identity{}
	}
	v.known[sha256.Sum256(chains[0][0].Raw)] = identity{who, until}
}
