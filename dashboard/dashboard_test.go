package dashboard

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net/http"
	"net/http/httptest"
	"regexp"
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

func TestBadSignIns(t *testing.T) {
	p := newPage(t)
	for name, c := range map[string]struct {
		body string
		code int
		says string
	}{
		"a wrong token":     {`{"token":"wrong"}`, 401, "does not accept"},
		"nothing":           {`{}`, 400, "give a token"},
		"no JSON":           {`token=right`, 400, "JSON object"},
		"an unknown field":  {`{"tokens":"right"}`, 400, "tokens"},
		"white space":       {`{"token":"a b"}`, 400, "white space"},
		"both":              {`{"token":"right","certificate":"x"}`, 400, "either"},
		"a long token":      {`{"token":"` + strings.Repeat("r", maxCredential+1) + `"}`, 400, "longer than"},
		"a long body":       {`{"token":"` + strings.Repeat("r", maxSignIn) + `"}`, 400, "too large"},
		"no certificate":    {`{"certificate":"hello"}`, 400, "no PEM block"},
		"a private key":     {`{"certificate":"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"}`, 400, "PRIVATE KEY"},
		"damaged PEM":       {`{"certificate":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}`, 400, "certificate"},
		"a header's bounds": {`{"token":"right\r\nImpersonate-User: admin"}`, 400, "white space"},
	} {
		r := p.do(request("POST", "/ui/session", c.body))
		status := decode[metav1.Status](t, r)
		if r.StatusCode != c.code || !strings.Contains(status.Message, c.says) {
			t.Errorf("%s: %s %q", name, r.Status, status.Message)
		}
		if len(r.Cookies()) > 0 {
			t.Errorf("%s: there are cookies", name)
		}
		p.d.attempts = newAttempts()
	}
}

func TestLongCredentialsTakeSeveralCookies(t *testing.T) {
	p := newPage(t)
	r := p.do(request("POST", "/ui/session", `{"token":"`+strings.Repeat("r", maxCredential)+`"}`))
	long := r.Cookies()
	if r.StatusCode != 200 || len(long) < 4 {
		t.Fatalf("%s, %d cookies", r.Status, len(long))
	}
	for _, c := range long {
		if len(c.Name)+len(c.Value) > 4000 {
			t.Errorf("the cookie %s has %d bytes", c.Name, len(c.Value))
		}
	}
	if got := p.do(request("GET", "/ui/session", ""), long...); got.StatusCode != 200 {
		t.Errorf("the long session: %s", got.Status)
	}
	// A shorter one afterwards leaves none of the parts.
	again := p.do(request("POST", "/ui/session", `{"token":"right"}`), long...)
	gone := 0
	for _, c := range again.Cookies() {
		if c.MaxAge < 0 {
			gone++
		}
	}
	if gone != len(long)-1 {
		t.Errorf("%d of %d parts were removed", gone, len(long)-1)
	}
}

