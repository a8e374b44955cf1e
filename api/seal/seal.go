// Package seal encrypts values before they are proposed, so that the raft log, snapshots and backups never contain them in
// plaintext.
//
// A sealed value is "kontiki:seal:v1:" + key name + ":" + 12-byte nonce + AES-256-GCM ciphertext. The storage key and the name of
// the encryption key are its associated data: a sealed value copied to another storage key cannot be decrypted.
package seal

import (
	"bytes"
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/kontiki/kontiki/internal/broadcast"
	"github.com/kontiki/kontiki/internal/sealed"
)

const prefix = sealed.Prefix

// ErrSealed is the class of errors for values that cannot be decrypted.
var ErrSealed = errors.New("seal: the value cannot be decrypted")

// ErrNoKey is the class of errors because of a key that cannot be used at present.
var ErrNoKey = errors.New("seal: a key is missing")

// Sealer encrypts with one key and decrypts with any key that it has. It is safe for concurrent use.
type Sealer struct {
	keys    atomic.Pointer[ring]
	changed broadcast.Signal
}

type ring struct {
	current string
	keys    map[string]cipher.AEAD
	// missing says why a key that exists cannot be used.
	missing map[string]error
}

// New creates a Sealer with named 32-byte keys; current names the one that encrypts.
func New(current string, keys map[string][]byte) (*Sealer, error) {
	s := new(Sealer)
	return s, s.Use(current, keys, nil)
}

// Use replaces the keys. Values encrypted with a key that is no longer among them cannot be decrypted. missing says, by name, why further
// keys cannot be used at present; the current one may be among them, and then nothing can be encrypted.
func (s *Sealer) Use(current string, keys map[string][]byte, missing map[string]error) error {
	r, err := newRing(current, keys, missing)
	if err != nil {
		return err
	}
	s.keys.Store(r)
	s.changed.Tell()
	return nil
}

// Changed returns a channel that is closed at the next change of the keys; call it before what depends on them.
func (s *Sealer) Changed() <-chan struct{} { return s.changed.Next() }

// errUnknownKey is why a key that Use was not called with cannot be used.
var errUnknownKey = errors.New("it is not in use here yet")

// Unusable returns why a key cannot be used to encrypt and decrypt at present; nil if it can.
func (s *Sealer) Unusable(name string) error {
	ring := s.keys.Load()
	if ring.keys[name] != nil {
		return nil
	}
	return cmp.Or(ring.missing[name], errUnknownKey)
}

func newRing(current string, keys map[string][]byte, missing map[string]error) (*ring, error) {
	s := &ring{current: current, keys: map[string]cipher.AEAD{}, missing: missing}
	for name, key := range keys {
		if name == "" || bytes.ContainsRune([]byte(name), ':') {
			return nil, fmt.Errorf("seal: key name %q: it must not be empty or contain a colon", name)
		}
		if len(key) != 32 {
			return nil, fmt.Errorf("seal: key %q has %d bytes instead of 32", name, len(key))
		}
		block, err := aes.NewCipher(key)
		if err != nil {
			return nil, fmt.Errorf("seal: key %q: %w", name, err)
		}
		if s.keys[name], err = cipher.NewGCM(block); err != nil {
			return nil, fmt.Errorf("seal: key %q: %w", name, err)
		}
	}
	if s.keys[current] == nil && missing[current] == nil {
		return nil, fmt.Errorf("seal: there is no key %q to seal with", current)
	}
	return s, nil
}

func associated(name, storageKey string) []byte { return []byte(name + "\x00" + storageKey) }

// Seal encrypts plain for the storage key.
func (s *Sealer) Seal(storageKey string, plain []byte) ([]byte, error) {
	ring := s.keys.Load()
	aead := ring.keys[ring.current]
	if aead == nil {
		return nil, fmt.Errorf("%w: the key %s cannot be used: %w", ErrNoKey, ring.current, ring.missing[ring.current])
	}
	out := make([]byte, 0, len(prefix)+len(ring.current)+1+aead.NonceSize()+len(plain)+aead.Overhead())
	out = append(out, prefix...)
	out = append(out, ring.current...)
	out = append(out, ':')
	nonce := out[len(out) : len(out)+aead.NonceSize()]
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return aead.Seal(out[:len(out)+len(nonce)], nonce, plain, associated(ring.current, storageKey)), nil
}

// Stale says whether a value is encrypted with another key than the current one.
func (s *Sealer) Stale(sealed []byte) bool {
	return !bytes.HasPrefix(sealed, []byte(prefix+s.keys.Load().current+":"))
}

// Open decrypts a value that was sealed for the storage key. Errors: ErrSealed.
func (s *Sealer) Open(storageKey string, sealed []byte) ([]byte, error) {
	rest, ok := bytes.CutPrefix(sealed, []byte(prefix))
	if !ok {
		return nil, fmt.Errorf("%w: it is not sealed", ErrSealed)
	}
	name, rest, ok := bytes.Cut(rest, []byte(":"))
	if !ok {
		return nil, fmt.Errorf("%w: it is damaged", ErrSealed)
	}
	ring := s.keys.Load()
	aead := ring.keys[string(name)]
	if why := ring.missing[string(name)]; aead == nil && why != nil {
		return nil, fmt.Errorf("%w: %w: the key %s cannot be used: %w", ErrSealed, ErrNoKey, name, why)
	}
	if aead == nil {
		return nil, fmt.Errorf("%w: there is no key %q here", ErrSealed, name)
	}
	if len(rest) < aead.NonceSize() {
		return nil, fmt.Errorf("%w: it is damaged", ErrSealed)
	}
	plain, err := aead.Open(nil, rest[:aead.NonceSize()], rest[aead.NonceSize():], associated(string(name), storageKey))
	if err != nil {
		return nil, fmt.Errorf("%w: it was changed, or sealed for another name", ErrSealed)
	}
	return plain, nil
}
