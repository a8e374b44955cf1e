package dashboard

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"github.com/kontiki/kontiki/internal/httplimit"
)

const (
	oidcPath     = Root + "/session/oidc"
	callbackPath = oidcPath + "/callback"
	// redirectLife is how long a user has to sign in at the issuer.
	redirectLife = 10 * time.Minute
	// issuerTime limits requests to the issuer, and issuerFresh is how long what it says about itself is used again.
	issuerTime  = 10 * time.Second
	issuerFresh = time.Hour
	// oidcCookie's prefix makes browsers take it from this host alone, not from another one of its domain, which could begin a sign-in as somebody else.
	oidcCookie  = "__Host-kontiki-oidc"
	forRedirect = "kontiki dashboard redirect 1"
	maxReturn   = 1 << 10
	// maxIssuerAnswer limits an answer of the issuer, in bytes.
	maxIssuerAnswer = 1 << 20
)

// OIDC says at which OpenID Connect issuer users sign in by a redirect. The API must accept the issuer's ID tokens for the client.
type OIDC struct {
	Issuer   string
	ClientID string
	// Secret returns the client's secret; nil, or an empty one, means a public client, which PKCE protects.
	Secret func() (string, error)
	// Scopes are asked for besides openid.
	Scopes []string
	// Client sends requests to the issuer; nil means http.DefaultClient.
	Client *http.Client
}

// issuer remembers what the issuer says about itself. It is safe for concurrent use.
type issuer struct {
	OIDC
	mu       sync.Mutex
	provider *oidc.Provider
	read     time.Time
}

// redirected is what the browser keeps, sealed, while the user is at the issuer.
type redirected struct {
	State    string `json:"s"`
	Nonce    string `json:"n"`
	Verifier string `json:"v"`
	// To is the path of the page that the user returns to.
	To      string `json:"t"`
	Expires int64  `json:"e"`
}

// context returns one with which requests to the issuer are sent.
func (i *issuer) context(ctx context.Context) (context.Context, context.CancelFunc) {
	client := http.DefaultClient
	if i.Client != nil {
		client = i.Client
	}
	bounded := *client
	bounded.Transport = httplimit.Transport{RoundTripper: client.Transport, Most: maxIssuerAnswer}
	return context.WithTimeout(oidc.ClientContext(ctx, &bounded), issuerTime)
}

// discover returns the issuer's provider.
func (i *issuer) discover(ctx context.Context, now time.Time) (*oidc.Provider, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.provider != nil && now.Sub(i.read) < issuerFresh {
		return i.provider, nil
	}
	// The provider reads keys later, with its own context's client.
	lasting, cancel := i.context(context.WithoutCancel(ctx))
	defer cancel()
	p, err := oidc.NewProvider(lasting, i.Issuer)
	if err != nil {
		return nil, err
	}
	i.provider, i.read = p, now
	return p, nil
}

// client returns the description of this client, for the page at a host.
func (i *issuer) client(p *oidc.Provider, host string) (*oauth2.Config, error) {
	c := &oauth2.Config{ClientID: i.ClientID, Endpoint: p.Endpoint(), RedirectURL: "https://" + host + callbackPath, Scopes: append([]string{oidc.ScopeOpenID}, i.Scopes...)}
	if i.Secret == nil {
		return c, nil
	}
	var err error
	c.ClientSecret, err = i.Secret()
	return c, err
}

// What went wrong, for the page to say: it is in the address that the user returns to.
const (
	failedUnavailable = "unavailable"
	failedRefused     = "refused"
	failedExpired     = "expired"
	failedRejected    = "rejected"
)

