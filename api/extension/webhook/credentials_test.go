package webhook

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/test/testcert"
)

func credentialsOf(t *testing.T, users string) (Credentials, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, []byte("{apiVersion: v1, kind: Config, users: ["+users+"]}"), 0o600); err != nil {
		t.Fatal(err)
	}
	return OpenCredentials(file)
}

// identified returns a webhook that answers with the token, password or certificate that a request has.
func identified(t *testing.T) Target {
	t.Helper()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, r.Header.Get("Authorization"))
		for _, certificate := range r.TLS.PeerCertificates {
			fmt.Fprint(w, "certificate of ", certificate.Subject.CommonName)
		}
	}))
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	server.StartTLS()
	t.Cleanup(server.Close)
	return Target{URL: server.URL, CABundle: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})}
}

// TestMastersIdentifyThemselves: each webhook gets the credentials of its own name, and no other's.
func TestMastersIdentifyThemselves(t *testing.T) {
	to := identified(t)
	parsed, err := url.Parse(to.URL)
	if err != nil {
		t.Fatal(err)
	}
	certificate, key := testcert.SelfSigned(t, "master")
	encode := base64.StdEncoding.EncodeToString
	tokens := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokens, []byte("of-a-file"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ user, want string }{
		"a token":                  {fmt.Sprintf(`{name: "%s", user: {token: abc}}, {name: "*", user: {token: other}}`, parsed.Host), "Bearer abc"},
		"the default":              {`{name: "10.0.0.1:8443", user: {token: abc}}, {name: "*", user: {token: other}}`, "Bearer other"},
		"another's":                {`{name: "10.0.0.1:8443", user: {token: abc}}`, ""},
		"a token of a file":        {fmt.Sprintf(`{name: "*", user: {tokenFile: "%s"}}`, tokens), "Bearer of-a-file"},
		"a password":               {`{name: "*", user: {username: u, password: p}}`, "Basic " + encode([]byte("u:p"))},
		"a certificate":            {fmt.Sprintf(`{name: "*", user: {client-certificate-data: %s, client-key-data: %s}}`, encode(certificate), encode(key)), "certificate of master"},
		"a service's, for the URL": {`{name: "hook.default.svc", user: {token: abc}}`, ""},
	} {
		if to.Credentials, err = credentialsOf(t, c.user); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		client, err := New(to, nil, true)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got, err := client.Post(context.Background(), []byte("{}")); err != nil || string(got) != c.want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, c.want)
		}
		client.Close()
	}
}

// TestCredentialsOfServices are found by the service's name, and by a suffix of it.
func TestCredentialsOfServices(t *testing.T) {
	c, err := credentialsOf(t, `{name: hook.default.svc, user: {token: exact}}, {name: "*.other.svc", user: {token: suffix}}, {name: "hook.default.svc:8443", user: {token: port}}`)
	if err != nil {
		t.Fatal(err)
	}
	for want, s := range map[string]*Service{"exact": {Name: "hook", Namespace: "default", Port: 443}, "port": {Name: "hook", Namespace: "default", Port: 8443}, "suffix": {Name: "a", Namespace: "other", Port: 443}, "": {Name: "b", Namespace: "default", Port: 443}} {
		target := Target{Service: s, Credentials: c}
		if got, err := target.credentials(); err != nil || got.BearerToken != want {
			t.Errorf("%+v: %q, %v, want %q", s, got.BearerToken, err, want)
		}
	}
	for host, to := range map[string]string{"h.example": "https://h.example/x", "[::1]:8443": "https://[::1]:8443/"} {
		if c, err = credentialsOf(t, fmt.Sprintf(`{name: "%s", user: {token: t}}`, host)); err != nil {
			t.Fatal(err)
		}
		target := Target{URL: to, Credentials: c}
		if got, err := target.credentials(); err != nil || got.BearerToken != "t" {
			t.Errorf("%s: %+v, %v", to, got, err)
		}
	}
}

func TestWrongCredentials(t *testing.T) {
	for want, users := range map[string]string{
		`users["a"]: exec is not supported`:            `{name: a, user: {exec: {apiVersion: client.authentication.k8s.io/v1, command: /bin/true, interactiveMode: Never}}}`,
		`users["a"]: auth-provider is not supported`:   `{name: a, user: {auth-provider: {name: x}}}`,
		`users["a"]: a client certificate needs a key`: `{name: a, user: {client-certificate-data: eA==}}`,
		"cannot unmarshal":                             `7`,
	} {
		if _, err := credentialsOf(t, users); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	if _, err := OpenCredentials(filepath.Join(t.TempDir(), "missing")); err == nil {
		t.Error("a file that does not exist was read")
	}
	c, err := credentialsOf(t, `{name: "*", user: {tokenFile: /does/not/exist}}`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Target{URL: "https://example.com", Credentials: c}, nil, true); err == nil || !strings.Contains(err.Error(), "the credentials for the webhook: ") {
		t.Errorf("a token that is not there: %v", err)
	}
}
