package identity

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/kontiki/kontiki/cluster/pki"
)

// An identity changes in steps: a new key is introduced (all hosts trust it, none uses it), it is used once every host knows it,
// and then the old key is dropped. So no host ever meets a key that it does not know. Each step is a new generation; the functions
// here create it and do not change the old one.

// Steps of a rotation of gossip keys.
const (
	gossipIntroduced = "introduced" // keys are old, new
	gossipSwitched   = "switched"   // keys are new, old
)

var (
	// ErrRotating means that the previous rotation of this kind is not finished yet.
	ErrRotating = errors.New("a rotation is under way")
	// ErrNotRotated means that no rotation is in progress that could be finished.
	ErrNotRotated = errors.New("no rotation is under way")
	// ErrNotMoved means that a host has not taken over the last change.
	ErrNotMoved = errors.New("not every host has followed")
)

// next returns a copy with the next generation.
func (id *Identity) next() *Identity {
	changed := *id
	changed.Generation++
	changed.GossipKeys = slices.Clone(id.GossipKeys)
	changed.SecretKeys = maps.Clone(id.SecretKeys)
	changed.WrappedKeys = maps.Clone(id.WrappedKeys)
	changed.PastPins = slices.Clone(id.PastPins)
	return &changed
}

// Renewed returns an identity that makes all hosts renew their certificates.
func (id *Identity) Renewed() *Identity {
	changed := id.next()
	changed.Renewals++
	return changed
}

// WithNextCA introduces a CA.
func (id *Identity) WithNextCA() (*Identity, error) {
	if id.NextCA != nil || id.PreviousCA != nil {
		return nil, fmt.Errorf("%w: finish it first with `kontiki cluster certs rotate-ca --finish`", ErrRotating)
	}
	changed := id.next()
	ca, err := pki.NewAuthority(fmt.Sprintf("kontiki-ca-%s-%d", id.ClusterID, changed.Generation))
	if err != nil {
		return nil, err
	}
	if changed.CrossCA, err = id.CA.CrossSign(ca); err != nil {
		return nil, err
	}
	changed.NextCA = ca
	return changed, nil
}

// WithoutPreviousCA ends the trust in the previous CA.
func (id *Identity) WithoutPreviousCA() (*Identity, error) {
	switch {
	case id.NextCA != nil:
		return nil, fmt.Errorf("%w: the new CA does not issue yet", ErrNotMoved)
	case id.PreviousCA == nil:
		return nil, fmt.Errorf("%w: begin one with `kontiki cluster certs rotate-ca`", ErrNotRotated)
	}
	changed := id.next()
	changed.PastPins = append(changed.PastPins, id.PreviousCA.Pin())
	changed.PreviousCA, changed.CrossCA = nil, nil
	return changed, nil
}

// WithNextGossipKey introduces a gossip key.
func (id *Identity) WithNextGossipKey() (*Identity, error) {
	if id.GossipStep != "" {
		return nil, fmt.Errorf("%w: the previous gossip key is still in use", ErrRotating)
	}
	key, err := randomKey()
	if err != nil {
		return nil, err
	}
	changed := id.next()
	changed.GossipKeys, changed.GossipStep = append(changed.GossipKeys[:1], key), gossipIntroduced
	return changed, nil
}

// WithNextTokenKey introduces a key that signs service account tokens.
func (id *Identity) WithNextTokenKey() (*Identity, error) {
	if id.NextTokenKey != nil || id.PreviousTokenKey != nil {
		return nil, fmt.Errorf("%w: finish it first with `kontiki cluster certs rotate-token-key --finish`", ErrRotating)
	}
	key, err := newTokenKey()
	if err != nil {
		return nil, err
	}
	changed := id.next()
	changed.NextTokenKey = key
	return changed, nil
}

// WithoutPreviousTokenKey invalidates the tokens that the previous key signed.
func (id *Identity) WithoutPreviousTokenKey() (*Identity, error) {
	switch {
	case id.NextTokenKey != nil:
		return nil, fmt.Errorf("%w: the new key does not sign yet", ErrNotMoved)
	case id.PreviousTokenKey == nil:
		return nil, fmt.Errorf("%w: begin one with `kontiki cluster certs rotate-token-key`", ErrNotRotated)
	}
	changed := id.next()
	changed.PreviousTokenKey = nil
	return changed, nil
}

