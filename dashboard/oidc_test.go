package dashboard

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/test/oidcprovider"
)

// provider is a running provider of the tests.
type provider struct {
	*oidcprovider.Provider
	*httptest.Server
}

// authorize is what the user does at the provider: it returns the code for the request in an address, and the request.
func (p *provider) authorize(t *testing.T, location string) (code string, asked url.Values) {
	t.Helper()
	u, err := url.Parse(location)
	if err != nil || !strings.HasPrefix(location, p.URL+"/authorize?") {
		t.Fatalf("the browser was sent to %s", location)
	}
	return p.Code(u.Query()), u.Query()
}

// newPageWithIssuer is a page whose API accepts the provider's tokens.
func newPageWithIssuer(t *testing.T) (*page, *provider) {
	p := newPage(t)
	made, err := oidcprovider.New()
	if err != nil {
		t.Fatal(err)
	}
	made.Now = func() time.Time { return p.now }
	issuer := &provider{made, httptest.NewTLSServer(made)}
	t.Cleanup(issuer.Server.Close)
	made.Issuer = issuer.URL
	api := p.d.API
	p.d, err = New(Config{Keys: p.d.Keys, Now: p.d.Now, OIDC: &OIDC{Issuer: issuer.URL, ClientID: "kontiki", Scopes: []string{"email"}, Client: issuer.Client(), Secret: func() (string, error) { return issuer.Secret, nil }},
		API: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
			subject := made.Subject(token)
			switch subject {
			case "":
				api.ServeHTTP(w, r)
				return
			case "nobody":
				w.WriteHeader(http.StatusUnauthorized)
				return
			}
			w.Header().Set("Content-Type", "application/json")
			json.NewEncoder(w).Encode(authenticationv1.SelfSubjectReview{TypeMeta: metav1.TypeMeta{Kind: "SelfSubjectReview", APIVersion: "authentication.k8s.io/v1"},
				Status: authenticationv1.SelfSubjectReviewStatus{UserInfo: authenticationv1.UserInfo{Username: "oidc:" + subject}}})
		})})
	if err != nil {
		t.Fatal(err)
	}
	return p, issuer
}

// leave sends a browser to the provider, and returns where to, and its cookies.
func (p *page) leave(to string) (location string, cookies []*http.Cookie) {
	p.t.Helper()
	r := p.do(request("GET", oidcPath+"?to="+url.QueryEscape(to), "", secretHeader, "", "Sec-Fetch-Site", "same-origin"))
	if r.StatusCode != http.StatusSeeOther {
		p.t.Fatalf("leaving for the issuer: %s", r.Status)
	}
	return r.Header.Get("Location"), r.Cookies()
}

// arrive is the browser's return from the provider.
func (p *page) arrive(query string, cookies []*http.Cookie) *http.Response {
	return p.do(request("GET", callbackPath+"?"+query, "", secretHeader, "", "Sec-Fetch-Site", "cross-site"), cookies...)
}

// TestASignInByRedirect: with PKCE, state and nonce, and back to the page where the user was.
func TestASignInByRedirect(t *testing.T) {
	p, issuer := newPageWithIssuer(t)
	issuer.Secret = "of the client"
	location, cookies := p.leave("/ui/object/pods/shop/web?q=1")
	if len(cookies) != 1 || !cookies[0].HttpOnly || !cookies[0].Secure || cookies[0].SameSite != http.SameSiteLaxMode || cookies[0].Path != "/" || !strings.HasPrefix(cookies[0].Name, "__Host-") {
		t.Errorf("the cookies are %v", cookies)
	}
	code, asked := issuer.authorize(t, location)
	for name, want := range map[string]string{"client_id": "kontiki", "response_type": "code", "redirect_uri": "https://" + host + callbackPath, "scope": "openid email", "code_challenge_method": "S256"} {
		if asked.Get(name) != want {
			t.Errorf("%s is %q", name, asked.Get(name))
		}
	}
	if len(asked.Get("state")) < 20 || len(asked.Get("nonce")) < 20 || strings.Contains(cookies[0].Value, asked.Get("state")) {
		t.Errorf("the request is %v", asked)
	}
	r := p.arrive("code="+code+"&state="+asked.Get("state"), cookies)
	if r.StatusCode != http.StatusSeeOther || r.Header.Get("Location") != "/ui/object/pods/shop/web?q=1" {
		t.Fatalf("%s to %s", r.Status, r.Header.Get("Location"))
	}
	var session []*http.Cookie
	for _, c := range r.Cookies() {
		switch {
		case c.Name == oidcCookie && c.MaxAge < 0:
		case strings.HasPrefix(c.Name, cookieName) && c.SameSite == http.SameSiteStrictMode:
			session = append(session, c)
		default:
			t.Errorf("a cookie %+v", c)
		}
	}
	if who := decode[who](t, p.do(request("GET", "/ui/session", ""), session...)); who.User != "oidc:jane" || who.Secret == "" {
		t.Errorf("it is %+v", who)
	}
	if at := decode[map[string]any](t, p.do(request("GET", "/ui/session/challenge", "")))["issuer"]; at != issuer.URL {
		t.Errorf("the page offers %v", at)
	}
}

