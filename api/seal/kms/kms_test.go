package kms

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	kmsv2 "k8s.io/kms/apis/v2"

	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/kmsplugin"
)

func TestTheEncryptionConfigurationIsRead(t *testing.T) {
	file := func(resources, providers string) string {
		return "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [" + resources + "]\n  providers:\n" + providers
	}
	one := "  - kms: {apiVersion: v2, name: a, endpoint: 'unix:///run/a.sock', timeout: 5s}\n"
	two := "  - kms: {apiVersion: v2, name: b, endpoint: 'unix:///run/b.sock'}\n"
	got, err := Parse([]byte(file("secrets", one+two)))
	if err != nil || len(got) != 2 || got[0].Name != "a" || got[0].Socket != "/run/a.sock" || got[0].Timeout != 5*time.Second || got[1].Timeout != 3*time.Second {
		t.Fatalf("%+v, %v", got, err)
	}
	for text, want := range map[string]string{
		file("secrets", one+"  - identity: {}\n"):                                                  "never stored without encryption",
		file("secrets", "  - aescbc: {keys: [{name: k, secret: "+strings.Repeat("A", 43)+"=}]}\n"): "only kms is supported",
		file("secrets", strings.Replace(one, "v2", "v1", 1)):                                       "only v2",
		file("secrets", strings.Replace(one, "unix://", "https://", 1)):                            "only unix is supported",
		file("secrets", strings.Replace(one, "unix:///run", "unix://run", 1)):                      "absolute path",
		file("secrets", strings.Replace(one, "5s", "0s", 1)):                                       "positive",
		file("secrets", strings.Replace(one, "5s", "1h", 1)):                                       "at most",
		file("secrets", one+one):                                                                   "names must be unique",
		file("secrets, configmaps", one):                                                           "only secrets",
		file("'*.*'", one):                                                                         "only secrets",
		file("secrets", "    []"):                                                                  "at least one",
		"kind: EncryptionConfiguration\napiVersion: v1":                                            "is not an EncryptionConfiguration",
		file("secrets", one) + "more: 1\n":                                                         "unknown field",
	} {
		if _, err := Parse([]byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s\n%v, want %q", text, err, want)
		}
	}
}

// start returns a running keyring with a plugin.
func start(t *testing.T, p *kmsplugin.Plugin) *Keyring {
	t.Helper()
	k, err := New([]Config{{Name: "vault", Socket: p.Socket, Timeout: 300 * time.Millisecond}}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	k.healthy, k.unhealthy = 20*time.Millisecond, 20*time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- k.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-done, k.Close()); err != nil {
			t.Error(err)
		}
	})
	return k
}

func usable(k *Keyring, name string) func() error {
	return func() error {
		keys, unusable := k.Keys()
		if len(keys[name]) != 32 {
			return fmt.Errorf("unusable: %v", unusable)
		}
		return nil
	}
}

// TestAPluginKeepsTheKey: a key is usable as long as the keyring runs, even while the plugin is down, and again after a restart once the
// plugin is there; its health and its key are followed.
func TestAPluginKeepsTheKey(t *testing.T) {
	p := kmsplugin.Start(t, filepath.Join(t.TempDir(), "s"), "one")
	k := start(t, p)
	await.That(t, "health", func() error { return k.Ready(t.Context()) })
	w, err := k.Wrap(t.Context())
	if err != nil || w.KeyID != "one" || w.Provider != "vault" {
		t.Fatalf("%+v, %v", w, err)
	}
	k.Use(map[string]Wrapped{"kms-1": *w})
	await.That(t, "the key", usable(k, "kms-1"))
	first, _ := k.Keys()
	p.UseKey("two")
	await.That(t, "the change of the plugin's key", func() error {
		if s, ok := k.Encrypts(); !ok || s.KeyID != "two" {
			return fmt.Errorf("%+v", s)
		}
		return nil
	})
	p.Stop()
	await.That(t, "the plugin to be missed", func() error {
		if err := k.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "vault") {
			return fmt.Errorf("ready: %v", err)
		}
		return nil
	})
	if err := usable(k, "kms-1")(); err != nil {
		t.Errorf("while the plugin is down: %v", err)
	}
	again := start(t, p) // as after a restart, while the plugin is down
	told := again.Changed()
	again.Use(map[string]Wrapped{"kms-1": *w, "kms-2": {Provider: "other"}})
	select { // the reason is told too
	case <-told:
	case <-time.After(time.Minute):
		t.Error("nobody is told why the key cannot be used")
	}
	await.That(t, "the reason", func() error {
		_, unusable := again.Keys()
		if err := unusable["kms-1"]; err == nil || !strings.Contains(err.Error(), "vault: rpc error") {
			return fmt.Errorf("%v", unusable)
		}
		if err := unusable["kms-2"]; err == nil || !strings.Contains(err.Error(), `no KMS provider "other" is configured`) {
			return fmt.Errorf("%v", unusable)
		}
		return nil
	})
	p.Serve(t)
	var second map[string][]byte
	for second["kms-1"] == nil { // a change may also be another reason for a failure
		changed := again.Changed()
		if second, _ = again.Keys(); second["kms-1"] == nil {
			<-changed
		}
	}
	if !bytes.Equal(first["kms-1"], second["kms-1"]) || len(second["kms-1"]) != 32 {
		t.Error("another key after the restart")
	}
	again.Use(nil)
	if keys, unusable := again.Keys(); len(keys)+len(unusable) != 0 {
		t.Errorf("dropped keys are kept: %v", unusable)
	}
}

