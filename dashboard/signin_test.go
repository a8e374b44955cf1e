package dashboard

import (
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
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