// TestForgedReturnsAreRefused: what an attacker could send a browser back with, or a provider could answer.
func TestForgedReturnsAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		// change changes the provider, the page and the query of the return; other is what another browser got.
		change func(p *page, issuer *provider, query url.Values, cookies []*http.Cookie, other url.Values) []*http.Cookie
		want   string
	}{
		"another browser's state and code": {func(_ *page, _ *provider, q url.Values, cookies []*http.Cookie, other url.Values) []*http.Cookie {
			q.Set("state", other.Get("state"))
			q.Set("code", other.Get("code"))
			return cookies
		}, failedExpired},
		"another browser's code": {func(_ *page, _ *provider, q url.Values, cookies []*http.Cookie, other url.Values) []*http.Cookie {
			q.Set("code", other.Get("code"))
			return cookies
		}, failedRejected},
		"no state": {func(_ *page, _ *provider, q url.Values, cookies []*http.Cookie, _ url.Values) []*http.Cookie {
			q.Del("state")
			return cookies
		}, failedExpired},
		"no cookie": {func(*page, *provider, url.Values, []*http.Cookie, url.Values) []*http.Cookie { return nil }, failedExpired},
		"a session as the cookie": {func(p *page, _ *provider, _ url.Values, _ []*http.Cookie, _ url.Values) []*http.Cookie {
			_, session := p.signIn()
			return []*http.Cookie{{Name: oidcCookie, Value: session[0].Value}}
		}, failedExpired},
		"too late": {func(p *page, _ *provider, _ url.Values, cookies []*http.Cookie, _ url.Values) []*http.Cookie {
			p.now = p.now.Add(redirectLife + time.Minute)
			return cookies
		}, failedExpired},
		"no code": {func(_ *page, _ *provider, q url.Values, cookies []*http.Cookie, _ url.Values) []*http.Cookie {
			q.Del("code")
			return cookies
		}, failedRejected},
		"refused by the issuer": {func(_ *page, _ *provider, q url.Values, cookies []*http.Cookie, _ url.Values) []*http.Cookie {
			q.Set("error", "access_denied")
			return cookies
		}, failedRefused},
		"another nonce": {func(_ *page, i *provider, _ url.Values, cookies []*http.Cookie, _ url.Values) []*http.Cookie {
			i.Change = func(claims map[string]any) { claims["nonce"] = "other" }
			return cookies
		}, failedRejected},
		"no nonce": {func(_ *page, i *provider, _ url.Values, cookies []*http.Cookie, _ url.Values) []*http.Cookie {
			i.Change = func(claims map[string]any) { delete(claims, "nonce") }
			return cookies
		}, failedRejected},
		"a token for another client": {func(_ *page, i *provider, _ url.Values, cookies []*http.Cookie, _ url.Values) []*http.Cookie {
			i.Change = func(claims map[string]any) { claims["aud"] = "other" }
			return cookies
		}, failedRejected},
		"a token of another issuer": {func(_ *page, i *provider, _ url.Values, cookies []*http.Cookie, _ url.Values) []*http.Cookie {
			i.Change = func(claims map[string]any) { claims["iss"] = "https://other.example" }
			return cookies
		}, failedRejected},
		"a token that has expired": {func(p *page, i *provider, _ url.Values, cookies []*http.Cookie, _ url.Values) []*http.Cookie {
			i.Change = func(claims map[string]any) { claims["exp"] = p.now.Add(-time.Hour).Unix() }
			return cookies
		}, failedRejected},
		"a user whom the API does not know": {func(_ *page, i *provider, _ url.Values, cookies []*http.Cookie, _ url.Values) []*http.Cookie {
			i.Change = func(claims map[string]any) { claims["sub"] = "nobody" }
			return cookies
		}, failedRejected},
		"a token that is too long": {func(_ *page, i *provider, _ url.Values, cookies []*http.Cookie, _ url.Values) []*http.Cookie {
			i.Change = func(claims map[string]any) { claims["long"] = strings.Repeat("x", maxCredential) }
			return cookies
		}, failedRejected},
		"a verifier that is not the code's": {func(_ *page, i *provider, q url.Values, cookies []*http.Cookie, _ url.Values) []*http.Cookie {
			i.Asked(q.Get("code")).Set("code_challenge", "other")
			return cookies
		}, failedRejected},
	} {
		t.Run(name, func(t *testing.T) {
			p, issuer := newPageWithIssuer(t)
			other, _ := p.leave("/ui/")
			otherCode, otherAsked := issuer.authorize(t, other)
			location, cookies := p.leave("/ui/")
			code, asked := issuer.authorize(t, location)
			query := url.Values{"code": {code}, "state": {asked.Get("state")}}
			cookies = c.change(p, issuer, query, cookies, url.Values{"code": {otherCode}, "state": {otherAsked.Get("state")}})
			r := p.arrive(query.Encode(), cookies)
			if r.StatusCode != http.StatusSeeOther || r.Header.Get("Location") != "/ui/?sign-in="+c.want {
				t.Errorf("%s to %s", r.Status, r.Header.Get("Location"))
			}
			for _, cookie := range r.Cookies() {
				if strings.HasPrefix(cookie.Name, cookieName) && cookie.Name != oidcCookie {
					t.Errorf("there is a session: %+v", cookie)
				}
			}
			// A return counts once.
			if again := p.arrive(query.Encode(), cookies); again.StatusCode == http.StatusSeeOther && !strings.Contains(again.Header.Get("Location"), "sign-in=") {
				t.Errorf("again: %s to %s", again.Status, again.Header.Get("Location"))
			}
		})
	}
}