// TestHostilePlugins: no answer is taken that is too large, too late, of another version, or not an encryption.
func TestHostilePlugins(t *testing.T) {
	p := kmsplugin.Start(t, filepath.Join(t.TempDir(), "s"), "one")
	k := start(t, p)
	encrypt := func(change func(*kmsv2.EncryptResponse)) kmsplugin.Hooks {
		return kmsplugin.Hooks{Encrypt: func(_ context.Context, in *kmsv2.EncryptRequest) (*kmsv2.EncryptResponse, error) {
			out := &kmsv2.EncryptResponse{Ciphertext: []byte("x"), KeyId: "one"}
			change(out)
			return out, nil
		}}
	}
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, x := range map[string]struct {
		hooks kmsplugin.Hooks
		want  string
	}{
		"a large ciphertext":   {encrypt(func(r *kmsv2.EncryptResponse) { r.Ciphertext = make([]byte, 1025) }), "ciphertext"},
		"no ciphertext":        {encrypt(func(r *kmsv2.EncryptResponse) { r.Ciphertext = nil }), "ciphertext"},
		"a large message":      {encrypt(func(r *kmsv2.EncryptResponse) { r.Ciphertext = make([]byte, 1<<20) }), "larger than max"},
		"no key":               {encrypt(func(r *kmsv2.EncryptResponse) { r.KeyId = "" }), "key_id"},
		"a large key":          {encrypt(func(r *kmsv2.EncryptResponse) { r.KeyId = strings.Repeat("k", 1025) }), "key_id"},
		"large annotations":    {encrypt(func(r *kmsv2.EncryptResponse) { r.Annotations = map[string][]byte{"a.b": make([]byte, 33<<10)} }), "annotations"},
		"a bad annotation":     {encrypt(func(r *kmsv2.EncryptResponse) { r.Annotations = map[string][]byte{"A B": nil} }), "annotations"},
		"another's ciphertext": {encrypt(func(*kmsv2.EncryptResponse) {}), "decrypt what it has encrypted"},
		"the seed itself": {kmsplugin.Hooks{Encrypt: func(_ context.Context, in *kmsv2.EncryptRequest) (*kmsv2.EncryptResponse, error) {
			return &kmsv2.EncryptResponse{Ciphertext: append([]byte("v1:"), in.Plaintext...), KeyId: "one"}, nil
		}}, "did not encrypt"},
		"another seed": {kmsplugin.Hooks{Decrypt: func(context.Context, *kmsv2.DecryptRequest) (*kmsv2.DecryptResponse, error) {
			return &kmsv2.DecryptResponse{Plaintext: make([]byte, 32)}, nil
		}}, "something else"},
		"a short seed": {kmsplugin.Hooks{Decrypt: func(context.Context, *kmsv2.DecryptRequest) (*kmsv2.DecryptResponse, error) {
			return &kmsv2.DecryptResponse{Plaintext: []byte("short")}, nil
		}}, "5 bytes"},
		"no answer": {kmsplugin.Hooks{Encrypt: func(ctx context.Context, _ *kmsv2.EncryptRequest) (*kmsv2.EncryptResponse, error) {
			return nil, hang(ctx)
		}}, "DeadlineExceeded"}, // by the caller's clock or, as often on a slow machine, by the plugin's
	} {
		p.Misbehave(x.hooks)
		if w, err := k.Wrap(t.Context()); err == nil || !strings.Contains(err.Error(), x.want) {
			t.Errorf("%s: %+v, %v", name, w, err)
		}
	}
	for name, x := range map[string]struct {
		answer *kmsv2.StatusResponse
		want   string
	}{
		"another version": {&kmsv2.StatusResponse{Version: "v1", Healthz: "ok", KeyId: "k"}, "version"},
		"not healthy":     {&kmsv2.StatusResponse{Version: "v2", Healthz: strings.Repeat("sick ", 5000), KeyId: "k"}, "sick"},
		"no key":          {&kmsv2.StatusResponse{Version: "v2", Healthz: "ok"}, "key_id"},
	} {
		p.Misbehave(kmsplugin.Hooks{Status: func(context.Context) (*kmsv2.StatusResponse, error) { return x.answer, nil }})
		await.That(t, name, func() error {
			if err := k.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), x.want) || len(err.Error()) > 2048 {
				return fmt.Errorf("ready: %v", err)
			}
			return nil
		})
	}
	p.Misbehave(kmsplugin.Hooks{Status: func(ctx context.Context) (*kmsv2.StatusResponse, error) { return nil, hang(ctx) }})
	await.That(t, "a status that does not come", func() error {
		if err := k.Ready(t.Context()); err == nil || !strings.Contains(err.Error(), "Deadline") {
			return fmt.Errorf("ready: %v", err)
		}
		return nil
	})
	p.Misbehave(kmsplugin.Hooks{})
	await.That(t, "health", func() error { return k.Ready(t.Context()) })
}
