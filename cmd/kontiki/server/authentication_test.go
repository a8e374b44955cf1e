package server

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/test/await"
)

// TestTheAuthenticationFlags: which of them exclude each other, and what they mean together.
func TestTheAuthenticationFlags(t *testing.T) {
	file := func(t *testing.T, text string) string {
		path := filepath.Join(t.TempDir(), "file.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	const header = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"
	oidc := []string{"--oidc-issuer-url=https://issuer.example", "--oidc-client-id=kontiki"}
	for name, c := range map[string]struct {
		file      string // "" is none
		args      []string
		err       string
		anonymous bool
		prefix    string
	}{
		"none":                         {anonymous: true},
		"no anonymous requests":        {args: []string{"--anonymous-auth=false"}},
		"a file":                       {file: header, anonymous: true},
		"anonymous in the file":        {file: header + "anonymous: {enabled: false}\n"},
		"anonymous twice":              {file: header + "anonymous: {enabled: false}\n", args: []string{"--anonymous-auth=false"}, err: "--anonymous-auth flag cannot be set"},
		"a file and flags":             {file: header, args: oidc, err: "mutually exclusive"},
		"an incomplete issuer":         {args: oidc[:1], err: "must be specified together"},
		"an algorithm that is unknown": {args: append([]string{"--oidc-signing-algs=HS256"}, oidc...), err: "unsupported signing alg"},
		"a CA that is missing":         {args: append([]string{"--oidc-ca-file=/missing"}, oidc...), err: "--oidc-ca-file"},
		"an issuer without TLS":        {args: []string{"--oidc-issuer-url=http://issuer.example", "--oidc-client-id=kontiki"}, err: "URL scheme must be https"},
		"a webhook's missing file":     {args: []string{"--authentication-token-webhook-config-file=/missing"}, err: "--authentication-token-webhook-config-file: "},
		"a webhook's unknown version":  {args: []string{"--authentication-token-webhook-config-file=/missing", "--authentication-token-webhook-version=v2"}, err: "unsupported authentication webhook version"},
		"a webhook's negative TTL":     {args: []string{"--authentication-token-webhook-config-file=/missing", "--authentication-token-webhook-cache-ttl=-1s"}, err: "can't be negative"},
		"an issuer":                    {args: oidc, anonymous: true, prefix: "https://issuer.example#"},
		"an issuer and no prefix":      {args: append([]string{"--oidc-username-prefix=-"}, oidc...), anonymous: true},
		"an issuer of addresses":       {args: append([]string{"--oidc-username-claim=email"}, oidc...), anonymous: true},
	} {
		t.Run(name, func(t *testing.T) {
			args := append([]string{"--config=" + file(t, "")}, c.args...)
			if c.file != "" {
				args = append(args, "--authentication-config="+file(t, c.file))
			}
			o := parsed(t, args...)
			a, err := o.authn.open("master-1", slog.New(slog.DiscardHandler))
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("%v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if a.anonymous.Enabled != c.anonymous {
				t.Errorf("anonymous requests: %v, want %v", a.anonymous.Enabled, c.anonymous)
			}
			if o.authn.oidc.issuerURL == "" {
				return
			}
			jwt, err := o.authn.oidc.authenticator()
			if err != nil || *jwt.ClaimMappings.Username.Prefix != c.prefix {
				t.Errorf("%+v, %v; want the prefix %q", jwt.ClaimMappings.Username, err, c.prefix)
			}
		})
	}
}

// TestAMasterAcceptsAnIssuersTokens, also of one that its file names only later.
func TestAMasterAcceptsAnIssuersTokens(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	var issuer *httptest.Server
	issuer = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/keys" {
			json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "k", Algorithm: "ES256", Use: "sig"}}})
			return
		}
		json.NewEncoder(w).Encode(map[string]string{"issuer": issuer.URL, "jwks_uri": issuer.URL + "/keys"})
	}))
	defer issuer.Close()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: key, KeyID: "k"}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(map[string]any{"iss": issuer.URL, "aud": "kontiki", "sub": "jane", "exp": time.Now().Add(time.Hour).Unix()}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	const header = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\nanonymous: {enabled: true, conditions: [{path: /livez}]}\n"
	file := filepath.Join(t.TempDir(), "authentication.yaml")
	if err := os.WriteFile(file, []byte(header), 0o600); err != nil {
		t.Fatal(err)
	}
	m := startMaster(t, func(o *serverOptions, _ *cluster.Config) { o.authn.configFile = file })
	get := func(path, token string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, m.api+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		response, err := apiClient(m.cluster.Roots(), tls.Certificate{}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		return response.StatusCode
	}
	if code := get("/livez", ""); code != http.StatusOK {
		t.Errorf("a path that is open: %d", code)
	}
	if code := get("/version", ""); code != http.StatusUnauthorized {
		t.Errorf("a path that is not: %d", code)
	}
	if code := get("/apis", token); code != http.StatusUnauthorized {
		t.Errorf("before the issuer is named: %d", code)
	}
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issuer.Certificate().Raw})
	if err := os.WriteFile(file, fmt.Appendf(nil, "%sjwt:\n- issuer: {url: %q, audiences: [kontiki], certificateAuthority: %q}\n  claimMappings: {username: {claim: sub, prefix: \"oidc:\"}}\n", header, issuer.URL, ca), 0o600); err != nil {
		t.Fatal(err)
	}
	await.That(t, "the changed file", func() error {
		if code := get("/apis", token); code != http.StatusOK {
			return fmt.Errorf("status %d", code)
		}
		return nil
	})
}
