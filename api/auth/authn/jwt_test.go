package authn_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apiserver/pkg/authentication/authenticator"

	"github.com/kontiki/kontiki/api/auth/authn"
	"github.com/kontiki/kontiki/test/await"
)

const header = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\n"

// load reads a configuration as a master does.
func load(t testing.TB, text string, change ...func(*authn.Config)) (*authn.JWT, string, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "authentication.yaml")
	write(t, file, text)
	config, data, err := authn.Load(file)
	if err != nil {
		return nil, file, err
	}
	c := authn.Config{
		Initial: config, File: file, Data: data, SigningAlgorithms: authn.Algorithms, Audiences: authenticator.Audiences{"api"},
		Disallowed: []string{"https://kubernetes.default.svc.cluster.local"}, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		KeyInterval: time.Millisecond, Poll: 10 * time.Millisecond,
	}
	for _, f := range change {
		f(&c)
	}
	j, err := authn.New(c)
	return j, file, err
}

// write replaces a file at once.
func write(t testing.TB, file, text string) {
	t.Helper()
	if err := errors.Join(os.WriteFile(file+".new", []byte(text), 0o600), os.Rename(file+".new", file)); err != nil {
		t.Fatal(err)
	}
}

// run runs an authenticator until the test ends.
func run(t testing.TB, j *authn.JWT) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		j.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
}

func open(t *testing.T, text string, change ...func(*authn.Config)) (*authn.JWT, string) {
	t.Helper()
	j, file, err := load(t, text, change...)
	if err != nil {
		t.Fatal(err)
	}
	run(t, j)
	return j, file
}

// ask returns "user groups uid extra" or the refusal.
func ask(j *authn.JWT, token string) string {
	response, ok, err := j.AuthenticateToken(context.Background(), token)
	if err != nil {
		return err.Error()
	}
	if !ok {
		return "not mine"
	}
	u := response.User
	return fmt.Sprint(u.GetName(), " ", u.GetGroups(), " ", u.GetUID(), " ", u.GetExtra())
}

// ready waits for the keys of an issuer.
func ready(t testing.TB, j *authn.JWT, i *testIssuer) {
	t.Helper()
	await.That(t, "the issuer's keys", func() error {
		if got := ask(j, i.token(nil)); strings.Contains(got, "not initialized") {
			return errors.New(got)
		}
		return nil
	})
}

