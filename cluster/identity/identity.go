package identity

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/internal/random"
)

const File = "identity.json"

// Identity is the CA and the keys that the masters of a cluster share. Every master stores the same one, in a file of mode 0600,
// and sends it to masters that join with a token. It is read-only; a change creates a new Identity of the next generation (see
// rotation.go).
type Identity struct {
	// ClusterID is random, chosen at bootstrap.
	ClusterID string
	// Generation grows by one with every change.
	Generation uint64
	// Renewals counts how often all hosts were asked to renew: a certificate issued under an earlier count is renewed.
	Renewals uint64
	// CA signs every certificate of the cluster. NextCA is trusted but does not issue yet; PreviousCA is trusted but no longer
	// issues. At most one of the two is set, and then also CrossCA: the newer CA's certificate signed by the older one (DER), so
	// that hosts that trust only the older one accept what the newer one issues.
	CA, NextCA, PreviousCA *pki.Authority
	CrossCA                []byte
	// PastPins are the pins of CAs that are no longer trusted: their join tokens belong to this cluster, and are invalid.
	PastPins []string
	// GossipKeys encrypt gossip: messages are encrypted with the first and decrypted with any. Each has 32 bytes. GossipStep is the
	// step of a rotation.
	GossipKeys [][]byte
	GossipStep string
	// SecretKeys encrypt the identity itself in the store, and Secrets: a map from name to 32-byte AES key. CurrentSecretKey names the
	// one that encrypts; the others decrypt what older ones encrypted. NextSecretKey becomes the current one once every master has it.
	SecretKeys       map[string][]byte
	CurrentSecretKey string
	NextSecretKey    string
	// WrappedKeys encrypt Secrets in place of SecretKeys while CurrentWrappedKey names one of them: keys that only a KMS plugin can
	// decrypt. NextWrappedKey becomes the current one together with NextSecretKey.
	WrappedKeys       map[string]WrappedKey
	CurrentWrappedKey string
	NextWrappedKey    string
	// ServiceAccountKey signs service account tokens (ECDSA P-256, JWT algorithm ES256). Tokens signed by NextTokenKey or
	// PreviousTokenKey are valid too; at most one of the two is set.
	ServiceAccountKey              crypto.Signer
	NextTokenKey, PreviousTokenKey crypto.Signer
}

// identityDocument is the JSON form. Fields may be added but never removed.
type identityDocument struct {
	Version           int               `json:"version"`
	ClusterID         string            `json:"clusterID"`
	CACertificate     []byte            `json:"caCertificate"`
	CAKey             []byte            `json:"caKey"`
	GossipKeys        [][]byte          `json:"gossipKeys"`
	SecretKeys        map[string][]byte `json:"secretKeys"`
	CurrentSecretKey  string            `json:"currentSecretKey"`
	ServiceAccountKey []byte            `json:"serviceAccountKey"`

	Generation    uint64             `json:"generation,omitempty"`
	Renewals      uint64             `json:"renewals,omitempty"`
	NextCA        *authorityDocument `json:"nextCA,omitempty"`
	PreviousCA    *authorityDocument `json:"previousCA,omitempty"`
	CrossCA       []byte             `json:"crossCA,omitempty"`
	PastPins      []string           `json:"pastPins,omitempty"`
	GossipStep    string             `json:"gossipStep,omitempty"`
	NextSecretKey string             `json:"nextSecretKey,omitempty"`

	WrappedKeys       map[string]WrappedKey `json:"wrappedKeys,omitempty"`
	CurrentWrappedKey string                `json:"currentWrappedKey,omitempty"`
	NextWrappedKey    string                `json:"nextWrappedKey,omitempty"`

	NextTokenKey     []byte `json:"nextTokenKey,omitempty"`
	PreviousTokenKey []byte `json:"previousTokenKey,omitempty"`
}

