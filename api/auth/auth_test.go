package auth

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
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// subjects are the existing objects: names to UIDs.
type subjects map[string]string

// A UID followed by "deleted TIME" is that of an object that is being deleted.
func (s subjects) Object(resource, namespace, name string) (metav1.Object, bool) {
	short := map[string]string{"serviceaccounts": "sa", "pods": "pod", "secrets": "secret", "nodes": "node"}[resource]
	uid, ok := s[short+"/"+namespace+"/"+name]
	if !ok {
		return nil, false
	}
	uid, deleted, _ := strings.Cut(uid, " deleted ")
	obj := &metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(uid)}
	if deleted != "" {
		at, err := time.Parse(time.RFC3339, deleted)
		if err != nil {
			panic(err)
		}
		obj.DeletionTimestamp = &metav1.Time{Time: at}
	}
	return obj, true
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newTokens(t *testing.T, key crypto.Signer, known subjects, now *time.Time) *Tokens {
	t.Helper()
	tokens, err := NewTokens("https://issuer", key, known, func() time.Time { return *now })
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func TestTokensHoldOnlyAsLongAsWhatTheyAreBoundTo(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	account := Binding{Namespace: "ns", ServiceAccount: "sa", ServiceAccountUID: "u1"}
	inPod := account
	inPod.Pod, inPod.PodUID, inPod.Node, inPod.NodeUID = "p", "u2", "n", "u3"
	withSecret := account
	withSecret.Secret, withSecret.SecretUID = "s", "u4"
	onNode := account
	onNode.Node, onNode.NodeUID = "n", "u3"
	all := subjects{"sa/ns/sa": "u1", "pod/ns/p": "u2", "secret/ns/s": "u4", "node//n": "u3"}
	with := func(key, value string) subjects {
		changed := maps.Clone(all)
		changed[key] = value
		return changed
	}
	without := func(key string) subjects {
		changed := maps.Clone(all)
		delete(changed, key)
		return changed
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	key := newKey(t)
	for _, c := range []struct {
		name      string
		binding   Binding
		audiences []string
		asked     []string
		known     subjects
		after     time.Duration
		checker   crypto.Signer
		want      string // part of the refusal; "" when it holds
	}{
		{name: "fresh", binding: account, known: all},
		{name: "just before its end", binding: account, known: all, after: time.Hour - time.Second},
		{name: "expired", binding: account, known: all, after: time.Hour + time.Second, want: "expired"},
		{name: "from the future", binding: account, known: all, after: -time.Minute, want: "not valid yet"},
		{name: "for another audience", binding: account, audiences: []string{"vault"}, known: all, want: `for the audience "vault"`},
		{name: "for the audience that asks", binding: account, audiences: []string{"vault"}, asked: []string{"vault", "x"}, known: all},
		{name: "the account is gone", binding: account, known: subjects{}, want: "service account ns/sa is gone"},
		{name: "the account was made anew", binding: account, known: subjects{"sa/ns/sa": "other"}, want: "service account ns/sa is gone"},
		{name: "in its pod", binding: inPod, known: all},
		{name: "the pod is gone", binding: inPod, known: subjects{"sa/ns/sa": "u1"}, want: "pod ns/p is gone"},
		{name: "another pod of the name", binding: inPod, known: subjects{"sa/ns/sa": "u1", "pod/ns/p": "x"}, want: "pod ns/p is gone"},
		{name: "with its secret", binding: withSecret, known: all},
		{name: "the secret is gone", binding: withSecret, known: subjects{"sa/ns/sa": "u1"}, want: "secret ns/s is gone"},
		{name: "on its node", binding: onNode, known: all},
		{name: "the node is gone", binding: onNode, known: without("node//n"), want: "node n is gone"},
		{name: "another node of the name", binding: onNode, known: with("node//n", "x"), want: "node n is gone"},
		{name: "the node is gone, and the pod is not", binding: inPod, known: without("node//n")},
		{name: "the pod is being deleted", binding: inPod, known: with("pod/ns/p", "u2 deleted 2026-01-01T00:00:30Z"), after: time.Minute},
		{name: "the pod was deleted long ago", binding: inPod, known: with("pod/ns/p", "u2 deleted 2026-01-01T00:00:30Z"), after: 2 * time.Minute, want: "pod ns/p is gone"},
		{name: "the account was deleted long ago", binding: account, known: with("sa/ns/sa", "u1 deleted 2026-01-01T00:00:30Z"), after: 2 * time.Minute, want: "service account ns/sa is gone"},
		{name: "another cluster's key", binding: account, known: all, checker: newKey(t), want: "signature"},
		{name: "another kind of key", binding: account, known: all, checker: rsaKey, want: "not a token of this cluster"},
	} {
		t.Run(c.name, func(t *testing.T) {
			now := start
			token, expires, err := newTokens(t, key, c.known, &now).Issue(c.binding, c.audiences, 3600)
			if err != nil || !expires.Equal(start.Add(time.Hour)) {
				t.Fatal(expires, err)
			}
			checker := crypto.Signer(key)
			if c.checker != nil {
				checker = c.checker
			}
			now = start.Add(c.after)
			info, matched, err := newTokens(t, checker, c.known, &now).Check(token, c.asked)
			if c.want != "" {
				if !errors.Is(err, ErrToken) || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("%v, want a refusal that says %q", err, c.want)
				}
				return
			}
			if err != nil || len(matched) != 1 || info.GetName() != "system:serviceaccount:ns:sa" || info.GetUID() != "u1" ||
				!slices.Equal(info.GetGroups(), []string{"system:serviceaccounts", "system:serviceaccounts:ns"}) {
				t.Fatalf("%+v for %v, %v", info, matched, err)
			}
			if c.binding.Pod != "" && (info.GetExtra()["authentication.kubernetes.io/pod-name"][0] != "p" || info.GetExtra()["authentication.kubernetes.io/node-name"][0] != "n") {
				t.Errorf("extra %v", info.GetExtra())
			}
		})
	}
}

func TestDamagedTokensAreRefused(t *testing.T) {
	now := time.Now()
	tokens := newTokens(t, newKey(t), subjects{"sa/ns/sa": "u"}, &now)
	token, _, err := tokens.Issue(Binding{Namespace: "ns", ServiceAccount: "sa", ServiceAccountUID: "u"}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := tokens.Check(token, nil); err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	forged, _ := json.Marshal(map[string]any{"iss": "https://issuer", "aud": []string{"https://issuer"}, "exp": now.Add(time.Hour).Unix(), "sub": "system:admin"})
	unsigned := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + base64.RawURLEncoding.EncodeToString(forged) + "."
	for name, damaged := range map[string]string{
		"empty": "", "no token": "nonsense", "cut": token[:len(token)-4], "other claims": parts[0] + "." + base64.RawURLEncoding.EncodeToString(forged) + "." + parts[2],
		"unsigned": unsigned, "without signature": parts[0] + "." + parts[1] + ".",
	} {
		if _, _, err := tokens.Check(damaged, nil); !errors.Is(err, ErrToken) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestKeysArePublished(t *testing.T) {
	now := time.Now()
	key := newKey(t)
	tokens := newTokens(t, key, subjects{"sa/ns/sa": "u1"}, &now)
	data, err := tokens.JWKS()
	if err != nil {
		t.Fatal(err)
	}
	var set jose.JSONWebKeySet
	if err := json.Unmarshal(data, &set); err != nil || len(set.Keys) != 1 || !key.PublicKey.Equal(set.Keys[0].Key) || !set.Keys[0].IsPublic() {
		t.Fatalf("%s, %v", data, err)
	}
	document, err := tokens.Discovery()
	if err != nil || !strings.Contains(string(document), `"jwks_uri":"https://issuer/openid/v1/jwks"`) {
		t.Fatalf("%s, %v", document, err)
	}
	// While the key is changed, tokens of both keys are valid; the first key signs.
	fresh := newKey(t)
	old, _, err := tokens.Issue(Binding{Namespace: "ns", ServiceAccount: "sa", ServiceAccountUID: "u1"}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	holds := func(token string) bool {
		_, _, err := tokens.Check(token, nil)
		return err == nil
	}
	if !holds(old) {
		t.Fatal("the token does not hold")
	}
	if err := tokens.Use(fresh, key); err != nil {
		t.Fatal(err)
	}
	young, _, err := tokens.Issue(Binding{Namespace: "ns", ServiceAccount: "sa", ServiceAccountUID: "u1"}, nil, 0)
	if err != nil || !holds(old) || !holds(young) {
		t.Errorf("with both keys: %v, %v, %v", err, holds(old), holds(young))
	}
	if data, err := tokens.JWKS(); err != nil || json.Unmarshal(data, &set) != nil || len(set.Keys) != 2 || !fresh.PublicKey.Equal(set.Keys[0].Key) {
		t.Errorf("both keys are shown as %s, %v", data, err)
	}
	if err := tokens.Use(fresh); err != nil || holds(old) || !holds(young) {
		t.Errorf("with the new key alone: %v, %v, %v", err, holds(old), holds(young))
	}
	_, wrong, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewTokens("i", wrong, nil, time.Now); err == nil {
		t.Error("a key that cannot sign tokens was taken")
	}
}

// issue creates a certificate; if parent is nil, it creates a CA.
func issue(t *testing.T, template x509.Certificate, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := newKey(t)
	template.SerialNumber = big.NewInt(1)
	if parent == nil {
		parent, parentKey = &template, key
		template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
	}
	der, err := x509.CreateCertificate(rand.Reader, &template, parent, key.Public(), parentKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func TestCertificates(t *testing.T) {
	now := time.Now()
	valid := x509.Certificate{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), Subject: pkix.Name{CommonName: "jane", Organization: []string{"devs"}},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	ca := valid
	ca.ExtKeyUsage = nil
	root, rootKey := issue(t, ca, nil, nil)
	other, otherKey := issue(t, ca, nil, nil)
	roots := x509.NewCertPool()
	roots.AddCert(root)
	tokens := newTokens(t, newKey(t), subjects{"sa/ns/sa": "u"}, &now)
	token, _, err := tokens.Issue(Binding{Namespace: "ns", ServiceAccount: "sa", ServiceAccountUID: "u"}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	a := &Authenticator{Roots: func() *x509.CertPool { return roots }, Tokens: tokens}
	change := func(f func(*x509.Certificate)) x509.Certificate {
		c := valid
		f(&c)
		return c
	}
	for _, c := range []struct {
		name     string
		template x509.Certificate
		foreign  bool
		bearer   string
		want     string // the user; "" for a refusal
		says     string
	}{
		{name: "valid", template: valid, want: "jane"},
		{name: "expired", template: change(func(c *x509.Certificate) { c.NotAfter = now.Add(-time.Minute) }), says: "expired"},
		{name: "not valid yet", template: change(func(c *x509.Certificate) { c.NotBefore = now.Add(time.Minute) }), says: "not yet valid"},
		{name: "of another CA", template: valid, foreign: true, says: "unknown authority"},
		{name: "no common name", template: change(func(c *x509.Certificate) { c.Subject = pkix.Name{Organization: []string{"system:masters"}} }), says: "common name"},
		{name: "a server's", template: change(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), says: "key usage"},
		{name: "of another CA, with a token that holds", template: valid, foreign: true, bearer: token, want: "system:serviceaccount:ns:sa"},
		{name: "valid, with a token that does not hold", template: valid, bearer: "nonsense", want: "jane"},
	} {
		t.Run(c.name, func(t *testing.T) {
			parent, key := root, rootKey
			if c.foreign {
				parent, key = other, otherKey
			}
			cert, _ := issue(t, c.template, parent, key)
			r, _ := http.NewRequest("GET", "https://x/api", nil)
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
			if c.bearer != "" {
				r.Header.Set("Authorization", "Bearer "+c.bearer)
			}
			who, err := a.Authenticate(r, "/")
			if c.want == "" {
				if !errors.Is(err, ErrUnauthenticated) || !strings.Contains(err.Error(), c.says) {
					t.Fatalf("%v, %v", who, err)
				}
				return
			}
			if err != nil || who.GetName() != c.want || !slices.Contains(who.GetGroups(), user.AllAuthenticated) {
				t.Fatalf("%v, %v", who, err)
			}
		})
	}
}

// TestUsersOfCertificates: the user of a certificate has its fingerprint as credential ID, and the UID of its subject, whether the
// certificate was just verified or is remembered. A UID that is not a single non-empty string is
// refused.
func TestUsersOfCertificates(t *testing.T) {
	now := time.Now()
	root, rootKey := issue(t, x509.Certificate{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), Subject: pkix.Name{CommonName: "ca"}}, nil, nil)
	roots := x509.NewCertPool()
	roots.AddCert(root)
	a := &Authenticator{Roots: func() *x509.CertPool { return roots }}
	for _, c := range []struct {
		name string
		uids []string
		want string
		says string
	}{
		{name: "none"},
		{name: "one", uids: []string{"u-1"}, want: "u-1"},
		{name: "two", uids: []string{"u-1", "u-2"}, says: "expected 1 UID, but found multiple: [u-1 u-2]"},
		{name: "empty", uids: []string{""}, says: "UID cannot be an empty string"},
	} {
		t.Run(c.name, func(t *testing.T) {
			subject := pkix.Name{CommonName: "jane", Organization: []string{"devs"}}
			for _, uid := range c.uids {
				subject.ExtraNames = append(subject.ExtraNames, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57683, 2}, Value: uid})
			}
			cert, _ := issue(t, x509.Certificate{
				NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), Subject: subject, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
			}, root, rootKey)
			r, _ := http.NewRequest("GET", "https://x/api", nil)
			r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
			for _, step := range []string{"verified", "remembered"} {
				who, err := a.Authenticate(r, "/")
				if c.says != "" {
					if !errors.Is(err, ErrUnauthenticated) || !strings.Contains(err.Error(), c.says) {
						t.Errorf("%s: %v, %v", step, who, err)
					}
					continue
				}
				if err != nil {
					t.Fatalf("%s: %v", step, err)
				}
				want := []string{fmt.Sprintf("X509SHA256=%x", sha256.Sum256(cert.Raw))}
				if got := who.GetExtra()["authentication.kubernetes.io/credential-id"]; who.GetUID() != c.want || !slices.Equal(got, want) || len(who.GetExtra()) != 1 {
					t.Errorf("%s: UID %q, extra %v, want %q and %v", step, who.GetUID(), who.GetExtra(), c.want, want)
				}
			}
		})
	}
	// crypto/x509 refuses to read what is not a string; another reader need not.
	names := []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57683, 2}, Value: 7}}
	if uid, err := subjectUID(pkix.Name{Names: names}); err == nil || err.Error() != "unable to parse UID into a string" {
		t.Errorf("a number: %q, %v", uid, err)
	}
}

// TestRememberedCertificatesHoldForTheirRootsAlone: a change of the CAs takes effect with the next request.
func TestRememberedCertificatesHoldForTheirRootsAlone(t *testing.T) {
	now := time.Now()
	template := x509.Certificate{NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour), Subject: pkix.Name{CommonName: "jane"}}
	root, rootKey := issue(t, template, nil, nil)
	other, _ := issue(t, template, nil, nil)
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	cert, _ := issue(t, template, root, rootKey)
	trusted := root
	a := &Authenticator{Roots: func() *x509.CertPool {
		pool := x509.NewCertPool()
		pool.AddCert(trusted)
		return pool
	}}
	r, _ := http.NewRequest("GET", "https://x/api", nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}
	for step, c := range []struct {
		trusted *x509.Certificate
		holds   bool
	}{{root, true}, {root, true}, {other, false}, {root, true}} {
		trusted = c.trusted
		if _, err := a.Authenticate(r, "/"); (err == nil) != c.holds {
			t.Errorf("step %d: %v", step, err)
		}
	}
	a.verified.put(a.verified.roots, [][]*x509.Certificate{{{Raw: cert.Raw, NotAfter: now.Add(-time.Second)}}}, nil)
	if _, ok := a.verified.get(a.verified.roots, cert); ok {
		t.Error("what has expired is remembered")
	}
}

