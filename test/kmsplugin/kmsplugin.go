// Package kmsplugin is a KMS v2 plugin for tests. It encrypts with keys that it holds in memory, on a unix socket, and can misbehave.
package kmsplugin

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"net"
	"os"
	"sync"
	"testing"

	"google.golang.org/grpc"
	kmsv2 "k8s.io/kms/apis/v2"
)

// Plugin is a running plugin.
type Plugin struct {
	kmsv2.UnimplementedKeyManagementServiceServer
	Socket string

	mu     sync.Mutex
	keyID  string
	calls  map[string]int
	hooks  Hooks
	server *grpc.Server
	ended  chan struct{}
}

// Hooks replace a plugin's answers; nil fields leave them as they are.
type Hooks struct {
	Status  func(context.Context) (*kmsv2.StatusResponse, error)
	Encrypt func(context.Context, *kmsv2.EncryptRequest) (*kmsv2.EncryptResponse, error)
	Decrypt func(context.Context, *kmsv2.DecryptRequest) (*kmsv2.DecryptResponse, error)
}

// Start serves a plugin on a socket until the test ends. Plugins that name the same key can decrypt what the others encrypted.
func Start(t testing.TB, socket, keyID string) *Plugin {
	t.Helper()
	p := &Plugin{Socket: socket, keyID: keyID, calls: map[string]int{}}
	p.Serve(t)
	t.Cleanup(p.Stop)
	return p
}

// Serve begins to serve, also after Stop.
func (p *Plugin) Serve(t testing.TB) {
	t.Helper()
	if err := os.Remove(p.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", p.Socket)
	if err != nil {
		t.Fatal(err)
	}
	server, ended := grpc.NewServer(), make(chan struct{})
	kmsv2.RegisterKeyManagementServiceServer(server, p)
	go func() {
		defer close(ended)
		server.Serve(listener) // it ends with Stop
	}()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.server, p.ended = server, ended
}

// Stop ends the plugin and cuts its connections.
func (p *Plugin) Stop() {
	p.mu.Lock()
	server, ended := p.server, p.ended
	p.mu.Unlock()
	server.Stop()
	<-ended
}

// UseKey makes the plugin encrypt with another key; it continues to decrypt with all.
func (p *Plugin) UseKey(keyID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.keyID = keyID
}

// Misbehave replaces answers.
func (p *Plugin) Misbehave(h Hooks) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.hooks = h
}

// Calls returns how often a method was called.
func (p *Plugin) Calls(method string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.calls[method]
}

func (p *Plugin) called(method string) (Hooks, string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls[method]++
	return p.hooks, p.keyID
}

func aead(keyID string) cipher.AEAD {
	key := sha256.Sum256([]byte("a key for tests: " + keyID))
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return gcm
}

// Status implements the protocol.
func (p *Plugin) Status(ctx context.Context, _ *kmsv2.StatusRequest) (*kmsv2.StatusResponse, error) {
	hooks, keyID := p.called("Status")
	if hooks.Status != nil {
		return hooks.Status(ctx)
	}
	return &kmsv2.StatusResponse{Version: "v2", Healthz: "ok", KeyId: keyID}, nil
}

// Encrypt implements the protocol.
func (p *Plugin) Encrypt(ctx context.Context, in *kmsv2.EncryptRequest) (*kmsv2.EncryptResponse, error) {
	hooks, keyID := p.called("Encrypt")
	if hooks.Encrypt != nil {
		return hooks.Encrypt(ctx, in)
	}
	gcm := aead(keyID)
	nonce := make([]byte, gcm.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, err
	}
	return &kmsv2.EncryptResponse{Ciphertext: gcm.Seal(nonce, nonce, in.Plaintext, nil), KeyId: keyID, Annotations: map[string][]byte{"version.test.kontiki": []byte("1")}}, nil
}

// Decrypt implements the protocol.
func (p *Plugin) Decrypt(ctx context.Context, in *kmsv2.DecryptRequest) (*kmsv2.DecryptResponse, error) {
	hooks, _ := p.called("Decrypt")
	if hooks.Decrypt != nil {
		return hooks.Decrypt(ctx, in)
	}
	gcm := aead(in.KeyId)
	if len(in.Ciphertext) < gcm.NonceSize() || string(in.Annotations["version.test.kontiki"]) != "1" {
		return nil, errors.New("not encrypted here")
	}
	plain, err := gcm.Open(nil, in.Ciphertext[:gcm.NonceSize()], in.Ciphertext[gcm.NonceSize():], nil)
	return &kmsv2.DecryptResponse{Plaintext: plain}, err
}