// optionalKey encodes a key that may be nil, parseOptionalKey decodes it.
func optionalKey(key crypto.Signer) ([]byte, error) {
	if key == nil {
		return nil, nil
	}
	return pki.EncodeKey(key)
}

func parseOptionalKey(keyPEM []byte) (crypto.Signer, error) {
	if len(keyPEM) == 0 {
		return nil, nil
	}
	return pki.ParseKey(keyPEM)
}

type authorityDocument struct {
	Certificate []byte `json:"certificate"`
	Key         []byte `json:"key"`
}

func documentAuthority(ca *pki.Authority) (*authorityDocument, error) {
	if ca == nil {
		return nil, nil
	}
	key, err := ca.KeyPEM()
	if err != nil {
		return nil, err
	}
	return &authorityDocument{Certificate: ca.CertPEM(), Key: key}, nil
}

func (d *authorityDocument) authority() (*pki.Authority, error) {
	if d == nil {
		return nil, nil
	}
	return pki.ParseAuthority(d.Certificate, d.Key)
}

// New creates the identity of a new cluster.
func New() (*Identity, error) {
	id := random.Hex(8)
	ca, err := pki.NewAuthority("kontiki-ca-" + id)
	if err != nil {
		return nil, err
	}
	keys := make([][]byte, 2)
	for i := range keys {
		keys[i] = make([]byte, 32)
		if _, err := rand.Read(keys[i]); err != nil {
			return nil, fmt.Errorf("generate keys: %w", err)
		}
	}
	signer, err := newTokenKey()
	if err != nil {
		return nil, err
	}
	name := "key-" + time.Now().UTC().Format("20060102-150405")
	return &Identity{
		ClusterID:         id,
		CA:                ca,
		GossipKeys:        [][]byte{keys[0]},
		SecretKeys:        map[string][]byte{name: keys[1]},
		CurrentSecretKey:  name,
		ServiceAccountKey: signer,
	}, nil
}

func newTokenKey() (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate the service account key: %w", err)
	}
	return key, nil
}

// String and LogValue keep the keys out of logs.
func (id *Identity) String() string { return "identity of cluster " + id.ClusterID }

// LogValue contains only the cluster's ID.
func (id *Identity) LogValue() slog.Value { return slog.StringValue(id.String()) }

// MarshalJSON encodes the identity with its secrets.
func (id *Identity) MarshalJSON() ([]byte, error) {
	caKey, err := id.CA.KeyPEM()
	if err != nil {
		return nil, err
	}
	saKey, err := pki.EncodeKey(id.ServiceAccountKey)
	if err != nil {
		return nil, err
	}
	next, err := documentAuthority(id.NextCA)
	if err != nil {
		return nil, err
	}
	previous, err := documentAuthority(id.PreviousCA)
	if err != nil {
		return nil, err
	}
	nextToken, err := optionalKey(id.NextTokenKey)
	if err != nil {
		return nil, err
	}
	previousToken, err := optionalKey(id.PreviousTokenKey)
	if err != nil {
		return nil, err
	}
	return json.Marshal(identityDocument{
		Version:           1,
		NextTokenKey:      nextToken,
		PreviousTokenKey:  previousToken,
		Generation:        id.Generation,
		Renewals:          id.Renewals,
		NextCA:            next,
		PreviousCA:        previous,
		CrossCA:           id.CrossCA,
		PastPins:          id.PastPins,
		GossipStep:        id.GossipStep,
		NextSecretKey:     id.NextSecretKey,
		WrappedKeys:       id.WrappedKeys,
		CurrentWrappedKey: id.CurrentWrappedKey,
		NextWrappedKey:    id.NextWrappedKey,
		ClusterID:         id.ClusterID,
		CACertificate:     id.CA.CertPEM(),
		CAKey:             caKey,
		GossipKeys:        id.GossipKeys,
		SecretKeys:        id.SecretKeys,
		CurrentSecretKey:  id.CurrentSecretKey,
		ServiceAccountKey: saKey,
	})
}