// issue returns a certificate for a key that it makes: an elliptic curve's, rsa.PrivateKey or ed25519.
func issue(t *testing.T, name string, of any) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	var key crypto.Signer
	var err error
	switch of := of.(type) {
	case elliptic.Curve:
		key, err = ecdsa.GenerateKey(of, rand.Reader)
	case string:
		if of == "rsa" {
			key, err = rsa.GenerateKey(rand.Reader, 2048)
		} else {
			_, key, err = ed25519.GenerateKey(rand.Reader)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c, key
}

// signed returns the signature of a text as WebCrypto makes it.
func signed(t *testing.T, key crypto.Signer, text string) []byte {
	t.Helper()
	digest := sha256.Sum256([]byte(text))
	var out []byte
	var err error
	switch key := key.(type) {
	case *ecdsa.PrivateKey:
		r, s, e := ecdsa.Sign(rand.Reader, key, digest[:])
		size := (key.Curve.Params().BitSize + 7) / 8
		out, err = append(r.FillBytes(make([]byte, size)), s.FillBytes(make([]byte, size))...), e
	case ed25519.PrivateKey:
		out = ed25519.Sign(key, []byte(text))
	default:
		out, err = key.Sign(rand.Reader, digest[:], crypto.SHA256)
	}
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestCertificatesNeedTheirKey(t *testing.T) {
	p := newPage(t)
	_, foreign := issue(t, "mallory", elliptic.P256())
	for name, of := range map[string]any{"P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521(), "RSA": "rsa", "Ed25519": "ed25519"} {
		certificate, key := issue(t, "jane", of)
		text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw}))
		challenge := decode[map[string]any](t, p.do(request("GET", "/ui/session/challenge", "")))["challenge"].(string)
		try := func(challenge string, signature []byte) *http.Response {
			p.d.attempts = newAttempts()
			body, _ := json.Marshal(signInRequest{Certificate: text, Challenge: challenge, Signature: signature})
			return p.do(request("POST", "/ui/session", string(body)))
		}
		for what, c := range map[string]struct {
			challenge string
			signature []byte
		}{
			"no signature":               {challenge, nil},
			"another key":                {challenge, signed(t, foreign, signedText("https://"+host, challenge))},
			"another site's challenge":   {challenge, signed(t, key, signedText("https://evil.example", challenge))},
			"a challenge of one's own":   {"e30.e30", signed(t, key, signedText("https://"+host, "e30.e30"))},
			"a signature of nothing":     {challenge, make([]byte, 64)},
			"a signature that is longer": {challenge, append(signed(t, key, signedText("https://"+host, challenge)), 0, 0)},
		} {
			if r := try(c.challenge, c.signature); r.StatusCode != 400 || len(r.Cookies()) > 0 {
				t.Errorf("%s, %s: %s", name, what, r.Status)
			}
		}
		r := try(challenge, signed(t, key, signedText("https://"+host, challenge)))
		if r.StatusCode != 200 {
			t.Errorf("%s: %s", name, r.Status)
			continue
		}
		secret := decode[who](t, r)
		if p.do(request("GET", "/ui/api/version", "", secretHeader, secret.Secret), r.Cookies()...); !p.last.TLS.PeerCertificates[0].Equal(certificate) || secret.User != "jane" {
			t.Errorf("%s: the API did not get the certificate", name)
		}
		p.now = p.now.Add(challengeLife + time.Second)
		if r := try(challenge, signed(t, key, signedText("https://"+host, challenge))); r.StatusCode != 400 {
			t.Errorf("%s, an old challenge: %s", name, r.Status)
		}
	}
}

func TestTheBrowsersCertificateSignsInToo(t *testing.T) {
	p := newPage(t)
	certificate, _ := issue(t, "jane", elliptic.P256())
	r := request("POST", "/ui/session", `{}`)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{certificate}}
	if got := decode[who](t, p.do(r)); got.User != "jane" {
		t.Errorf("signed in as %q", got.User)
	}
}

func TestAttemptsToSignInAreLimited(t *testing.T) {
	p := newPage(t)
	try := func(remote string) int {
		r := request("POST", "/ui/session", `{"token":"wrong"}`)
		r.RemoteAddr = remote
		return p.do(r).StatusCode
	}
	for range perClientBurst {
		if got := try("192.0.2.1:1000"); got != 401 {
			t.Fatalf("an attempt within the limit: %d", got)
		}
	}
	if got := try("192.0.2.1:2000"); got != 429 {
		t.Errorf("one more: %d", got)
	}
	if got := try("192.0.2.2:1000"); got != 401 {
		t.Errorf("of another address: %d", got)
	}
	if network("[2001:db8::1]:1") != network("[2001:db8::ffff]:2") || network("[2001:db8::1]:1") == network("[2001:db8:0:1::1]:1") {
		t.Error("addresses of IPv6 are not limited by their /64")
	}
	for i := range 3 * maxClients {
		p.d.attempts.client(fmt.Sprintf("10.%d.%d.1:1", i/256, i%256))
	}
	if n := len(p.d.attempts.clients); n > maxClients {
		t.Errorf("%d addresses are remembered", n)
	}
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

func TestThePageIsServed(t *testing.T) {
	p := newPage(t)
	nonce := regexp.MustCompile(`'nonce-([A-Z0-9]+)'`)
	seen := map[string]bool{}
	for _, path := range []string{"/ui/", "/ui/index.html", "/ui/list/pods", "/ui/object/pods/a/b%2Fc/logs"} {
		r := p.do(request("GET", path, ""))
		body, _ := io.ReadAll(r.Body)
		policy := r.Header.Get("Content-Security-Policy")
		match := nonce.FindStringSubmatch(policy)
		if r.StatusCode != 200 || match == nil || !strings.Contains(string(body), match[1]) || strings.Contains(string(body), nonceMark) {
			t.Errorf("%s: %s, policy %q", path, r.Status, policy)
			continue
		}
		if seen[match[1]] {
			t.Errorf("%s: the nonce is not new", path)
		}
		seen[match[1]] = true
		for _, part := range []string{"default-src 'none'", "script-src 'self';", "frame-ancestors 'none'", "form-action 'none'", "base-uri 'none'"} {
			if !strings.Contains(policy, part) {
				t.Errorf("%s: the policy lacks %s", path, part)
			}
		}
		if r.Header.Get("X-Frame-Options") != "DENY" || r.Header.Get("X-Content-Type-Options") != "nosniff" || r.Header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s: headers are missing: %v", path, r.Header)
		}
		if strings.Contains(string(body), "<style") || regexp.MustCompile(`<script[^>]*>[^<]`).Match(body) || regexp.MustCompile(`\son[a-z]+=`).Match(body) {
			t.Errorf("%s: the page has inline scripts or styles", path)
		}
	}
	if r := p.do(request("GET", "/ui", "")); r.StatusCode != 301 || r.Header.Get("Location") != "/ui/" {
		t.Errorf("/ui: %s to %q", r.Status, r.Header.Get("Location"))
	}
	for _, path := range []string{"/ui/assets/none.js", "/ui/assets/../index.html"} {
		if r := p.do(request("GET", path, "")); r.StatusCode == 200 {
			t.Errorf("%s: %s", path, r.Status)
		}
	}
	if r := p.do(request("POST", "/ui/list", "")); r.StatusCode != 405 {
		t.Errorf("POST of the page: %s", r.Status)
	}
}

