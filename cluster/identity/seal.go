package identity

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
)

// Key is the key under which the store has the encrypted identity.
const Key = "/kontiki/identity"

// Sealed is an identity in the store, encrypted because the log, snapshots and backups must not contain the CA's key. It is
// encrypted with the secret key that was current in the previous generation. Every master has that key, because a change begins
// only when all of them have the previous generation.
type Sealed struct {
	Generation uint64 `json:"generation"`
	Key        string `json:"key"`
	Nonce      []byte `json:"nonce"`
	Sealed     []byte `json:"sealed"`
}

// associated returns the additional data of the encryption, which binds it to the key in the store, the cluster, the secret key and the generation.
func (s *Sealed) associated(clusterID string) []byte {
	data := []byte(Key + "\x00" + clusterID + "\x00" + s.Key + "\x00")
	return binary.BigEndian.AppendUint64(data, s.Generation)
}

func identityCipher(id *Identity, name string) (cipher.AEAD, error) {
	key, ok := id.SecretKeys[name]
	if !ok {
		return nil, fmt.Errorf("it is encrypted with the secret key %q, which this master does not have", name)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// SealFor encrypts the identity for masters that have the previous generation.
func (id *Identity) SealFor(before *Identity) ([]byte, error) {
	plain, err := json.Marshal(id)
	if err != nil {
		return nil, err
	}
	sealed := Sealed{Generation: id.Generation, Key: before.CurrentSecretKey}
	aead, err := identityCipher(before, sealed.Key)
	if err != nil {
		return nil, fmt.Errorf("seal the cluster's identity: %w", err)
	}
	sealed.Nonce = make([]byte, aead.NonceSize())
	if _, err := rand.Read(sealed.Nonce); err != nil {
		return nil, fmt.Errorf("seal the cluster's identity: %w", err)
	}
	sealed.Sealed = aead.Seal(nil, sealed.Nonce, plain, sealed.associated(id.ClusterID))
	return json.Marshal(sealed)
}

// Open decrypts what SealFor returned, with the keys of an older identity of this cluster. It returns nil without an error if the
// identity already has that generation or a later one.
func (id *Identity) Open(value []byte) (*Identity, error) {
	var sealed Sealed
	if err := json.Unmarshal(value, &sealed); err != nil {
		return nil, fmt.Errorf("read the replicated identity: %w", err)
	}
	if sealed.Generation <= id.Generation {
		return nil, nil // already known
	}
	aead, err := identityCipher(id, sealed.Key)
	if err != nil {
		return nil, fmt.Errorf("open the cluster's identity of generation %d: %w", sealed.Generation, err)
	}
	if len(sealed.Nonce) != aead.NonceSize() {
		return nil, errors.New("open the cluster's identity: it is damaged")
	}
	plain, err := aead.Open(nil, sealed.Nonce, sealed.Sealed, sealed.associated(id.ClusterID))
	if err != nil {
		return nil, fmt.Errorf("open the cluster's identity of generation %d: it was modified, or is another cluster's", sealed.Generation)
	}
	opened := new(Identity)
	if err := json.Unmarshal(plain, opened); err != nil {
		return nil, err
	}
	if opened.ClusterID != id.ClusterID || opened.Generation != sealed.Generation {
		return nil, errors.New("open the cluster's identity: its content does not match its generation")
	}
	return opened, nil
}
