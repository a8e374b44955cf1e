package identity

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// WrappedKey is the seed of a key that encrypts Secrets, encrypted by a KMS plugin.
type WrappedKey struct {
	// Provider is the plugin's name in the masters' configuration; KeyID is the plugin's own key, which it named when it encrypted the seed.
	Provider string `json:"provider"`
	KeyID    string `json:"keyID"`
	Sealed   []byte `json:"sealed"`
	// Annotations are the plugin's, for decryption.
	Annotations map[string][]byte `json:"annotations,omitempty"`
}

// SealingKey returns the name of the key that encrypts Secrets.
func (id *Identity) SealingKey() string { return cmp.Or(id.CurrentWrappedKey, id.CurrentSecretKey) }

// NextSealingKey returns the name of the key that will encrypt Secrets once every master has it, or "".
func (id *Identity) NextSealingKey() string { return cmp.Or(id.NextWrappedKey, id.NextSecretKey) }

// WithNextSecretKey introduces a key that encrypts Secrets: the wrapped one, if it is not nil.
func (id *Identity) WithNextSecretKey(wrapped *WrappedKey) (*Identity, error) {
	if id.NextSecretKey != "" {
		return nil, fmt.Errorf("%w: not every master has the previous secret key", ErrRotating)
	}
	key, err := randomKey()
	if err != nil {
		return nil, err
	}
	changed := id.next()
	at := time.Now().UTC().Format("20060102-150405")
	changed.NextSecretKey = newName(changed.SecretKeys, "key-"+at, changed.Generation)
	changed.SecretKeys[changed.NextSecretKey] = key
	if wrapped != nil {
		changed.NextWrappedKey = newName(changed.WrappedKeys, "kms-"+at, changed.Generation)
		if changed.WrappedKeys == nil {
			changed.WrappedKeys = map[string]WrappedKey{}
		}
		changed.WrappedKeys[changed.NextWrappedKey] = *wrapped
	}
	return changed, nil
}

func newName[V any](keys map[string]V, name string, generation uint64) string {
	if _, ok := keys[name]; ok {
		return fmt.Sprintf("%s-%d", name, generation)
	}
	return name
}

// useNextSecretKey makes the next keys the present ones. If there is no next wrapped key, Secrets are encrypted without a plugin from now on.
func (id *Identity) useNextSecretKey() {
	id.CurrentSecretKey, id.CurrentWrappedKey = id.NextSecretKey, id.NextWrappedKey
	id.NextSecretKey, id.NextWrappedKey = "", ""
}

// OldSecretKeys returns the names of the keys that only decrypt, in order.
func (id *Identity) OldSecretKeys() []string {
	var old []string
	for name := range maps.Keys(id.SecretKeys) {
		if name != id.CurrentSecretKey && name != id.NextSecretKey {
			old = append(old, name)
		}
	}
	for name := range maps.Keys(id.WrappedKeys) {
		if name != id.CurrentWrappedKey && name != id.NextWrappedKey {
			old = append(old, name)
		}
	}
	slices.Sort(old)
	return old
}

// WithoutSecretKeys drops keys of OldSecretKeys.
func (id *Identity) WithoutSecretKeys(names []string) (*Identity, error) {
	changed, old := id.next(), id.OldSecretKeys()
	for _, name := range names {
		if !slices.Contains(old, name) {
			return nil, fmt.Errorf("the key %q is in use", name)
		}
		delete(changed.SecretKeys, name)
		delete(changed.WrappedKeys, name)
	}
	return changed, nil
}

// KeyMaterial returns all keys of Secrets by name, wrapped ones as the plugin encrypted them, for fingerprints.
func (id *Identity) KeyMaterial() map[string][]byte {
	material := maps.Clone(id.SecretKeys)
	for name, key := range id.WrappedKeys {
		material[name] = key.Sealed
	}
	return material
}
