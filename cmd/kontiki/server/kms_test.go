package server

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cmd/kontiki/admin"
	"github.com/kontiki/kontiki/internal/sealed"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/kmsplugin"
)

// encryptionConfig writes an EncryptionConfiguration for a plugin at a socket.
func encryptionConfig(t *testing.T, socket string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "encryption.yaml")
	text := "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources:\n- resources: [secrets]\n  providers:\n" +
		"  - kms: {apiVersion: v2, name: vault, endpoint: 'unix://" + socket + "', timeout: 1s}\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestAKMSPluginHoldsTheKey moves the key of Secrets to a plugin, lets a master join whose plugin is down, and another that has none.
func TestAKMSPluginHoldsTheKey(t *testing.T) {
	dir := t.TempDir()
	first := kmsplugin.Start(t, filepath.Join(dir, "1"), "root-1")
	m := startMaster(t, func(o *serverOptions, cfg *cluster.Config) {
		o.api.encryptionConfig = encryptionConfig(t, first.Socket)
		cfg.Timings.SecretHistory = time.Second
	})
	ctx := t.Context()
	secrets := m.admin.CoreV1().Secrets("default")
	made, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "a"}, StringData: map[string]string{"x": marker}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if out, err := m.command(t, "secrets", "status"); !errors.Is(err, admin.ExitCode(2)) || !strings.Contains(out, "key-") {
		t.Errorf("a plugin that holds no key is no problem: %v: %s", err, out)
	}
	if out, err := m.command(t, "secrets", "rotate"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	key := m.cluster.Identity().SealingKey()
	if v, _ := m.cluster.View().Get("/core/secrets/default/a"); !strings.HasPrefix(key, "kms-") || !strings.HasPrefix(string(v.Value), sealed.Prefix+key+":") {
		t.Errorf("with the key %s the Secret is %.60q", key, v.Value)
	}
	document, err := os.ReadFile(filepath.Join(m.options.dataDir, "identity.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(document), key) {
		t.Errorf("identity.json does not name the wrapped key %s", key)
	}
	read := func(m *testMaster) error {
		s, err := m.admin.CoreV1().Secrets("default").Get(ctx, "a", metav1.GetOptions{})
		if err == nil && (string(s.Data["x"]) != marker || s.ResourceVersion != made.ResourceVersion) {
			err = fmt.Errorf("%q at %s", s.Data["x"], s.ResourceVersion)
		}
		return err
	}
	if err := read(m); err != nil {
		t.Error(err)
	}

	// The plugin goes down: what is decrypted goes on.
	first.Stop()
	if err := read(m); err != nil {
		t.Errorf("while the plugin is down: %v", err)
	}
	if _, err := secrets.Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "b"}, StringData: map[string]string{"x": marker}}, metav1.CreateOptions{}); err != nil {
		t.Errorf("write while the plugin is down: %v", err)
	}
	if out, err := m.command(t, "secrets", "rotate"); err == nil || !strings.Contains(err.Error(), "vault") {
		t.Errorf("rotate while the plugin is down: %v: %s", err, out)
	}
	first.Serve(t)

	join := func(name, config string) *testMaster {
		t.Helper()
		token, err := m.cluster.CreateToken(ctx, mtls.RoleMaster, time.Hour, "")
		if err != nil {
			t.Fatal(err)
		}
		return startMaster(t, func(o *serverOptions, cfg *cluster.Config) {
			o.name, o.api.encryptionConfig = name, config
			cfg.Timings.SecretHistory = time.Second
			cfg.Name, cfg.Bootstrap, cfg.Join, cfg.Token = name, false, []string{m.cluster.Address()}, token
		})
	}
	// A master whose plugin is not there starts, serves everything else, and says what is wrong.
	socket := filepath.Join(dir, "2")
	second := join("master-2", encryptionConfig(t, socket))
	if _, err := second.admin.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}); err != nil {
		t.Errorf("ConfigMaps at a master without its plugin: %v", err)
	}
	await.That(t, "a clear error", func() error {
		err := read(second)
		if !apierrors.IsInternalError(err) || !strings.Contains(err.Error(), key) || !strings.Contains(err.Error(), "vault") {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	healthz := func(m *testMaster, path string) int {
		t.Helper()
		response, err := m.admin.CoreV1().RESTClient().(*rest.RESTClient).Client.Get(m.api + path)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	if a, b := healthz(m, "/livez"), healthz(second, "/readyz/kms-providers"); a != http.StatusOK || b != http.StatusInternalServerError {
		t.Errorf("health of the master with its plugin %d, of kms-providers without %d", a, b)
	}
	problems := func(want string) {
		t.Helper()
		await.That(t, want, func() error {
			s, err := m.cluster.SecretKeys(ctx)
			if err != nil {
				return err
			}
			if !strings.Contains(strings.Join(s.Problems, "\n"), want) {
				return fmt.Errorf("problems: %q", s.Problems)
			}
			return nil
		})
	}
	problems("the master master-2 cannot use the key " + key)
	plugin := kmsplugin.Start(t, socket, "root-1")
	await.That(t, "the second master's plugin to be used", func() error {
		if code := healthz(second, "/readyz/kms-providers"); code != http.StatusOK {
			return fmt.Errorf("%d", code)
		}
		return read(second)
	})

	// A rotation waits for a master that could not use the new key.
	join("master-3", "")
	problems("the master master-3 cannot use the key " + key + `: no KMS provider "vault" is configured here`)
	first.UseKey("root-2")
	plugin.UseKey("root-2")
	if generation, err := m.cluster.ChangeIdentity(ctx, cluster.RotateSecretKey, false); err != nil {
		t.Fatal(generation, err)
	}
	next := m.cluster.Identity().NextSealingKey()
	problems("the master master-3 cannot use the key " + next)
	if id := m.cluster.Identity(); id.SealingKey() != key {
		t.Errorf("the key %s is used, which a master cannot use", id.SealingKey())
	}
	if err := m.cluster.RemoveMember(ctx, "master-3"); err != nil {
		t.Fatal(err)
	}
	await.That(t, "the new key to be used", func() error {
		view, err := m.cluster.Consistent(ctx)
		if err != nil {
			return err
		}
		if id, counts := m.cluster.Identity(), sealed.Count(view); id.SealingKey() != next || counts[key] > 0 || counts[next] < 2 {
			return fmt.Errorf("%s, %v", id.SealingKey(), counts)
		}
		return errors.Join(read(m), read(second))
	})
	if id := m.cluster.Identity().WrappedKeys[next].KeyID; id != "root-2" {
		t.Errorf("the plugin's key is %s", id)
	}
	await.That(t, "the old keys to be dropped", func() error {
		if id := second.cluster.Identity(); len(id.WrappedKeys) != 1 || len(id.SecretKeys) != 1 {
			return fmt.Errorf("%d, %d", len(id.WrappedKeys), len(id.SecretKeys))
		}
		return nil
	})

	// Back to a key of the cluster's own.
	if out, err := m.command(t, "secrets", "rotate", "--without-kms"); err != nil || m.cluster.Identity().CurrentWrappedKey != "" {
		t.Errorf("return to the cluster's own key: %v: %s", err, out)
	}
	if err := errors.Join(read(m), read(second)); err != nil {
		t.Error(err)
	}
}