// UnmarshalJSON decodes and validates an identity.
func (id *Identity) UnmarshalJSON(data []byte) error {
	var doc identityDocument
	if err := json.Unmarshal(data, &doc); err != nil {
		return fmt.Errorf("cluster identity: %w", err)
	}
	if doc.Version != 1 {
		return fmt.Errorf("cluster identity has version %d, this binary knows version 1", doc.Version)
	}
	ca, err := pki.ParseAuthority(doc.CACertificate, doc.CAKey)
	if err != nil {
		return fmt.Errorf("cluster identity: %w", err)
	}
	sa, err := pki.ParseKey(doc.ServiceAccountKey)
	if err != nil {
		return fmt.Errorf("cluster identity: service account key: %w", err)
	}
	if len(doc.GossipKeys) == 0 {
		return errors.New("cluster identity: no gossip key")
	}
	for _, key := range doc.GossipKeys {
		if len(key) != 32 {
			return fmt.Errorf("cluster identity: a gossip key has %d bytes instead of 32", len(key))
		}
	}
	for name, key := range doc.SecretKeys {
		if len(key) != 32 {
			return fmt.Errorf("cluster identity: secret key %q has %d bytes instead of 32", name, len(key))
		}
	}
	if _, ok := doc.SecretKeys[doc.CurrentSecretKey]; !ok {
		return fmt.Errorf("cluster identity: the current secret key %q is missing", doc.CurrentSecretKey)
	}
	if _, ok := doc.SecretKeys[doc.NextSecretKey]; !ok && doc.NextSecretKey != "" {
		return fmt.Errorf("cluster identity: the next secret key %q is missing", doc.NextSecretKey)
	}
	for _, name := range []string{doc.CurrentWrappedKey, doc.NextWrappedKey} {
		if _, ok := doc.WrappedKeys[name]; !ok && name != "" {
			return fmt.Errorf("cluster identity: the wrapped key %q is missing", name)
		}
	}
	next, err := doc.NextCA.authority()
	if err != nil {
		return fmt.Errorf("cluster identity: next CA: %w", err)
	}
	previous, err := doc.PreviousCA.authority()
	if err != nil {
		return fmt.Errorf("cluster identity: previous CA: %w", err)
	}
	nextToken, err := parseOptionalKey(doc.NextTokenKey)
	if err != nil {
		return fmt.Errorf("cluster identity: next key of tokens: %w", err)
	}
	previousToken, err := parseOptionalKey(doc.PreviousTokenKey)
	if err != nil {
		return fmt.Errorf("cluster identity: previous key of tokens: %w", err)
	}
	*id = Identity{
		NextTokenKey:      nextToken,
		PreviousTokenKey:  previousToken,
		ClusterID:         doc.ClusterID,
		Generation:        doc.Generation,
		Renewals:          doc.Renewals,
		NextCA:            next,
		PreviousCA:        previous,
		CrossCA:           doc.CrossCA,
		PastPins:          doc.PastPins,
		GossipStep:        doc.GossipStep,
		NextSecretKey:     doc.NextSecretKey,
		WrappedKeys:       doc.WrappedKeys,
		CurrentWrappedKey: doc.CurrentWrappedKey,
		NextWrappedKey:    doc.NextWrappedKey,
		CA:                ca,
		GossipKeys:        doc.GossipKeys,
		SecretKeys:        doc.SecretKeys,
		CurrentSecretKey:  doc.CurrentSecretKey,
		ServiceAccountKey: sa,
	}
	return nil
}

// Load reads the cluster's identity from a member's data directory. It returns fs.ErrNotExist if there is none.
func Load(dir string) (*Identity, error) {
	id, err := durable.Load[Identity](filepath.Join(dir, File))
	if err != nil {
		return nil, fmt.Errorf("load the cluster identity: %w", err)
	}
	return id, nil
}

func (id *Identity) Save(dir string) error {
	return durable.Save(filepath.Join(dir, File), id)
}