func TestTokensOfSeveralIssuers(t *testing.T) {
	one, two, stranger := newTestIssuer(t), newTestIssuer(t), newTestIssuer(t)
	j, _ := open(t, header+"jwt:\n"+one.entry()+`  claimMappings:
    username: {claim: sub, prefix: "one:"}
    groups: {claim: groups, prefix: "g:"}
    uid: {claim: uid}
  claimValidationRules:
  - {claim: hd, requiredValue: example.com}
- issuer:
    url: `+two.URL+`
    discoveryURL: `+two.URL+`/elsewhere
    audiences: [kontiki, other]
    audienceMatchPolicy: MatchAny
    certificateAuthority: |
      `+two.ca()+`
  claimValidationRules:
  - {expression: "claims.level >= 3.0", message: the level is too low}
  - {expression: "!has(claims.nested) || claims.nested.list[0].a__dot__b == 'x'", message: nested}
  claimMappings:
    username: {expression: "'two:' + claims.sub"}
    groups: {expression: "claims.?roles.orValue([])"}
    uid: {expression: "claims.sub + '-uid'"}
    extra:
    - {key: example.com/team, valueExpression: "has(claims.team) ? claims.team : ''"}
  userValidationRules:
  - {expression: "!user.username.startsWith('two:system:')", message: reserved}
  - {expression: "user.groups.all(g, !g.startsWith('system:'))", message: reserved group}
`)
	ready(t, j, one)
	ready(t, j, two)
	hd := func(more map[string]any) map[string]any {
		out := map[string]any{"hd": "example.com"}
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	level := func(more map[string]any) map[string]any {
		out := map[string]any{"level": 3}
		for k, v := range more {
			out[k] = v
		}
		return out
	}
	secret := bytes.Repeat([]byte("k"), 32)
	for _, c := range []struct{ name, token, want string }{
		{"the first issuer's", one.token(hd(map[string]any{"uid": ""})), "one:jane []  map[]"},
		{"with groups, a UID and an ID", one.token(hd(map[string]any{"groups": []string{"a", "b"}, "uid": "7", "jti": "x"})), "one:jane [g:a g:b] 7 map[authentication.kubernetes.io/credential-id:[JTI=x]]"},
		{"with one group", one.token(hd(map[string]any{"groups": "a", "uid": "7"})), "one:jane [g:a] 7 map[]"},
		{"with several audiences", one.token(hd(map[string]any{"aud": []string{"x", "kontiki"}, "uid": ""})), "one:jane []  map[]"},
		{"with groups that are no strings", one.token(hd(map[string]any{"groups": []any{1}, "uid": ""})), "parse groups claim"},
		{"with groups elsewhere", one.token(hd(map[string]any{"_claim_names": map[string]string{"groups": "s"}, "_claim_sources": map[string]any{"s": map[string]string{"endpoint": stranger.URL}}})), "distributed"},
		{"without a required claim", one.token(map[string]any{"uid": ""}), "required claim hd not present"},
		{"with another value of a required claim", one.token(map[string]any{"hd": "evil.com", "uid": ""}), "required claim hd value does not match. Got = evil.com, want = example.com"},
		{"without a name", one.token(hd(map[string]any{"sub": nil})), `parse username claims "sub": claim not present`},
		{"with an empty name", one.token(hd(map[string]any{"sub": ""})), "empty usernames"},
		{"for another audience", one.token(hd(map[string]any{"aud": "other"})), `expected audience in ["kontiki"] got ["other"]`},
		{"for no audience", one.token(hd(map[string]any{"aud": nil})), "expected audience"},
		{"expired", one.token(hd(map[string]any{"exp": time.Now().Add(-time.Minute).Unix()})), "expired"},
		{"that never expires", one.token(hd(map[string]any{"exp": nil})), "expired"},
		{"from the future", one.token(hd(map[string]any{"nbf": time.Now().Add(time.Hour).Unix()})), "before the nbf"},
		{"of a symmetric key", one.sign(jose.SigningKey{Algorithm: jose.HS256, Key: secret}, hd(nil)), "unexpected signature algorithm"},
		{"of another key of the same ID", one.sign(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: newKey(t), KeyID: "first"}}, hd(nil)), "signature"},
		{"of another issuer that claims to be the first", stranger.token(hd(map[string]any{"iss": one.URL})), "signature"},
		{"of an issuer that is not configured", stranger.token(hd(nil)), "not mine"},
		{"without a signature", strings.TrimRight(one.token(hd(nil)), "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"), "oidc: "},
		{"that is no JWT", "abcdef.0123456789abcdef", "not mine"},
		{"the second issuer's", two.token(level(map[string]any{"roles": []string{"dev", ""}, "team": []string{"t"}})), "two:jane [dev] jane-uid map[example.com/team:[t]]"},
		{"of the other audience", two.token(level(map[string]any{"aud": "other"})), "two:jane [] jane-uid map[]"},
		{"with a nested claim", two.token(level(map[string]any{"nested": map[string]any{"list": []any{map[string]any{"a.b": "x"}}}})), "two:jane [] jane-uid map[]"},
		{"with a wrong nested claim", two.token(level(map[string]any{"nested": map[string]any{"list": []any{map[string]any{"a.b": "y"}}}})), "failed: nested"},
		{"of a low level", two.token(map[string]any{"level": 2}), "failed: the level is too low"},
		{"of no level", two.token(nil), "no such key: level"},
		{"of a reserved name", two.token(level(map[string]any{"sub": "system:admin"})), "failed: reserved"},
		{"of a reserved group", two.token(level(map[string]any{"roles": []string{"system:masters"}})), "failed: reserved group"},
		{"with roles that are no strings", two.token(level(map[string]any{"roles": []int{1}})), "expression must return a string or a list of strings"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ask(j, c.token)
			if got != c.want && !(strings.Contains(got, c.want) && strings.HasPrefix(got, "oidc: ")) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	asked := func(audiences ...string) (authenticator.Audiences, bool) {
		response, ok, err := j.AuthenticateToken(authenticator.WithAudiences(context.Background(), audiences), two.token(level(nil)))
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return nil, false
		}
		return response.Audiences, true
	}
	if got, ok := asked("api", "x"); !ok || len(got) != 1 || got[0] != "api" {
		t.Errorf("audiences %v, %v; want the API server's", got, ok)
	}
	if _, ok := asked("x"); ok {
		t.Error("a token for the API server is one for another audience")
	}
}