// redirect sends the browser to the issuer.
func (d *Dashboard) redirect(w http.ResponseWriter, r *http.Request) {
	if d.issuer == nil {
		problem(w, http.StatusNotFound, "NotFound", "no issuer is configured (--dashboard-oidc-client-id)")
		return
	}
	if !d.attempts.allow(r.RemoteAddr) {
		w.Header().Set("Retry-After", "5")
		problem(w, http.StatusTooManyRequests, "TooManyRequests", "too many attempts to sign in; wait a few seconds")
		return
	}
	provider, err := d.issuer.discover(r.Context(), d.Now())
	if err != nil {
		d.clients.Warn("the issuer of OpenID Connect does not answer", "issuer", d.issuer.Issuer, "error", err)
		back(w, r, "", failedUnavailable)
		return
	}
	client, err := d.issuer.client(provider, r.Host)
	if err != nil {
		d.clients.Warn("the secret for the issuer cannot be read", "error", err)
		back(w, r, "", failedUnavailable)
		return
	}
	keep := redirected{Verifier: oauth2.GenerateVerifier(), To: ownPage(r.URL.Query().Get("to")), Expires: d.Now().Add(redirectLife).Unix()}
	if keep.State, err = randomSecret(); err == nil {
		keep.Nonce, err = randomSecret()
	}
	var sealed string
	if err == nil {
		sealed, err = d.seal(forRedirect, keep)
	}
	if err != nil {
		problem(w, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	// The issuer's answer is a link from another site: a strict cookie would not be sent with it.
	http.SetCookie(w, &http.Cookie{Name: oidcCookie, Value: sealed, Path: "/", MaxAge: int(redirectLife.Seconds()), Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode})
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, client.AuthCodeURL(keep.State, oidc.Nonce(keep.Nonce), oauth2.S256ChallengeOption(keep.Verifier)), http.StatusSeeOther)
}

// ownPage returns a path of the page, or that of its first page.
func ownPage(to string) string {
	if len(to) > maxReturn || !strings.HasPrefix(to, Root+"/") || strings.ContainsAny(to, "\\\r\n") || strings.Contains(to, "..") {
		return Root + "/"
	}
	if u, err := url.Parse(to); err != nil || u.Host != "" || u.Scheme != "" || strings.HasPrefix(u.Path, apiPrefix) || strings.HasPrefix(u.Path, portPrefix) || strings.HasPrefix(u.Path, Root+"/session") {
		return Root + "/"
	}
	return to
}

// back sends the browser to a page, which says what went wrong if anything did.
func back(w http.ResponseWriter, r *http.Request, to, failed string) {
	w.Header().Set("Cache-Control", "no-store")
	if failed != "" {
		to = Root + "/?sign-in=" + failed
	}
	http.Redirect(w, r, to, http.StatusSeeOther)
}

// callback is where the issuer sends the browser.
func (d *Dashboard) callback(w http.ResponseWriter, r *http.Request) {
	if d.issuer == nil {
		problem(w, http.StatusNotFound, "NotFound", "no issuer is configured (--dashboard-oidc-client-id)")
		return
	}
	if !d.attempts.allow(r.RemoteAddr) {
		w.Header().Set("Retry-After", "5")
		problem(w, http.StatusTooManyRequests, "TooManyRequests", "too many attempts to sign in; wait a few seconds")
		return
	}
	kept, err := d.returned(r)
	http.SetCookie(w, &http.Cookie{Name: oidcCookie, Path: "/", MaxAge: -1, Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode}) // it counts once
	if err != nil {
		d.clients.Info("refused a sign-in by the issuer", "remote", r.RemoteAddr, "reason", err)
		back(w, r, "", failedExpired)
		return
	}
	query := r.URL.Query()
	if refused := query.Get("error"); refused != "" {
		d.clients.Info("the issuer refused a sign-in", "remote", r.RemoteAddr, "reason", refused, "description", query.Get("error_description"))
		back(w, r, "", failedRefused)
		return
	}
	token, err := d.exchange(r, kept, query.Get("code"))
	if err != nil {
		d.clients.Info("refused a sign-in by the issuer", "remote", r.RemoteAddr, "reason", err)
		back(w, r, "", failedRejected)
		return
	}
	s := &session{Token: token}
	info, err := d.identify(r.Context(), r, s)
	if err != nil {
		d.clients.Info("refused a sign-in by the issuer: the API does not accept its token", "remote", r.RemoteAddr, "reason", err)
		back(w, r, "", failedRejected)
		return
	}
	if err := d.begin(w, r, s); err != nil {
		problem(w, http.StatusInternalServerError, "InternalError", err.Error())
		return
	}
	d.Log.Info("a user signed in to the dashboard", "user", info.Username, "remote", r.RemoteAddr, "issuer", d.issuer.Issuer)
	back(w, r, kept.To, "")
}

// returned returns what this browser was sent to the issuer with.
func (d *Dashboard) returned(r *http.Request) (*redirected, error) {
	cookie, err := r.Cookie(oidcCookie)
	if err != nil {
		return nil, errors.New("this browser was not sent to the issuer, or too long ago")
	}
	kept := new(redirected)
	if err := d.open(forRedirect, cookie.Value, kept); err != nil {
		return nil, err
	}
	if d.Now().Unix() > kept.Expires {
		return nil, errors.New("it was too long ago that this browser was sent to the issuer")
	}
	if state := r.URL.Query().Get("state"); state == "" || subtle.ConstantTimeCompare([]byte(state), []byte(kept.State)) != 1 {
		return nil, errors.New("the state is not that of this browser")
	}
	return kept, nil
}

// exchange returns the ID token for a code. The issuer's signature is checked here and, as that of any token, by the API.
func (d *Dashboard) exchange(r *http.Request, kept *redirected, code string) (string, error) {
	if code == "" {
		return "", errors.New("the issuer sent no code")
	}
	ctx, cancel := d.issuer.context(r.Context())
	defer cancel()
	provider, err := d.issuer.discover(r.Context(), d.Now())
	if err != nil {
		return "", err
	}
	client, err := d.issuer.client(provider, r.Host)
	if err != nil {
		return "", err
	}
	tokens, err := client.Exchange(ctx, code, oauth2.VerifierOption(kept.Verifier))
	if err != nil {
		var refused *oauth2.RetrieveError
		if errors.As(err, &refused) { // its text has the answer's body, which may have tokens
			return "", fmt.Errorf("the issuer does not accept the code: %s %s", refused.Response.Status, refused.ErrorCode)
		}
		return "", err
	}
	raw, ok := tokens.Extra("id_token").(string)
	if !ok {
		return "", errors.New("the issuer sent no ID token")
	}
	if len(raw) > maxCredential {
		return "", fmt.Errorf("the ID token is longer than %d bytes", maxCredential)
	}
	token, err := provider.Verifier(&oidc.Config{ClientID: d.issuer.ClientID, Now: d.Now}).Verify(ctx, raw)
	if err != nil {
		return "", err
	}
	if subtle.ConstantTimeCompare([]byte(token.Nonce), []byte(kept.Nonce)) != 1 {
		return "", errors.New("the ID token is not for this sign-in: its nonce differs")
	}
	return raw, nil
}
