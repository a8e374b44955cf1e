// Package kms keeps the keys of Secrets with KMS plugins, by the protocol KMS v2 of Kubernetes. A key is derived from a seed that is
// created here, and that a plugin encrypts; the cluster stores the encrypted seed. Each master decrypts it once, when it learns of it, and
// keeps it in memory: reads and writes do not wait for the plugin, and go on while it is down.
//
// Plugins are not trusted more than necessary: their answers are limited in size and time, and a seed is stored only after the plugin
// has decrypted it again.
package kms

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kmsv2 "k8s.io/kms/apis/v2"
)

// Limits of what a plugin answers; those of KMS v2, and one for a whole message.
const (
	maxMessage     = 64 << 10
	maxCiphertext  = 1 << 10
	maxKeyID       = 1 << 10
	maxAnnotations = 32 << 10
	maxHealthText  = 1 << 10
	seedBytes      = 32
)

// Wrapped is a seed that a plugin encrypted.
type Wrapped struct {
	Provider, KeyID string
	Sealed          []byte
	Annotations     map[string][]byte
}

type plugin struct {
	config Config
	conn   *grpc.ClientConn
	client kmsv2.KeyManagementServiceClient
}

func newPlugin(c Config) (*plugin, error) {
	conn, err := grpc.NewClient("passthrough:///kms", grpc.WithAuthority("localhost"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", c.Socket)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.WaitForReady(true)))
	if err != nil {
		return nil, fmt.Errorf("KMS provider %s: %w", c.Name, err)
	}
	return &plugin{config: c, conn: conn, client: kmsv2.NewKeyManagementServiceClient(conn)}, nil
}

func (p *plugin) limited(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, p.config.Timeout)
}

// status returns the plugin's present key, or why it is not healthy.
func (p *plugin) status(ctx context.Context) (keyID string, err error) {
	ctx, cancel := p.limited(ctx)
	defer cancel()
	answer, err := p.client.Status(ctx, &kmsv2.StatusRequest{})
	switch {
	case err != nil:
		return "", err
	case answer.Version != "v2" && answer.Version != "v2beta1":
		return "", fmt.Errorf("it speaks the version %q and not v2", clip(answer.Version))
	case answer.Healthz != "ok":
		return "", fmt.Errorf("it says %q", clip(answer.Healthz))
	}
	return answer.KeyId, checkKeyID(answer.KeyId)
}

// wrap creates a seed and has the plugin encrypt it.
func (p *plugin) wrap(ctx context.Context) (*Wrapped, error) {
	seed := make([]byte, seedBytes)
	if _, err := rand.Read(seed); err != nil {
		return nil, err
	}
	bounded, cancel := p.limited(ctx)
	defer cancel()
	answer, err := p.client.Encrypt(bounded, &kmsv2.EncryptRequest{Plaintext: seed, Uid: uuid.NewString()})
	if err != nil {
		return nil, err
	}
	if err := checkEncrypted(answer); err != nil {
		return nil, err
	}
	if bytes.Contains(answer.Ciphertext, seed) {
		return nil, errors.New("it did not encrypt")
	}
	w := &Wrapped{Provider: p.config.Name, KeyID: answer.KeyId, Sealed: answer.Ciphertext, Annotations: answer.Annotations}
	again, err := p.unwrap(ctx, w)
	if err == nil && !bytes.Equal(again, seed) {
		err = errors.New("it decrypts something else than it encrypted")
	}
	if err != nil {
		return nil, fmt.Errorf("decrypt what it has encrypted: %w", err)
	}
	return w, nil
}

func (p *plugin) unwrap(ctx context.Context, w *Wrapped) ([]byte, error) {
	ctx, cancel := p.limited(ctx)
	defer cancel()
	answer, err := p.client.Decrypt(ctx, &kmsv2.DecryptRequest{Ciphertext: w.Sealed, Uid: uuid.NewString(), KeyId: w.KeyID, Annotations: w.Annotations})
	if err != nil {
		return nil, err
	}
	if len(answer.Plaintext) != seedBytes {
		return nil, fmt.Errorf("it decrypted %d bytes instead of %d", len(answer.Plaintext), seedBytes)
	}
	return answer.Plaintext, nil
}

func checkKeyID(id string) error {
	if id == "" || len(id) > maxKeyID {
		return fmt.Errorf("its key_id has %d bytes: it must not be empty, and have at most %d", len(id), maxKeyID)
	}
	return nil
}

func checkEncrypted(answer *kmsv2.EncryptResponse) error {
	if n := len(answer.Ciphertext); n == 0 || n > maxCiphertext {
		return fmt.Errorf("its ciphertext has %d bytes: it must not be empty, and have at most %d", n, maxCiphertext)
	}
	size := 0
	for name, value := range answer.Annotations {
		if size += len(name) + len(value); size > maxAnnotations {
			return fmt.Errorf("its annotations have more than %d bytes", maxAnnotations)
		}
		if errs := validation.IsFullyQualifiedDomainName(field.NewPath("annotations"), name); len(errs) > 0 {
			return errors.New(clip(errs.ToAggregate().Error()))
		}
	}
	return checkKeyID(answer.KeyId)
}

func clip(text string) string { return text[:min(len(text), maxHealthText)] }

// derive returns the key of a seed.
func derive(seed []byte, name string) ([]byte, error) {
	return hkdf.Key(sha256.New, seed, nil, "kontiki secrets "+name, 32)
}

// pollHealthy and pollUnhealthy are how often a plugin is asked for its status.
const (
	pollHealthy   = time.Minute
	pollUnhealthy = 5 * time.Second
)