func TestAnEmailMustBeVerifiedIfTheTokenSaysSo(t *testing.T) {
	i := newTestIssuer(t)
	j, _ := open(t, header+"jwt:\n"+i.entry()+"  claimMappings: {username: {claim: email, prefix: \"\"}}\n")
	ready(t, j, i)
	for _, c := range []struct {
		verified any
		want     string
	}{{nil, "jane@x []  map[]"}, {true, "jane@x []  map[]"}, {false, "oidc: email not verified"}, {"yes", "oidc: parse 'email_verified' claim: it is not a boolean"}} {
		if got := ask(j, i.token(map[string]any{"email": "jane@x", "email_verified": c.verified})); got != c.want {
			t.Errorf("verified %v: %q, want %q", c.verified, got, c.want)
		}
	}
}

// TestConfigurationsThatAreRefused, with upstream's words.
func TestConfigurationsThatAreRefused(t *testing.T) {
	i := newTestIssuer(t)
	user := "  claimMappings: {username: {claim: sub, prefix: \"\"}}\n"
	for name, c := range map[string]struct{ text, want string }{
		"an empty file":           {"", "empty config data"},
		"another kind":            {"apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n", "expected AuthenticationConfiguration"},
		"an unknown version":      {strings.Replace(header, "/v1", "/v7", 1), "no kind"},
		"an unknown field":        {header + "jwts: []\n", `unknown field "jwts"`},
		"an issuer twice":         {header + "jwt:\n" + i.entry() + user + i.entry() + user, "Duplicate value"},
		"plain HTTP":              {header + "jwt:\n- issuer: {url: \"http://x\", audiences: [a]}\n" + user, "URL scheme must be https"},
		"the API server's issuer": {header + "jwt:\n- issuer: {url: \"https://kubernetes.default.svc.cluster.local\", audiences: [a]}\n" + user, "disallowed issuers"},
		"no audience":             {header + "jwt:\n- issuer: {url: \"https://x\"}\n" + user, "audiences: Required value"},
		"a wrong expression":      {header + "jwt:\n" + i.entry() + "  claimMappings: {username: {expression: \"claims.\"}}\n", "compilation failed"},
		"an egress selector":      {header + "jwt:\n- issuer: {url: \"https://x\", audiences: [a], egressSelectorType: cluster}\n" + user, "this API server has no egress selector"},
		"no CA":                   {header + "jwt:\n- issuer: {url: \"https://x\", audiences: [a], certificateAuthority: x}\n" + user, "certificateAuthority: Invalid value"},
		"conditions without use":  {header + "anonymous: {enabled: false, conditions: [{path: /livez}]}\n", "enabled should be set to true when conditions are defined"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := load(t, c.text); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
		})
	}
	for _, version := range []string{"v1beta1", "v1alpha1"} {
		if _, _, err := load(t, strings.Replace(header, "/v1", "/"+version, 1)+"jwt:\n"+i.entry()+user); err != nil {
			t.Errorf("%s: %v", version, err)
		}
	}
}