func TestAssetsAreCachedAndCompressed(t *testing.T) {
	p := newPage(t)
	tried := 0
	err := fs.WalkDir(built, "dist/assets", func(at string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		tried++
		path := "/ui/" + strings.TrimPrefix(at, "dist/")
		plain := p.do(request("GET", path, ""))
		want, _ := fs.ReadFile(built, at)
		if body, _ := io.ReadAll(plain.Body); !bytes.Equal(body, want) || !strings.Contains(plain.Header.Get("Cache-Control"), "immutable") {
			t.Errorf("%s: %d bytes of %d, %q", path, len(body), len(want), plain.Header.Get("Cache-Control"))
		}
		if zipped := p.do(request("GET", path, "", "Accept-Encoding", "br, gzip;q=0.8")); zipped.Header.Get("Content-Encoding") == "gzip" {
			reader, err := gzip.NewReader(zipped.Body)
			if err != nil {
				return err
			}
			if body, _ := io.ReadAll(reader); !bytes.Equal(body, want) {
				t.Errorf("%s: the compressed form differs", path)
			}
		} else if len(want) > 4096 {
			t.Errorf("%s: %d bytes are not compressed", path, len(want))
		}
		if p.do(request("GET", path, "", "Accept-Encoding", "gzip;q=0")).Header.Get("Content-Encoding") != "" {
			t.Errorf("%s: compressed for a client that refuses it", path)
		}
		if again := p.do(request("GET", path, "", "If-None-Match", plain.Header.Get("ETag"))); again.StatusCode != 304 {
			t.Errorf("%s: %s although it is unchanged", path, again.Status)
		}
		return nil
	})
	if err != nil || tried < 5 {
		t.Errorf("%d files, %v", tried, err)
	}
}

// TestTheFirstLoadIsSmall bounds what a browser needs before the first page shows: the page, what it names, and the largest page that is loaded first.
func TestTheFirstLoadIsSmall(t *testing.T) {
	const budget = 80 << 10
	index, err := fs.ReadFile(built, "dist/"+indexFile)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, m := range regexp.MustCompile(`assets/[\w.-]+`).FindAllString(string(index), -1) {
		names[m] = true
	}
	all, err := fs.Glob(built, "dist/assets/*")
	if err != nil {
		t.Fatal(err)
	}
	// The sign-in, the cluster's page, and what they import.
	for queue := []string{"SignIn-", "Overview-", "kubeconfig-"}; len(queue) > 0; queue = queue[1:] {
		for _, at := range all {
			if name := strings.TrimPrefix(at, "dist/"); strings.HasPrefix(name, assets+queue[0]) && !names[name] {
				names[name] = true
			}
		}
	}
	imports := regexp.MustCompile(`(?:from|import)\s*"\./([\w.-]+\.js)"`)
	for grew := true; grew; {
		grew = false
		for name := range names {
			data, err := fs.ReadFile(built, "dist/"+name)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range imports.FindAllSubmatch(data, -1) {
				if in := assets + string(m[1]); !names[in] {
					names[in], grew = true, true
				}
			}
		}
	}
	total := len(index)
	for name := range names {
		data, err := fs.ReadFile(built, "dist/"+name)
		if err != nil {
			t.Fatal(err)
		}
		zipped, err := compress(data)
		if err != nil {
			t.Fatal(err)
		}
		total += min(len(zipped), len(data))
	}
	t.Logf("%d files, %d bytes compressed", len(names), total)
	if total > budget || len(names) < 6 {
		t.Errorf("the first load is %d bytes in %d files, more than %d", total, len(names), budget)
	}
}
