package containerd

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
)

// theRegistry is Debian's docker-registry, with TLS and a password.
type theRegistry struct {
	address, ca string
	client      *http.Client
}

const (
	registryUser     = "puller"
	registryPassword = "right"
	// registryHash is bcrypt's of the password.
	registryHash = "$2a$04$WnHGMYMQn6V6qs81a7uox.jmtI5/vIHpTBq/KJIrl7hwN91jCqvgS"
)

func startRegistry(t *testing.T) *theRegistry {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Skipf("needs docker-registry: %v", err)
	}
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &theRegistry{address: l.Addr().String(), ca: filepath.Join(dir, "ca.crt")}
	for name, content := range map[string]string{
		"ca.crt":   string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})),
		"key.pem":  string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})),
		"htpasswd": registryUser + ":" + registryHash + "\n",
		"config.yml": fmt.Sprintf(`version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: %s/data}}
auth: {htpasswd: {realm: test, path: %s/htpasswd}}
http: {addr: %q, tls: {certificate: %s/ca.crt, key: %s/key.pem}}
`, dir, dir, r.address, dir, dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool.AddCert(cert)
	r.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}}}
	l.Close()
	var log bytes.Buffer
	cmd := exec.Command(program, "serve", filepath.Join(dir, "config.yml"))
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-ended
		r.client.CloseIdleConnections()
		if t.Failed() {
			t.Logf("docker-registry: %s", log.String())
		}
	})
	for deadline := time.After(time.Minute); ; {
		if resp, err := r.client.Get("https://" + r.address + "/v2/"); err == nil {
			resp.Body.Close()
			return r
		}
		select {
		case <-deadline:
			t.Fatal("docker-registry does not serve")
		case err := <-ended:
			ended <- err
			t.Fatalf("docker-registry: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (r *theRegistry) send(t *testing.T, method, url, contentType string, body []byte) string {
	t.Helper()
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(registryUser, registryPassword)
	req.Header.Set("Content-Type", contentType)
	resp, err := r.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		b, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		t.Fatalf("%s %s: %s %s", method, url, resp.Status, b)
	}
	return resp.Header.Get("Location")
}

// push pushes an image of one empty layer and returns the manifest's digest.
func (r *theRegistry) push(t *testing.T, name, tag string) string {
	t.Helper()
	base := "https://" + r.address + "/v2/" + name
	digest := func(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
	layer := make([]byte, 1024) // the end of a tar archive
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","config":{"User":%q},"rootfs":{"type":"layers","diff_ids":[%q]}}`, tag, digest(layer))
	for _, blob := range [][]byte{layer, config} {
		at := r.send(t, "POST", base+"/blobs/uploads/", "application/octet-stream", nil)
		r.send(t, "PUT", at+"&digest="+digest(blob), "application/octet-stream", blob)
	}
	const kind = "application/vnd.oci.image.manifest.v1+json"
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":%q,"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},
		"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":%q,"size":%d}]}`, kind, digest(config), len(config), digest(layer), len(layer))
	r.send(t, "PUT", base+"/manifests/"+tag, kind, manifest)
	return digest(manifest)
}

// hosts returns a directory of registries' configuration that has this one's.
func (r *theRegistry) hosts(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, r.address), 0o755); err != nil {
		t.Fatal(err)
	}
	content := fmt.Sprintf("server = \"https://%s\"\nca = %q\n", r.address, r.ca)
	if err := os.WriteFile(filepath.Join(dir, r.address, "hosts.toml"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestRegistryConfiguration: a directory of hosts.toml files says which authority signs a registry's certificate, and which mirror to ask.
func TestRegistryConfiguration(t *testing.T) {
	registry := startRegistry(t)
	d := runtimetest.StartDaemon(t)
	r, _ := open(t, d, nil)
	hosts := t.TempDir()
	r.c.RegistryConfigDir = hosts
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	first, second := registry.push(t, "team/app", "1"), registry.push(t, "team/app", "2")
	auth := runtime.Auth{Username: registryUser, Password: registryPassword}
	configure := func(host, content string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(hosts, host), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(hosts, host, "hosts.toml"), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	ref := registry.address + "/team/app:1"
	configure(registry.address, fmt.Sprintf("server = \"https://%s\"\n", registry.address))
	if _, err := r.PullImage(ctx, ref, auth); err == nil || !strings.Contains(err.Error(), "unknown authority") {
		t.Errorf("an authority that is not known: %v", err)
	}
	configure(registry.address, fmt.Sprintf("server = \"https://%s\"\nca = %q\n", registry.address, registry.ca))
	for _, bad := range []runtime.Auth{{}, {Username: registryUser, Password: "wrong"}} {
		if _, err := r.PullImage(ctx, ref, bad); err == nil || !strings.Contains(err.Error(), "authorization failed") && !strings.Contains(err.Error(), "401") {
			t.Errorf("password %q: %v", bad.Password, err)
		}
	}
	img, err := r.PullImage(ctx, ref, auth)
	if err != nil || img.User != "1" || len(img.RepoDigests) != 1 || img.RepoDigests[0] != registry.address+"/team/app@"+first {
		t.Fatalf("%+v, %v", img, err)
	}
	// A digest is what counts, whatever the tag before it says.
	img, err = r.PullImage(ctx, registry.address+"/team/app:1@"+second, auth)
	if err != nil || img.User != "2" {
		t.Errorf("by digest: %+v, %v", img, err)
	}
	if _, err := r.PullImage(ctx, registry.address+"/team/app@sha256:"+strings.Repeat("0", 64), auth); err == nil {
		t.Error("a digest that does not exist was pulled")
	}
	configure("registry.example", fmt.Sprintf("server = \"https://registry.example\"\n[host.\"https://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n  ca = %q\n", registry.address, registry.ca))
	if img, err = r.PullImage(ctx, "registry.example/team/app:2", auth); err != nil || len(img.RepoTags) == 0 || img.RepoTags[0] != "registry.example/team/app:2" {
		t.Errorf("from a mirror: %+v, %v", img, err)
	}
	configure("broken.example", "server = [")
	if _, err := r.PullImage(ctx, "broken.example/team/app:2", auth); err == nil || !strings.Contains(err.Error(), "configuration of registry broken.example") {
		t.Errorf("a broken file: %v", err)
	}
}