// TestTheDocumentedConfigurationIsValid: the one in docs/authentication.md.
func TestTheDocumentedConfigurationIsValid(t *testing.T) {
	page, err := os.ReadFile("../../../docs/authentication.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, found := strings.Cut(string(page), "```yaml\n")
	text, _, ended := strings.Cut(text, "```")
	if !found || !ended {
		t.Fatal("the page has no configuration")
	}
	if _, _, err := load(t, text); err != nil {
		t.Error(err)
	}
}

// TestTheFileIsReloaded when it changes: a valid one when the keys of all its issuers are there, another one never.
func TestTheFileIsReloaded(t *testing.T) {
	i, later := newTestIssuer(t), newTestIssuer(t)
	mapped := func(i *testIssuer, prefix string) string {
		return i.entry() + "  claimMappings: {username: {claim: sub, prefix: \"" + prefix + "\"}}\n"
	}
	j, file := open(t, header+"jwt:\n"+mapped(i, "a:"))
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(j.Metrics)
	reloads := func(status string) float64 {
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			if family.GetName() != "apiserver_authentication_config_controller_automatic_reloads_total" {
				continue
			}
			for _, m := range family.GetMetric() {
				for _, label := range m.GetLabel() {
					if label.GetName() == "status" && label.GetValue() == status {
						return m.GetCounter().GetValue()
					}
				}
			}
		}
		return 0
	}
	is := func(token func() string, want string) {
		t.Helper()
		await.That(t, want, func() error {
			if got := ask(j, token()); got != want {
				return errors.New(got)
			}
			return nil
		})
	}
	jane := func() string { return i.token(nil) }
	is(jane, "a:jane []  map[]")
	write(t, file, header+"jwt:\n"+mapped(i, "b:"))
	is(jane, "b:jane []  map[]")
	if reloads("success") != 1 || reloads("failure") != 0 {
		t.Errorf("%v reloads, %v failures", reloads("success"), reloads("failure"))
	}
	failures := 0.0
	for name, text := range map[string]string{
		"invalid":                  header + "jwt:\n" + mapped(i, "c:") + mapped(i, "d:"),
		"unreadable":               "nonsense",
		"with another 'anonymous'": header + "anonymous: {enabled: true}\njwt:\n" + mapped(i, "c:"),
	} {
		write(t, file, text)
		failures++
		await.That(t, "a file that is "+name+" to be refused", func() error {
			if got := reloads("failure"); got < failures {
				return fmt.Errorf("%v failures", got)
			}
			return nil
		})
		is(jane, "b:jane []  map[]")
	}
	later.down.Store(true)
	write(t, file, header+"jwt:\n"+mapped(i, "e:")+mapped(later, "l:"))
	is(jane, "b:jane []  map[]") // as long as the new issuer's keys are missing
	later.down.Store(false)
	is(func() string { return later.token(nil) }, "l:jane []  map[]")
	is(jane, "e:jane []  map[]")
	write(t, file, header)
	is(jane, "not mine")
}

// TestAnIssuerThatIsDownAtStart: nothing waits for it, and its tokens are valid once it is there.
func TestAnIssuerThatIsDownAtStart(t *testing.T) {
	down, up := newTestIssuer(t), newTestIssuer(t)
	down.down.Store(true)
	mapped := "  claimMappings: {username: {claim: sub, prefix: \"\"}}\n"
	j, _ := open(t, header+"jwt:\n"+down.entry()+mapped+up.entry()+mapped)
	ready(t, j, up)
	if got := ask(j, up.token(nil)); got != "jane []  map[]" {
		t.Errorf("the other issuer's token: %s", got)
	}
	if got := ask(j, down.token(nil)); got != "oidc: authenticator not initialized" {
		t.Errorf("its token: %s", got)
	}
	down.down.Store(false)
	ready(t, j, down)
	if got := ask(j, down.token(nil)); got != "jane []  map[]" {
		t.Errorf("its token, later: %s", got)
	}
}

// TestTokensCauseNoFetches, but for one of an unknown key whose claims are right, and that at most once per interval.
func TestTokensCauseNoFetches(t *testing.T) {
	i, stranger := newTestIssuer(t), newTestIssuer(t)
	mapped := "  claimMappings: {username: {claim: sub, prefix: \"\"}}\n"
	j, _ := open(t, header+"jwt:\n"+i.entry()+mapped, func(c *authn.Config) { c.KeyInterval = time.Hour })
	ready(t, j, i)
	unknown := jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: newKey(t), KeyID: "unknown"}}
	for n := range 50 {
		for _, token := range []string{
			i.sign(unknown, map[string]any{"jti": fmt.Sprint(n)}), i.sign(unknown, map[string]any{"aud": "x"}), stranger.token(map[string]any{"iss": i.URL}), stranger.token(nil),
		} {
			if got := ask(j, token); got != "not mine" && !strings.HasPrefix(got, "oidc: ") {
				t.Fatalf("a stranger's token is valid: %s", got)
			}
		}
	}
	if got := i.fetches.Load(); got != 1 {
		t.Errorf("%d fetches of keys, want the first one alone", got)
	}
	if got := stranger.fetches.Load(); got != 0 {
		t.Errorf("%d fetches from an issuer that is not configured", got)
	}

	short, _ := open(t, header+"jwt:\n"+i.entry()+mapped)
	ready(t, short, i)
	before := i.fetches.Load()
	for range 50 {
		ask(short, i.sign(unknown, map[string]any{"aud": "x"}))
		ask(short, i.sign(unknown, map[string]any{"exp": 1}))
		ask(short, i.sign(jose.SigningKey{Algorithm: jose.ES256, Key: jose.JSONWebKey{Key: newKey(t), KeyID: "first"}}, nil))
	}
	if got := i.fetches.Load(); got != before {
		t.Errorf("%d fetches for tokens that could not be valid with any key", got-before)
	}
	old := i.token(nil)
	if got := ask(short, old); got != "jane []  map[]" {
		t.Error(got)
	}
	i.use("second", newKey(t))
	await.That(t, "the issuer's new key", func() error {
		if got := ask(short, i.token(nil)); got != "jane []  map[]" {
			return errors.New(got)
		}
		return nil
	})
	if got := ask(short, old); !strings.Contains(got, "signature") {
		t.Errorf("a token of a key that the issuer has withdrawn: %s", got)
	}
}

