package dashboard

import (
	"bytes"
	"context"
	"crypto/elliptic"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const host = "cluster.example:6443"

// page is a dashboard before an API that knows the token "right" and client certificates, and what the API was last asked.
type page struct {
	t    *testing.T
	d    *Dashboard
	now  time.Time
	keys map[string][]byte
	key  string
	last *http.Request
	body string
}

func newPage(t *testing.T) *page {
	p := &page{t: t, now: time.Unix(1_800_000_000, 0), keys: map[string][]byte{"key-1": bytes.Repeat([]byte{1}, 32)}, key: "key-1"}
	var err error
	p.d, err = New(Config{
		API: http.HandlerFunc(p.api), Keys: func() (string, map[string][]byte) { return p.key, p.keys }, Now: func() time.Time { return p.now },
		Why: func(ctx context.Context, client kubernetes.Interface, namespace, pod string, out io.Writer) error {
			_, err := client.CoreV1().Pods(namespace).Get(ctx, pod, metav1.GetOptions{})
			fmt.Fprintf(out, "Pod %s/%s: Pending\nNode: none\n", namespace, pod)
			return err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// api stands for the handler of the API port.
func (p *page) api(w http.ResponseWriter, r *http.Request) {
	p.last = r
	body, _ := io.ReadAll(r.Body)
	p.body = string(body)
	user := ""
	switch token := r.Header.Get("Authorization"); {
	case token == "Bearer right", token == "Bearer "+strings.Repeat("r", maxCredential):
		user = "jane"
	case token != "":
	case r.TLS != nil && len(r.TLS.PeerCertificates) > 0:
		user = r.TLS.PeerCertificates[0].Subject.CommonName
	default:
		user = "system:anonymous"
	}
	w.Header().Set("Content-Type", "application/json")
	if user == "" {
		w.WriteHeader(http.StatusUnauthorized)
		io.WriteString(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Unauthorized","code":401}`)
		return
	}
	if strings.HasSuffix(r.URL.Path, "/selfsubjectreviews") {
		json.NewEncoder(w).Encode(authenticationv1.SelfSubjectReview{
			TypeMeta: metav1.TypeMeta{Kind: "SelfSubjectReview", APIVersion: "authentication.k8s.io/v1"},
			Status:   authenticationv1.SelfSubjectReviewStatus{UserInfo: authenticationv1.UserInfo{Username: user, Groups: []string{"system:authenticated"}}},
		})
		return
	}
	fmt.Fprintf(w, `{"kind":"Pod","apiVersion":"v1","metadata":{"name":%q}}`, user)
}

// request returns a request of the page, or with other headers of something else.
func request(method, path, body string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, "https://"+host+path, strings.NewReader(body))
	r.Host = host
	r.Header.Set(secretHeader, "-")
	for i := 0; i < len(headers); i += 2 {
		if headers[i+1] == "" {
			r.Header.Del(headers[i])
			continue
		}
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func (p *page) do(r *http.Request, cookies ...*http.Cookie) *http.Response {
	for _, c := range cookies {
		r.AddCookie(&http.Cookie{Name: c.Name, Value: c.Value})
	}
	w := httptest.NewRecorder()
	p.d.ServeHTTP(w, r)
	return w.Result()
}

func decode[T any](t *testing.T, r *http.Response) (value T) {
	t.Helper()
	if err := json.NewDecoder(r.Body).Decode(&value); err != nil {
		t.Fatal(err)
	}
	return value
}

// signIn signs in with the right token and returns the session's secret and cookies.
func (p *page) signIn() (string, []*http.Cookie) {
	p.t.Helper()
	r := p.do(request("POST", "/ui/session", `{"token":"right"}`))
	if r.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(r.Body)
		p.t.Fatalf("the right token was refused: %s %s", r.Status, body)
	}
	return decode[who](p.t, r).Secret, r.Cookies()
}

func TestSessionsPassRequestsOnAsTheUser(t *testing.T) {
	p := newPage(t)
	secret, cookies := p.signIn()
	for _, c := range cookies {
		if !c.Secure || !c.HttpOnly || c.SameSite != http.SameSiteStrictMode || c.Path != "/ui/" || !strings.HasPrefix(c.Name, "__Secure-") {
			t.Errorf("the cookie %s is not restricted: %+v", c.Name, c)
		}
		if strings.Contains(c.Value, "right") {
			t.Errorf("the cookie %s has the token in plain text", c.Name)
		}
	}
	r := p.do(request("POST", "/ui/api/api/v1/namespaces/a/pods/x%2Fy/proxy//p?q=1", "text", secretHeader, secret, "Referer", "https://"+host+"/ui/"), cookies...)
	if r.StatusCode != http.StatusOK {
		t.Fatalf("a request of the page: %s", r.Status)
	}
	if got := p.last.RequestURI; got != "/api/v1/namespaces/a/pods/x%2Fy/proxy//p?q=1" || p.last.URL.Path != "/api/v1/namespaces/a/pods/x/y/proxy//p" {
		t.Errorf("the API was asked for %s, path %s", got, p.last.URL.Path)
	}
	if p.body != "text" || p.last.Header.Get("Authorization") != "Bearer right" {
		t.Errorf("the API got the body %q and the credential %q", p.body, p.last.Header.Get("Authorization"))
	}
	for _, name := range []string{"Cookie", secretHeader, "Referer", "Origin"} {
		if p.last.Header.Get(name) != "" {
			t.Errorf("the header %s was passed on", name)
		}
	}
	if policy := r.Header.Get("Content-Security-Policy"); !strings.Contains(policy, "sandbox") {
		t.Errorf("an answer of the API has the policy %q, and could be a page", policy)
	}
}

func TestTheSessionsCredentialIsTheOnlyOne(t *testing.T) {
	p := newPage(t)
	secret, cookies := p.signIn()
	r := request("GET", "/ui/api/version", "", secretHeader, secret, "Authorization", "Bearer other")
	certificate, _ := issue(t, "mallory", elliptic.P256())
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{certificate}}
	p.do(r, cookies...)
	if p.last.Header.Get("Authorization") != "Bearer right" || len(p.last.TLS.PeerCertificates) > 0 {
		t.Errorf("the API got %q and %d certificates", p.last.Header.Get("Authorization"), len(p.last.TLS.PeerCertificates))
	}
}

func TestForgedRequestsAreRefused(t *testing.T) {
	p := newPage(t)
	secret, cookies := p.signIn()
	for name, c := range map[string]struct {
		method, path string
		headers      []string
		want         int
	}{
		"a link":                           {"GET", "/ui/api/api/v1/secrets", []string{secretHeader, ""}, 403},
		"another session's secret":         {"GET", "/ui/api/api/v1/secrets", []string{secretHeader, secret[1:] + "x"}, 403},
		"a form":                           {"POST", "/ui/api/api/v1/pods", []string{secretHeader, "", "Origin", "https://evil.example", "Content-Type", "text/plain"}, 403},
		"another origin with the secret":   {"POST", "/ui/api/api/v1/pods", []string{secretHeader, secret, "Origin", "https://evil.example"}, 403},
		"another port of the host":         {"POST", "/ui/api/api/v1/pods", []string{secretHeader, secret, "Origin", "https://cluster.example:9443"}, 403},
		"a sandboxed page":                 {"POST", "/ui/api/api/v1/pods", []string{secretHeader, secret, "Origin", "null"}, 403},
		"a site of the same domain":        {"GET", "/ui/api/api/v1/pods", []string{secretHeader, secret, "Sec-Fetch-Site", "same-site"}, 403},
		"a socket of another origin":       {"GET", "/ui/api/api/v1/namespaces/a/pods/b/exec", []string{secretHeader, "", "Upgrade", "websocket", "Origin", "https://evil.example", "Sec-WebSocket-Protocol", "kontiki.session." + secret}, 403},
		"a socket without an origin":       {"GET", "/ui/api/api/v1/namespaces/a/pods/b/exec", []string{secretHeader, "", "Upgrade", "websocket", "Sec-WebSocket-Protocol", "kontiki.session." + secret}, 403},
		"a socket without the secret":      {"GET", "/ui/api/api/v1/namespaces/a/pods/b/exec", []string{secretHeader, secret, "Upgrade", "websocket", "Origin", "https://" + host}, 403},
		"a sign-in of another site":        {"POST", "/ui/session", []string{"Origin", "https://evil.example"}, 403},
		"a sign-in without the header":     {"POST", "/ui/session", []string{secretHeader, ""}, 403},
		"asking for the secret elsewhere":  {"GET", "/ui/session", []string{secretHeader, ""}, 403},
		"signing out from another site":    {"DELETE", "/ui/session", []string{"Origin", "https://evil.example"}, 403},
		"why, by a link":                   {"GET", "/ui/why/a/b", []string{secretHeader, ""}, 403},
		"the page itself":                  {"GET", "/ui/api/api/v1/pods", []string{secretHeader, secret, "Origin", "https://" + host, "Sec-Fetch-Site", "same-origin"}, 200},
		"the page's socket is not refused": {"GET", "/ui/api/api/v1/namespaces/a/pods/b/exec", []string{secretHeader, "", "Upgrade", "websocket", "Origin", "https://" + host, "Sec-WebSocket-Protocol", "v5.channel.k8s.io, kontiki.session." + secret}, 200},
	} {
		p.last = nil
		r := p.do(request(c.method, c.path, `{"token":"right"}`, c.headers...), cookies...)
		if r.StatusCode != c.want {
			t.Errorf("%s: %s, not %d", name, r.Status, c.want)
		}
		if c.want == 403 && p.last != nil {
			t.Errorf("%s: the API was asked %s", name, p.last.URL)
		}
		if c.want == 200 && p.last.Header.Get("Upgrade") != "" && p.last.Header.Get("Sec-WebSocket-Protocol") != "v5.channel.k8s.io" {
			t.Errorf("%s: the API got the subprotocols %q", name, p.last.Header.Get("Sec-WebSocket-Protocol"))
		}
	}
}

func TestSessionsEnd(t *testing.T) {
	p := newPage(t)
	secret, cookies := p.signIn()
	ask := func() int {
		return p.do(request("GET", "/ui/api/version", "", secretHeader, secret), cookies...).StatusCode
	}
	if got := ask(); got != 200 {
		t.Fatalf("a new session: %d", got)
	}
	p.now = p.now.Add(sessionIdle - time.Minute)
	touched := p.do(request("GET", "/ui/session", ""), cookies...)
	if touched.StatusCode != 200 || len(touched.Cookies()) == 0 {
		t.Fatalf("a user who is there: %s, %d cookies", touched.Status, len(touched.Cookies()))
	}
	p.now = p.now.Add(2 * time.Minute)
	if got := ask(); got != 401 {
		t.Errorf("an idle session: %d", got)
	}
	cookies = touched.Cookies()
	if got := ask(); got != 200 {
		t.Errorf("a session whose user was there: %d", got)
	}
	for range 20 {
		r := p.do(request("GET", "/ui/session", ""), cookies...)
		if r.StatusCode != 200 {
			break
		}
		if c := r.Cookies(); len(c) > 0 {
			cookies = c
		}
		p.now = p.now.Add(sessionIdle / 2)
	}
	if got := ask(); got != 401 {
		t.Errorf("a session of more than %s: %d", sessionLife, got)
	}

	_, cookies = p.signIn()
	for _, c := range p.do(request("DELETE", "/ui/session", ""), cookies...).Cookies() {
		if c.MaxAge >= 0 || c.Value != "" {
			t.Errorf("after signing out the browser keeps %+v", c)
		}
	}
}

func TestStreamsEndWithTheSession(t *testing.T) {
	p := newPage(t)
	secret, cookies := p.signIn()
	p.do(request("GET", "/ui/api/api/v1/pods?watch=1", "", secretHeader, secret), cookies...)
	deadline, ok := p.last.Context().Deadline()
	if want := p.now.Add(sessionLife); !ok || !deadline.Equal(want) {
		t.Errorf("a watch ends at %v, not %v", deadline, want)
	}
}

func TestSessionsOutliveTheRotationOfKeysUntilTheOldOneIsDropped(t *testing.T) {
	p := newPage(t)
	secret, cookies := p.signIn()
	ask := func() int {
		return p.do(request("GET", "/ui/api/version", "", secretHeader, secret), cookies...).StatusCode
	}
	p.keys["key-2"], p.key = bytes.Repeat([]byte{2}, 32), "key-2"
	if got := ask(); got != 200 {
		t.Errorf("while both keys are there: %d", got)
	}
	delete(p.keys, "key-1")
	if got := ask(); got != 401 {
		t.Errorf("without the old key: %d", got)
	}
}

func TestChangedSessionsAreRefused(t *testing.T) {
	p := newPage(t)
	secret, cookies := p.signIn()
	value := cookies[0].Value
	name, sealed, _ := strings.Cut(value, ".")
	for what, changed := range map[string]string{
		"empty": ".", "without its key": sealed, "cut": value[:len(value)-4], "another key's name": "a2V5LTk." + sealed, "not base64": name + ".%%%", "a bit": name + "." + flip(sealed),
	} {
		r := p.do(request("GET", "/ui/api/version", "", secretHeader, secret), &http.Cookie{Name: cookieName, Value: changed})
		if r.StatusCode != 401 {
			t.Errorf("%s: %s", what, r.Status)
		}
	}
	// A challenge is sealed with the same key, and is no session.
	c := decode[map[string]any](t, p.do(request("GET", "/ui/session/challenge", "")))
	r := p.do(request("GET", "/ui/api/version", "", secretHeader, ""), &http.Cookie{Name: cookieName, Value: c["challenge"].(string)})
	if r.StatusCode != 401 {
		t.Errorf("a challenge as a session: %s", r.Status)
	}
}

func flip(s string) string {
	b := []byte(s)
	if b[20] == 'A' {
		b[20] = 'B'
	} else {
		b[20] = 'A'
	}
	return string(b)
}

func TestWhyIsAskedAsTheUser(t *testing.T) {
	p := newPage(t)
	secret, cookies := p.signIn()
	r := p.do(request("GET", "/ui/why/shop/web-1", "", secretHeader, secret), cookies...)
	got := decode[map[string][]string](t, r)
	if strings.Join(got["lines"], "|") != "Pod shop/web-1: Pending|Node: none" {
		t.Errorf("%s %q", r.Status, got)
	}
	if p.last.URL.Path != "/api/v1/namespaces/shop/pods/web-1" || p.last.Header.Get("Authorization") != "Bearer right" {
		t.Errorf("the API was asked %s with %q", p.last.URL, p.last.Header.Get("Authorization"))
	}
}
