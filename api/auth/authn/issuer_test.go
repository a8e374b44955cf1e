package authn_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// testIssuer is an OpenID Connect provider.
type testIssuer struct {
	*httptest.Server
	t testing.TB
	// fetches counts requests for keys; down makes all requests fail.
	fetches atomic.Int64
	down    atomic.Bool
	mu      sync.Mutex
	keys    []jose.JSONWebKey
	doc     map[string]any
	raw     []byte // instead of the keys
}

func newTestIssuer(t testing.TB) *testIssuer {
	t.Helper()
	i := &testIssuer{t: t}
	i.Server = httptest.NewTLSServer(http.HandlerFunc(i.serve))
	t.Cleanup(i.Close)
	i.doc = map[string]any{"issuer": i.URL, "jwks_uri": i.URL + "/keys"}
	i.use("first", newKey(t))
	return i
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (i *testIssuer) serve(w http.ResponseWriter, r *http.Request) {
	if i.down.Load() {
		http.Error(w, "down", http.StatusServiceUnavailable)
		return
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch r.URL.Path {
	case "/.well-known/openid-configuration", "/elsewhere":
		json.NewEncoder(w).Encode(i.doc)
	case "/keys":
		i.fetches.Add(1)
		if i.raw != nil {
			w.Write(i.raw)
			return
		}
		public := jose.JSONWebKeySet{}
		for _, key := range i.keys {
			public.Keys = append(public.Keys, key.Public())
		}
		json.NewEncoder(w).Encode(public)
	default:
		http.NotFound(w, r)
	}
}

// use replaces the issuer's keys by one.
func (i *testIssuer) use(id string, key crypto.Signer) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.keys = []jose.JSONWebKey{{Key: key, KeyID: id, Algorithm: "ES256", Use: "sig"}}
}

// token signs claims, to which those that every token has are added.
func (i *testIssuer) token(claims map[string]any) string {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.sign(jose.SigningKey{Algorithm: jose.ES256, Key: i.keys[0]}, claims)
}

func (i *testIssuer) sign(key jose.SigningKey, claims map[string]any) string {
	i.t.Helper()
	all := map[string]any{"iss": i.URL, "aud": "kontiki", "sub": "jane", "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(all, claims)
	maps.DeleteFunc(all, func(_ string, v any) bool { return v == nil })
	signer, err := jose.NewSigner(key, nil)
	if err != nil {
		i.t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(all).Serialize()
	if err != nil {
		i.t.Fatal(err)
	}
	return token
}

// ca returns the issuer's CA as PEM, indented for a YAML block.
func (i *testIssuer) ca() string {
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: i.Certificate().Raw}))
	return strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n      ")
}

// entry is the beginning of the issuer's entry in a configuration.
func (i *testIssuer) entry() string {
	return "- issuer:\n    url: " + i.URL + "\n    audiences: [kontiki]\n    certificateAuthority: |\n      " + i.ca() + "\n"
}