// TestAVerifiedTokenExpires: that a signature was verified does not keep its token valid.
func TestAVerifiedTokenExpires(t *testing.T) {
	i := newTestIssuer(t)
	j, _ := open(t, header+"jwt:\n"+i.entry()+"  claimMappings: {username: {claim: sub, prefix: \"\"}}\n")
	ready(t, j, i)
	token := i.token(map[string]any{"exp": time.Now().Add(time.Second).Unix()})
	if got := ask(j, token); got != "jane []  map[]" && !strings.Contains(got, "expired") {
		t.Fatal(got)
	}
	await.That(t, "its expiry", func() error {
		if got := ask(j, token); !strings.Contains(got, "expired") {
			return errors.New(got)
		}
		return nil
	})
}

// BenchmarkAuthenticate: a token that is sent again and again.
func BenchmarkAuthenticate(b *testing.B) {
	i := newTestIssuer(b)
	j, _, err := load(b, header+"jwt:\n"+i.entry()+"  claimMappings: {username: {expression: \"'oidc:' + claims.sub\"}, groups: {claim: groups, prefix: \"oidc:\"}}\n")
	if err != nil {
		b.Fatal(err)
	}
	run(b, j)
	ready(b, j, i)
	token := i.token(map[string]any{"groups": []string{"a", "b", "c"}})
	for b.Loop() {
		if _, ok, err := j.AuthenticateToken(b.Context(), token); !ok {
			b.Fatal(err)
		}
	}
}

// TestWhatAnIssuerSendsIsBounded.
func TestWhatAnIssuerSendsIsBounded(t *testing.T) {
	mapped := "  claimMappings: {username: {claim: sub, prefix: \"\"}}\n"
	for name, change := range map[string]func(*testIssuer){
		"too large":          func(i *testIssuer) { i.raw = bytes.Repeat([]byte(" "), 2<<20) },
		"too many keys":      func(i *testIssuer) { i.keys = slicesRepeat(i.keys[0], 300) },
		"another issuer":     func(i *testIssuer) { i.doc["issuer"] = "https://other" },
		"keys by plain HTTP": func(i *testIssuer) { i.doc["jwks_uri"] = strings.Replace(i.URL, "https", "http", 1) + "/keys" },
		"no keys":            func(i *testIssuer) { delete(i.doc, "jwks_uri") },
		"no JSON":            func(i *testIssuer) { i.raw = []byte("{") },
	} {
		t.Run(name, func(t *testing.T) {
			i := newTestIssuer(t)
			i.mu.Lock()
			change(i)
			i.mu.Unlock()
			failed := make(chan struct{}, 100)
			j, _ := open(t, header+"jwt:\n"+i.entry()+mapped, func(c *authn.Config) { c.Log = slog.New(slog.NewTextHandler(signal(failed), nil)) })
			<-failed // to fetch them
			if got := ask(j, i.token(nil)); got != "oidc: authenticator not initialized" {
				t.Error(got)
			}
		})
	}
}

// signal is a writer that signals each write.
type signal chan struct{}

func (s signal) Write(b []byte) (int, error) {
	select {
	case s <- struct{}{}:
	default:
	}
	return len(b), nil
}

func slicesRepeat(key jose.JSONWebKey, n int) []jose.JSONWebKey {
	out := make([]jose.JSONWebKey, n)
	for i := range out {
		out[i] = key
	}
	return out
}
