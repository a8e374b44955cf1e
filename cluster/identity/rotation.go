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
	"time"

	"github.com/kontiki/kontiki/cluster/pki"
)

// Changes of an identity go by steps: what is new is introduced (everybody trusts it, nobody uses it), used once every
// host has the introduction, and what is old is dropped. So no host ever meets what it does not know. Each step is a
// new generation; the functions here make it and change nothing of the old one.

// Steps of a change of gossip keys.
const (
	gossipIntroduced = "introduced" // keys are old, new
	gossipSwitched   = "switched"   // keys are new, old
)

var (
	// ErrRotating says that a change of the kind is not finished yet.
	ErrRotating = errors.New("a rotation is under way")
	// ErrNotRotated says that there is nothing to finish.
	ErrNotRotated = errors.New("no rotation is under way")
	// ErrNotMoved says that a host has not followed the last change.
	ErrNotMoved = errors.New("not everybody has followed")
)

// next is a copy of the next generation.
func (id *Identity) next() *Identity {
	changed := *id
	changed.Generation++
	changed.GossipKeys = slices.Clone(id.GossipKeys)
	changed.SecretKeys = maps.Clone(id.SecretKeys)
	changed.PastPins = slices.Clone(id.PastPins)
	return &changed
}

// Renewed tells everybody to renew.
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

// WithoutPreviousCA ends the trust in the CA before the present one.
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
		return nil, fmt.Errorf("%w: the gossip key before this one is still in use", ErrRotating)
	}
	key, err := randomKey()
	if err != nil {
		return nil, err
	}
	changed := id.next()
	changed.GossipKeys, changed.GossipStep = append(changed.GossipKeys[:1], key), gossipIntroduced
	return changed, nil
}

// WithNextSecretKey introduces a key that seals Secrets.
func (id *Identity) WithNextSecretKey() (*Identity, error) {
	if id.NextSecretKey != "" {
		return nil, fmt.Errorf("%w: not every master knows the secret key before this one", ErrRotating)
	}
	key, err := randomKey()
	if err != nil {
		return nil, err
	}
	changed := id.next()
	name := "key-" + time.Now().UTC().Format("20060102-150405")
	if _, ok := changed.SecretKeys[name]; ok {
		name = fmt.Sprintf("%s-%d", name, changed.Generation)
	}
	changed.SecretKeys[name], changed.NextSecretKey = key, name
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

// WithoutPreviousTokenKey voids the tokens that the key before the present one signed.
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

// OtherTokenKeys are the keys, beside ServiceAccountKey, whose tokens hold.
func (id *Identity) OtherTokenKeys() (keys []crypto.Signer) {
	for _, key := range []crypto.Signer{id.NextTokenKey, id.PreviousTokenKey} {
		if key != nil {
			keys = append(keys, key)
		}
	}
	return keys
}

// Advanced takes every change that is under way one step further. It may be called once every host has this generation;
// false says that nothing waits for that.
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
		changed.CurrentSecretKey, changed.NextSecretKey, moved = id.NextSecretKey, "", true
	}
	if id.NextTokenKey != nil {
		changed.ServiceAccountKey, changed.PreviousTokenKey, changed.NextTokenKey, moved = id.NextTokenKey, id.ServiceAccountKey, nil, true
	}
	return changed, moved
}

// trusted are the CAs that certificates are accepted from.
func (id *Identity) trusted() []*pki.Authority {
	var cas []*pki.Authority
	for _, ca := range []*pki.Authority{id.CA, id.NextCA, id.PreviousCA} {
		if ca != nil {
			cas = append(cas, ca)
		}
	}
	return cas
}

// Roots are the CAs that certificates are accepted from.
func (id *Identity) Roots() *x509.CertPool {
	pool := x509.NewCertPool()
	for _, ca := range id.trusted() {
		pool.AddCert(ca.Certificate())
	}
	return pool
}

// RootsPEM is Roots as a bundle.
func (id *Identity) RootsPEM() []byte {
	var bundle bytes.Buffer
	for _, ca := range id.trusted() {
		bundle.Write(ca.CertPEM())
	}
	return bundle.Bytes()
}

// Accepts says whether a join token's pin is that of a CA that is trusted.
func (id *Identity) Accepts(pin string) bool {
	return slices.ContainsFunc(id.trusted(), func(ca *pki.Authority) bool { return ca.Pin() == pin })
}

// Owns says whether a pin is or was that of this cluster.
func (id *Identity) Owns(pin string) bool {
	return id.Accepts(pin) || slices.Contains(id.PastPins, pin)
}

// chain is what is shown behind a certificate of CA: hosts look for the CA that their token pins, and who trusts only
// the CA before finds the way from it.
func (id *Identity) chain() [][]byte {
	chain := [][]byte{id.CA.Certificate().Raw}
	if id.PreviousCA != nil {
		chain = append(chain, id.CrossCA, id.PreviousCA.Certificate().Raw)
	}
	return chain
}

func randomKey() ([]byte, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return nil, fmt.Errorf("generate a key: %w", err)
	}
	return key, nil
}
