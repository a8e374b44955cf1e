package server

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/kontiki/kontiki/api/seal"
	"github.com/kontiki/kontiki/api/seal/kms"
	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/identity"
)

// kmsConfigs reads --encryption-provider-config.
func (o *apiOptions) kmsConfigs() ([]kms.Config, error) {
	if o.encryptionConfig == "" {
		return nil, nil
	}
	data, err := os.ReadFile(o.encryptionConfig)
	if err != nil {
		return nil, fmt.Errorf("--encryption-provider-config: %w", err)
	}
	configs, err := kms.Parse(data)
	if err != nil {
		return nil, fmt.Errorf("--encryption-provider-config %s: %w", o.encryptionConfig, err)
	}
	return configs, nil
}

// kmsNames describes the configured plugins, for the comparison of the masters' settings.
func kmsNames(configs []kms.Config) string {
	var names []string
	for _, c := range configs {
		names = append(names, c.Name)
	}
	return strings.Join(names, ",")
}

// keyring has the keys that KMS plugins decrypt.
type keyring struct{ *kms.Keyring }

func newKeyring(configs []kms.Config, log *slog.Logger) (keyring, error) {
	k, err := kms.New(configs, log.With("part", "kms"))
	return keyring{k}, err
}

// clusterKeyring implements cluster.Keyring.
type clusterKeyring struct {
	keyring
	sealer *seal.Sealer // uses the keys
}

// Wrap implements cluster.Keyring.
func (k clusterKeyring) Wrap(ctx context.Context) (*identity.WrappedKey, error) {
	w, err := k.Keyring.Wrap(ctx)
	if w == nil || err != nil {
		return nil, err
	}
	return &identity.WrappedKey{Provider: w.Provider, KeyID: w.KeyID, Sealed: w.Sealed, Annotations: w.Annotations}, nil
}

// Unusable implements cluster.Keyring. It asks the Sealer, which gets the keys of a new identity a moment after the cluster has it.
func (k clusterKeyring) Unusable(key string) error { return k.sealer.Unusable(key) }

// Plugin implements cluster.Keyring.
func (k clusterKeyring) Plugin() *cluster.PluginStatus {
	s, ok := k.Encrypts()
	if !ok {
		return nil
	}
	out := &cluster.PluginStatus{Provider: s.Provider, Healthy: s.Err == nil, KeyID: s.KeyID}
	if s.Err != nil {
		out.Error = s.Err.Error()
	}
	return out
}

// useWrapped passes the cluster's wrapped keys to the keyring, which decrypts those that it can.
func (k keyring) useWrapped(id *identity.Identity) {
	wrapped := map[string]kms.Wrapped{}
	for name, w := range id.WrappedKeys {
		wrapped[name] = kms.Wrapped{Provider: w.Provider, KeyID: w.KeyID, Sealed: w.Sealed, Annotations: w.Annotations}
	}
	k.Use(wrapped)
}

// followKeyring passes keys to the API when a plugin has decrypted them.
func (m *master) followKeyring(ctx context.Context) error {
	for {
		changed := m.keyring.Changed()
		if err := m.useKeys(); err != nil {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}
