package kms

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/kontiki/kontiki/internal/broadcast"
)

// Keyring decrypts the keys of a cluster with the configured plugins. It is safe for concurrent use.
type Keyring struct {
	plugins []*plugin
	log     *slog.Logger
	// healthy and unhealthy are how often plugins are asked for their status.
	healthy, unhealthy time.Duration
	wanted             chan struct{} // poked when Use has set other keys
	changed            broadcast.Signal

	mu      sync.Mutex
	wrapped map[string]Wrapped
	keys    map[string][]byte
	failed  map[string]error
	status  map[string]Status // by the plugin's name
}

// Status is what is known of a plugin.
type Status struct {
	Provider, KeyID string
	Err             error // nil if it is healthy
}

var errNotAsked = errors.New("it has not answered yet")

// New returns the keyring for plugins; the first one encrypts. Without plugins, every wrapped key is unusable.
func New(configs []Config, log *slog.Logger) (*Keyring, error) {
	k := &Keyring{log: log, healthy: pollHealthy, unhealthy: pollUnhealthy, wanted: make(chan struct{}, 1), wrapped: map[string]Wrapped{}, keys: map[string][]byte{}, failed: map[string]error{}, status: map[string]Status{}}
	for _, c := range configs {
		p, err := newPlugin(c)
		if err != nil {
			return nil, errors.Join(err, k.Close())
		}
		k.plugins = append(k.plugins, p)
		k.status[c.Name] = Status{Provider: c.Name, Err: errNotAsked}
	}
	return k, nil
}

// Close closes the connections to the plugins.
func (k *Keyring) Close() error {
	var errs []error
	for _, p := range k.plugins {
		errs = append(errs, p.conn.Close())
	}
	return errors.Join(errs...)
}

// Use sets the keys of the cluster. It does not wait for plugins: Changed tells when they have decrypted further keys.
func (k *Keyring) Use(wrapped map[string]Wrapped) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.wrapped = maps.Clone(wrapped)
	for name := range k.keys {
		if _, ok := wrapped[name]; !ok {
			delete(k.keys, name)
		}
	}
	for name := range k.failed {
		if _, ok := wrapped[name]; !ok {
			delete(k.failed, name)
		}
	}
	for name, w := range wrapped {
		switch {
		case k.keys[name] != nil || k.failed[name] != nil:
		case k.plugin(w.Provider) == nil:
			k.failed[name] = fmt.Errorf("no KMS provider %q is configured here", w.Provider)
		default:
			k.failed[name] = errNotAsked
		}
	}
	broadcast.Poke(k.wanted)
}

// Keys returns the keys that can be used, and why the others cannot, by name.
func (k *Keyring) Keys() (usable map[string][]byte, unusable map[string]error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.keys), maps.Clone(k.failed)
}

// Changed returns a channel that is closed when Keys has changed by the work of Run.
func (k *Keyring) Changed() <-chan struct{} { return k.changed.Next() }

// Encrypts returns the status of the plugin that encrypts; ok is false if none is configured.
func (k *Keyring) Encrypts() (s Status, ok bool) {
	if len(k.plugins) == 0 {
		return s, false
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.status[k.plugins[0].config.Name], true
}

// Wrap creates a key that the first plugin encrypts; nil if none is configured.
func (k *Keyring) Wrap(ctx context.Context) (*Wrapped, error) {
	if len(k.plugins) == 0 {
		return nil, nil
	}
	w, err := k.plugins[0].wrap(ctx)
	if err != nil {
		return nil, fmt.Errorf("KMS provider %s: %w", k.plugins[0].config.Name, err)
	}
	return w, nil
}

// Ready returns an error if a plugin is not healthy, or a key cannot be used.
func (k *Keyring) Ready(context.Context) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	var errs []error
	for _, p := range k.plugins {
		if err := k.status[p.config.Name].Err; err != nil {
			errs = append(errs, fmt.Errorf("KMS provider %s: %w", p.config.Name, err))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(k.failed)) {
		errs = append(errs, fmt.Errorf("the key %s cannot be used: %w", name, k.failed[name]))
	}
	return errors.Join(errs...)
}

func (k *Keyring) plugin(name string) *plugin {
	for _, p := range k.plugins {
		if p.config.Name == name {
			return p
		}
	}
	return nil
}

// Run asks the plugins for their status and decrypts keys, until the context ends.
func (k *Keyring) Run(ctx context.Context) error {
	for {
		changed := k.decrypt(ctx)
		healthy := k.poll(ctx)
		if changed {
			k.changed.Tell()
		}
		wait := k.healthy
		if _, failed := k.Keys(); !healthy || k.retries(failed) {
			wait = k.unhealthy
		}
		timer := time.NewTimer(wait)
		select {
		case <-timer.C:
		case <-k.wanted:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// retries says whether one of the keys that failed may be decrypted later.
func (k *Keyring) retries(failed map[string]error) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name := range failed {
		if k.plugin(k.wrapped[name].Provider) != nil {
			return true
		}
	}
	return false
}

// poll asks all plugins for their status.
func (k *Keyring) poll(ctx context.Context) (healthy bool) {
	healthy = true
	for _, p := range k.plugins {
		keyID, err := p.status(ctx)
		if ctx.Err() != nil {
			return healthy
		}
		k.mu.Lock()
		before := k.status[p.config.Name]
		k.status[p.config.Name] = Status{Provider: p.config.Name, KeyID: keyID, Err: err}
		k.mu.Unlock()
		healthy = healthy && err == nil
		switch {
		case err != nil && before.Err == nil:
			k.log.Warn("a KMS plugin is not healthy", "provider", p.config.Name, "error", err)
		case err == nil && before.Err != nil && !errors.Is(before.Err, errNotAsked):
			k.log.Info("a KMS plugin is healthy again", "provider", p.config.Name)
		case err == nil && before.KeyID != "" && before.KeyID != keyID:
			k.log.Info("a KMS plugin uses another key", "provider", p.config.Name, "before", clip(before.KeyID), "now", clip(keyID))
		}
	}
	return healthy
}

// decrypt tries every key that is not decrypted, once, and returns whether one was, or fails for another reason than before.
func (k *Keyring) decrypt(ctx context.Context) (some bool) {
	k.mu.Lock()
	todo := map[string]Wrapped{}
	for name, w := range k.wrapped {
		if k.keys[name] == nil {
			todo[name] = w
		}
	}
	k.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(todo)) {
		w := todo[name]
		p := k.plugin(w.Provider)
		if p == nil {
			continue
		}
		seed, err := p.unwrap(ctx, &w)
		if ctx.Err() != nil {
			return some
		}
		var key []byte
		if err == nil {
			key, err = derive(seed, name)
		}
		k.mu.Lock()
		switch _, still := k.wrapped[name]; {
		case !still:
		case err != nil:
			err = fmt.Errorf("KMS provider %s: %w", w.Provider, err)
			if before := k.failed[name]; before == nil || before.Error() != err.Error() {
				some = true
			}
			k.failed[name] = err
		default:
			k.keys[name] = key
			delete(k.failed, name)
			some = true
		}
		k.mu.Unlock()
	}
	return some
}