func TestHeadersAndWebSockets(t *testing.T) {
	now := time.Now()
	tokens := newTokens(t, newKey(t), subjects{"sa/ns/sa": "u"}, &now)
	token, _, err := tokens.Issue(Binding{Namespace: "ns", ServiceAccount: "sa", ServiceAccountUID: "u"}, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	a := &Authenticator{Tokens: tokens}
	protocol := "base64url.bearer.authorization.k8s.io." + base64.RawURLEncoding.EncodeToString([]byte(token))
	const account = "system:serviceaccount:ns:sa"
	for _, c := range []struct {
		name   string
		header http.Header
		want   string
	}{
		{"nothing", nil, user.Anonymous},
		{"bearer", http.Header{"Authorization": {"Bearer " + token}}, account},
		{"bearer in small letters", http.Header{"Authorization": {"bearer " + token}}, account},
		{"basic", http.Header{"Authorization": {"Basic eDp5"}}, ""},
		{"empty bearer", http.Header{"Authorization": {"Bearer "}}, ""},
		{"bad bearer", http.Header{"Authorization": {"Bearer x"}}, ""},
		{"websocket", http.Header{"Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"v5.channel.k8s.io, " + protocol}}, account},
		{"websocket with a bad token", http.Header{"Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"base64url.bearer.authorization.k8s.io.eA"}}, ""},
		{"websocket without a token", http.Header{"Upgrade": {"websocket"}, "Sec-Websocket-Protocol": {"v5.channel.k8s.io"}}, user.Anonymous},
		{"protocol without an upgrade", http.Header{"Sec-Websocket-Protocol": {protocol}}, user.Anonymous},
	} {
		t.Run(c.name, func(t *testing.T) {
			r, _ := http.NewRequest("GET", "https://x/api", nil)
			if c.header != nil {
				r.Header = c.header
			}
			who, err := a.Authenticate(r, "/")
			if c.want == "" {
				if !errors.Is(err, ErrUnauthenticated) {
					t.Fatalf("%v, %v", who, err)
				}
				return
			}
			if err != nil || who.GetName() != c.want {
				t.Fatalf("%v, %v", who, err)
			}
			if c.name == "websocket" && r.Header.Get("Sec-WebSocket-Protocol") != "v5.channel.k8s.io" {
				t.Errorf("the token is passed on: %q", r.Header.Get("Sec-WebSocket-Protocol"))
			}
		})
	}
}

func TestRefusalsAreUpstreams(t *testing.T) {
	someone := &user.DefaultInfo{Name: "s<", Groups: []string{user.AllAuthenticated}}
	anonymous := &user.DefaultInfo{Name: user.Anonymous, Groups: []string{user.AllUnauthenticated}}
	type record = authorizer.AttributesRecord
	for _, c := range []struct {
		a            record
		reason, want string
	}{
		{record{User: someone, Verb: "get", Resource: "pods", Subresource: "log", Namespace: "n", Name: "p", ResourceRequest: true}, "because",
			`pods "p" is forbidden: User "s&lt;" cannot get resource "pods/log" in API group "" in the namespace "n": because`},
		{record{User: someone, Verb: "list", APIGroup: "apps", Resource: "deployments", ResourceRequest: true}, "",
			`deployments.apps is forbidden: User "s&lt;" cannot list resource "deployments" in API group "apps" at the cluster scope`},
		{record{User: someone, Verb: "get", Path: "/metrics"}, "", `forbidden: User "s&lt;" cannot get path "/metrics"`},
		{record{User: anonymous, Verb: "get", Path: "/x"}, "", `forbidden: User "system:anonymous" cannot get path "/x"`}, // impersonated
		{record{User: Anonymous, Verb: "get", Path: "/x"}, "", "Unauthorized"},
	} {
		if got := Refused(c.a, c.reason).Error(); got != c.want {
			t.Errorf("%v: %s", c.want, got)
		}
	}
	a := record{User: someone, Verb: "get", Path: "/x"}
	for _, c := range []struct {
		decision authorizer.Decision
		err      error
		code     int32
	}{
		{authorizer.DecisionAllow, errors.New("broken"), 0}, {authorizer.DecisionNoOpinion, errors.New("broken"), 500}, {authorizer.DecisionDeny, nil, 403}, {authorizer.DecisionNoOpinion, nil, 403},
	} {
		var code int32
		if err := Outcome(a, c.decision, "", c.err); err != nil {
			code = err.(*apierrors.StatusError).ErrStatus.Code
		}
		if code != c.code {
			t.Errorf("%v with error %v: %d", c.decision, c.err, code)
		}
	}
}