// OtherTokenKeys returns the keys, beside ServiceAccountKey, whose tokens are valid.
func (id *Identity) OtherTokenKeys() (keys []crypto.Signer) {
	for _, key := range []crypto.Signer{id.NextTokenKey, id.PreviousTokenKey} {
		if key != nil {
			keys = append(keys, key)
		}
	}
	return keys
}

// Advanced takes every rotation that is in progress one step further. Call it once every host has this generation. It returns false
// if no rotation is waiting for that.
func (id *Identity) Advanced() (*Identity, bool) {
	changed, moved := id.next(), false
	if id.NextCA != nil {
		changed.CA, changed.PreviousCA, changed.NextCA, moved = id.NextCA, id.CA, nil, true
	}
	switch id.GossipStep {
	case gossipIntroduced:
		slices.Reverse(changed.GossipKeys)
		changed.GossipStep, moved = gossipSwitched, true
	case gossipSwitched:
		changed.GossipKeys, changed.GossipStep, moved = changed.GossipKeys[:1], "", true
	}
	if id.NextSecretKey != "" {
		changed.useNextSecretKey()
		moved = true
	}
	if id.NextTokenKey != nil {
		changed.ServiceAccountKey, changed.PreviousTokenKey, changed.NextTokenKey, moved = id.NextTokenKey, id.ServiceAccountKey, nil, true
	}
	return changed, moved
}

// trusted returns the CAs whose certificates are accepted.
func (id *Identity) trusted() []*pki.Authority {
	var cas []*pki.Authority
	for _, ca := range []*pki.Authority{id.CA, id.NextCA, id.PreviousCA} {
		if ca != nil {
			cas = append(cas, ca)
		}
	}
	return cas
}

// Roots returns the CAs whose certificates are accepted.
func (id *Identity) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, ca := range id.trusted() {
		pool.AddCert(ca.Certificate())
	}
	return pool
}

// ClientRoots returns the CAs whose client certificates the API accepts: those of Roots, and theirs for API clients.
func (id *Identity) ClientRoots() *x509.CertPool {
	pool := id.Roots()
	for _, ca := range id.trusted() {
		pool.AddCert(ca.Clients().Certificate())
	}
	return pool
}

// RootsPEM returns Roots as a PEM bundle.
func (id *Identity) RootsPEM() []byte {
	var bundle bytes.Buffer
	for _, ca := range id.trusted() {
		bundle.Write(ca.CertPEM())
	}
	return bundle.Bytes()
}

// ClientRootsPEM returns ClientRoots as a PEM bundle.
func (id *Identity) ClientRootsPEM() []byte {
	bundle := bytes.NewBuffer(id.RootsPEM())
	for _, ca := range id.trusted() {
		bundle.Write(ca.Clients().CertPEM())
	}
	return bundle.Bytes()
}

// FrontProxyRootsPEM returns the CAs of the front proxy's certificates as a PEM bundle.
func (id *Identity) FrontProxyRootsPEM() []byte {
	var bundle bytes.Buffer
	for _, ca := range id.trusted() {
		bundle.Write(ca.FrontProxy().CertPEM())
	}
	return bundle.Bytes()
}

// Accepts says whether a join token's pin is that of a trusted CA.
func (id *Identity) Accepts(pin string) bool {
	return slices.ContainsFunc(id.trusted(), func(ca *pki.Authority) bool { return ca.Pin() == pin })
}

// Owns says whether a pin is or was that of a CA of this cluster.
func (id *Identity) Owns(pin string) bool {
	return id.Accepts(pin) || slices.Contains(id.PastPins, pin)
}

// chain returns the certificates that are sent after a certificate issued by CA: hosts that join look for the CA that their token
// pins, and clients that trust only the previous CA verify through the cross-signed certificate. That one precedes the self-signed
// certificate of the same CA, because clients such as OpenSSL take the first issuer that fits and try no other.
func (id *Identity) chain() [][]byte {
	current := id.CA.Certificate().Raw
	if id.PreviousCA == nil {
		return [][]byte{current}
	}
	return [][]byte{id.CrossCA, id.PreviousCA.Certificate().Raw, current}
}

func randomKey() ([]byte, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("generate a key: %w", err)
	}
	return key, nil
}
