package authn

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/recent"
)

// Times of fetching an issuer's keys.
const (
	// KeyInterval is how long nothing is fetched again, whatever tokens ask for, and how long after a failure.
	KeyInterval = 10 * time.Second
	// keyRefresh is after which time keys are fetched again, so that those that the issuer has withdrawn end.
	keyRefresh = time.Hour
)

// keySet has the public keys of an issuer. It implements oidc.KeySet.
type keySet struct {
	fetch    func(context.Context) ([]jose.JSONWebKey, error)
	fetched  func(error) // is told of every fetch
	interval time.Duration
	asked    chan struct{}

	mu      sync.Mutex
	known   *keyring      // nil before the first fetch that succeeded
	err     error         // of the last fetch
	due     time.Time     // when a token may ask for the next fetch
	changed chan struct{} // closed after the next fetch
}

// keyring are the keys of one fetch.
type keyring struct {
	keys []jose.JSONWebKey
	// verified are the payloads of tokens that these keys have signed, by the tokens' digests: a client sends its token with every
	// request, and a signature costs more to verify than all that is checked again each time.
	verified recent.Cache[[sha256.Size]byte, []byte]
}

// Limits of a generation of verified tokens of an issuer together and of one, in bytes.
const (
	maxTokenBytes    = 2 << 20
	maxOneTokenBytes = 16 << 10
)

func newKeySet(fetch func(context.Context) ([]jose.JSONWebKey, error), fetched func(error), interval time.Duration) *keySet {
	return &keySet{
		fetch: fetch, fetched: fetched, interval: interval, asked: make(chan struct{}, 1), changed: make(chan struct{}),
		err: errors.New("not initialized"),
	}
}

// run fetches keys until the context ends: at once, when tokens ask for it, and from time to time.
func (k *keySet) run(ctx context.Context) {
	for {
		var keys []jose.JSONWebKey
		err := contain.Run(func() (err error) {
			keys, err = k.fetch(ctx)
			return err
		})
		if ctx.Err() != nil {
			return
		}
		k.publish(keys, err)
		k.fetched(err)
		pause := time.NewTimer(k.interval)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return
		}
		if err != nil {
			continue
		}
		refresh := time.NewTimer(keyRefresh)
		select {
		case <-k.asked:
		case <-refresh.C:
		case <-ctx.Done():
		}
		refresh.Stop()
		if ctx.Err() != nil {
			return
		}
	}
}

func (k *keySet) publish(keys []jose.JSONWebKey, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if err == nil {
		k.known = &keyring{keys: keys}
		k.known.verified.Limit = maxTokenBytes
	}
	k.err, k.due = err, time.Now().Add(k.interval)
	close(k.changed)
	k.changed = make(chan struct{})
	select {
	case <-k.asked: // whoever asked before this fetch has the answer
	default:
	}
}

// health returns why there are no keys, or nil.
func (k *keySet) health() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known != nil {
		return nil
	}
	return k.err
}

// wait returns when there are keys, or the error of the last attempt when the context ends.
func (k *keySet) wait(ctx context.Context) error {
	for {
		k.mu.Lock()
		loaded, changed, err := k.known != nil, k.changed, k.err
		k.mu.Unlock()
		if loaded {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return err
		}
	}
}

// VerifySignature implements oidc.KeySet.
func (k *keySet) VerifySignature(ctx context.Context, token string) ([]byte, error) {
	known, next := k.now()
	payload, candidate, err := known.verify(token)
	if err != nil {
		return nil, err
	}
	if payload == nil && !candidate && next != nil {
		select {
		case k.asked <- struct{}{}:
		default: // somebody else has asked
		}
		select {
		case <-next:
			known, _ = k.now()
			payload, _, err = known.verify(token)
		case <-ctx.Done():
		}
	}
	if payload == nil && err == nil {
		err = errors.New("failed to verify id token signature")
	}
	return payload, err
}

// now returns the keys, and what is closed after the next fetch if a token may ask for one.
func (k *keySet) now() (known *keyring, next <-chan struct{}) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known != nil && k.err == nil && !time.Now().Before(k.due) {
		next = k.changed
	}
	return k.known, next
}

var signatureAlgorithms = func() (all []jose.SignatureAlgorithm) {
	for _, name := range Algorithms {
		all = append(all, jose.SignatureAlgorithm(name))
	}
	return all
}()

// verify returns the payload of a token that one of the keys has signed, or nil. candidate says that a key has the ID that the token
// names.
func (r *keyring) verify(token string) (payload []byte, candidate bool, err error) {
	if r == nil {
		return nil, false, nil
	}
	digest := sha256.Sum256([]byte(token))
	if payload, ok := r.verified.Get(digest); ok {
		return payload, true, nil
	}
	signed, err := jose.ParseSignedCompact(token, signatureAlgorithms)
	if err != nil {
		return nil, false, fmt.Errorf("malformed jwt: %w", err)
	}
	id := signed.Signatures[0].Header.KeyID
	for i := range r.keys {
		if id != "" && r.keys[i].KeyID != id {
			continue
		}
		candidate = candidate || id != ""
		if payload, err := signed.Verify(&r.keys[i]); err == nil {
			if len(token) <= maxOneTokenBytes {
				r.verified.Put(digest, payload, len(token))
			}
			return payload, true, nil
		}
	}
	return nil, candidate, nil
}