func TestRedirectsStayOnThePage(t *testing.T) {
	for to, want := range map[string]string{
		"/ui/list/pods?q=a": "/ui/list/pods?q=a", "": "/ui/", "https://evil.example/": "/ui/", "//evil.example/ui/": "/ui/", "/api/v1": "/ui/", "/ui/../x": "/ui/", "/ui\\x": "/ui/",
		"/ui/\r\nSet-Cookie: a": "/ui/", "/ui/port/x/": "/ui/", "/ui/api/api/v1": "/ui/", "/ui/session/oidc": "/ui/", "/ui/" + strings.Repeat("x", 2000): "/ui/",
	} {
		if got := ownPage(to); got != want {
			t.Errorf("%q leads to %q, not %q", to, got, want)
		}
	}
	p := newPage(t)
	if r := p.do(request("GET", oidcPath, "", secretHeader, "")); r.StatusCode != http.StatusNotFound {
		t.Errorf("without an issuer: %s", r.Status)
	}
	p, issuer := newPageWithIssuer(t)
	issuer.Down = true
	if r := p.do(request("GET", oidcPath, "", secretHeader, "")); r.Header.Get("Location") != "/ui/?sign-in="+failedUnavailable {
		t.Errorf("with an issuer that is down: %s to %s", r.Status, r.Header.Get("Location"))
	}
	issuer.Down = false
	if r := p.do(request("GET", oidcPath, "", secretHeader, "")); !strings.HasPrefix(r.Header.Get("Location"), issuer.URL) {
		t.Errorf("when it is back: %s to %s", r.Status, r.Header.Get("Location"))
	}
}

// TestAnIssuerThatNeverEndsItsAnswer: what the issuer says about itself is read up to a limit.
func TestAnIssuerThatNeverEndsItsAnswer(t *testing.T) {
	p, issuer := newPageWithIssuer(t)
	sent := 0
	issuer.Server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		for chunk := make([]byte, 64<<10); sent < 1<<30; sent += len(chunk) {
			if _, err := w.Write(bytes.Repeat([]byte(" "), len(chunk))); err != nil {
				return
			}
		}
	})
	if r := p.do(request("GET", oidcPath, "", secretHeader, "", "Sec-Fetch-Site", "same-origin")); r.StatusCode != http.StatusSeeOther || !strings.HasSuffix(r.Header.Get("Location"), failedUnavailable) {
		t.Errorf("%s, to %s", r.Status, r.Header.Get("Location"))
	}
	issuer.Server.Close() // waits for the handler
	if sent > 64<<20 {
		t.Errorf("%d bytes of an answer were read", sent)
	}
}
