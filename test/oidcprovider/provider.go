// Package oidcprovider is a small OpenID provider for tests: it signs in whoever comes, by the authorization code flow of OpenID Connect Core 1.0 with
// PKCE (RFC 7636).
package oidcprovider

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/url"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// User is whom the provider signs in.
const User = "jane"

// Provider is a provider. The exported fields are set before it is used, or between requests.
type Provider struct {
	// Issuer is its URL.
	Issuer string
	// Secret is that of its clients, "" for public ones.
	Secret string
	// Now is the time; Change changes the claims of an ID token before it is signed.
	Now    func() time.Time
	Change func(claims map[string]any)
	// Down makes it answer nothing.
	Down bool

	key *rsa.PrivateKey
	mux *http.ServeMux
	mu  sync.Mutex
	// codes are those that were given out and not used, with the requests that they are for.
	codes map[string]url.Values
}

// New returns a provider with a key of its own.
func New() (*Provider, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	p := &Provider{Now: time.Now, Change: func(map[string]any) {}, key: key, mux: http.NewServeMux(), codes: map[string]url.Values{}}
	p.mux.HandleFunc("GET /.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		write(w, map[string]any{"issuer": p.Issuer, "authorization_endpoint": p.Issuer + "/authorize", "token_endpoint": p.Issuer + "/token", "jwks_uri": p.Issuer + "/keys",
			"response_types_supported": []string{"code"}, "subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{"RS256"}})
	})
	p.mux.HandleFunc("GET /keys", func(w http.ResponseWriter, _ *http.Request) {
		write(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: key.Public(), KeyID: "1", Algorithm: "RS256", Use: "sig"}}})
	})
	p.mux.HandleFunc("GET /authorize", p.page)
	p.mux.HandleFunc("POST /token", p.token)
	return p, nil
}

// ServeHTTP implements http.Handler.
func (p *Provider) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if p.Down {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	p.mux.ServeHTTP(w, r)
}

func write(w http.ResponseWriter, value any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(value) // an error means that the client has disconnected
}

// page lets a user choose to be signed in or to be refused.
func (p *Provider) page(w http.ResponseWriter, r *http.Request) {
	asked := r.URL.Query()
	back := func(values url.Values) string {
		values.Set("state", asked.Get("state"))
		return html.EscapeString(asked.Get("redirect_uri") + "?" + values.Encode())
	}
	fmt.Fprintf(w, `<!doctype html><html lang="en"><title>Provider</title><main><h1>Provider of the tests</h1><a href="%s">Be %s</a> <a href="%s">Be nobody</a></main>`,
		back(url.Values{"code": {p.Code(asked)}}), User, back(url.Values{"error": {"access_denied"}}))
}

// Code returns the code for a request for authorization.
func (p *Provider) Code(asked url.Values) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	code := rand.Text()
	p.codes[code] = maps.Clone(asked)
	return code
}

// Asked returns the request that a code is for, to be changed; nil if the code has been used.
func (p *Provider) Asked(code string) url.Values {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.codes[code]
}

// token exchanges a code, once, for an ID token.
func (p *Provider) token(w http.ResponseWriter, r *http.Request) {
	code := r.FormValue("code")
	p.mu.Lock()
	asked := p.codes[code]
	delete(p.codes, code)
	p.mu.Unlock()
	digest := sha256.Sum256([]byte(r.FormValue("code_verifier")))
	_, escaped, _ := r.BasicAuth()
	secret, err := url.QueryUnescape(escaped) // RFC 6749, section 2.3.1
	if err != nil {
		secret = ""
	}
	if asked == nil || asked.Get("code_challenge_method") != "S256" || asked.Get("code_challenge") != base64.RawURLEncoding.EncodeToString(digest[:]) ||
		asked.Get("redirect_uri") != r.FormValue("redirect_uri") || secret != p.Secret && r.FormValue("client_secret") != p.Secret {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, `{"error":"invalid_grant"}`) // as in write
		return
	}
	claims := map[string]any{"iss": p.Issuer, "sub": User, "aud": asked.Get("client_id"), "nonce": asked.Get("nonce"), "iat": p.Now().Unix(), "exp": p.Now().Add(time.Hour).Unix()}
	p.Change(claims)
	signed, err := p.sign(claims)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	write(w, map[string]any{"access_token": "a", "token_type": "Bearer", "id_token": signed})
}

func (p *Provider) sign(claims map[string]any) (string, error) {
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: p.key, KeyID: "1"}}, nil)
	if err != nil {
		return "", err
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", err
	}
	return signed.CompactSerialize()
}

// Subject returns the subject of a token that the provider has signed, "" of any other.
func (p *Provider) Subject(token string) string {
	signed, err := jose.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return ""
	}
	payload, err := signed.Verify(p.key.Public())
	var claims struct{ Sub string }
	if err != nil || json.Unmarshal(payload, &claims) != nil {
		return ""
	}
	return claims.Sub
}
