package server

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/client-go/rest"

	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// masters answers questions about tokens: "prometheus" may get metrics, "viewer" may get pods, "admin" anything.
type masters struct {
	mu    sync.Mutex
	asked []string
	down  bool
}

func (m *masters) authorize(_ context.Context, r *nodev1.AuthorizeCallerRequest) (*nodev1.AuthorizeCallerResponse, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.asked = append(m.asked, r.Token+" "+r.Verb+" "+strings.Join(r.Subresources, ",")+" "+r.Path)
	if m.down {
		return nil, errors.New("no session")
	}
	allowed, known := map[string]string{"prometheus": "get metrics", "viewer": "get pods", "admin": "*"}[r.Token]
	if !known {
		return &nodev1.AuthorizeCallerResponse{Reason: "the token is not valid"}, nil
	}
	may := allowed == "*" || slices.ContainsFunc(r.Subresources, func(s string) bool { return allowed == r.Verb+" "+s })
	return &nodev1.AuthorizeCallerResponse{User: r.Token, Allowed: may, Reason: "no rule"}, nil
}

// bearer returns a client with a token and no certificate.
func (r *rig) bearer(token string) *rest.Config {
	return &rest.Config{Host: r.base, BearerToken: token, TLSClientConfig: rest.TLSClientConfig{CAData: r.ca.pem()}}
}

func TestTokensAreCheckedByTheMasters(t *testing.T) {
	m := &masters{}
	r := newRigWith(t, func(c *Config) { c.Authorize = m.authorize })
	r.run("a", false)
	for _, x := range []struct {
		caller *rest.Config
		path   string
		code   int
		body   string
	}{
		{r.bearer("prometheus"), "/metrics", http.StatusOK, "kontiki_node_pods"},
		{r.bearer("prometheus"), "/metrics/resource", http.StatusOK, "container_cpu_usage_seconds_total"},
		{r.bearer("prometheus"), "/pods", http.StatusForbidden, "Forbidden (user=prometheus, verb=get, resource=nodes, subresource(s)=[pods proxy])"},
		{r.bearer("prometheus"), "/stats/summary", http.StatusForbidden, "subresource(s)=[stats]"},
		{r.bearer("prometheus"), "/containerLogs/ns/a/c", http.StatusForbidden, "subresource(s)=[proxy]"},
		{r.bearer("viewer"), "/pods", http.StatusOK, `"name":"a"`},
		{r.bearer("viewer"), "/exec/ns/a/c?command=true", http.StatusForbidden, "verb=create"},
		{r.bearer("viewer"), "/kontiki/images", http.StatusForbidden, "subresource(s)=[proxy]"},
		{r.bearer("admin"), "/healthz", http.StatusOK, "ok"},
		{r.bearer("stranger"), "/healthz", http.StatusUnauthorized, "Unauthorized"},
		{r.bearer(strings.Repeat("x", maxToken+1)), "/healthz", http.StatusUnauthorized, "Unauthorized"},
		{r.bearer(""), "/healthz", http.StatusUnauthorized, "Unauthorized"},
		{r.as("someone"), "/healthz", http.StatusForbidden, "someone may not use this node's port"},
		{r.as("master-1"), "/healthz", http.StatusOK, "ok"},
	} {
		if code, body := r.get(x.caller, x.path); code != x.code || !strings.Contains(body, x.body) {
			t.Errorf("%s as %q: %d %q", x.path, x.caller.BearerToken, code, body)
		}
	}
	if want := "prometheus get metrics /metrics"; m.asked[0] != want {
		t.Errorf("asked %q, want %q", m.asked[0], want)
	}
	for _, asked := range m.asked {
		if strings.HasPrefix(asked, "xxx") || strings.HasPrefix(asked, " ") {
			t.Errorf("asked about %.20q", asked)
		}
	}
}

// TestConnectNeedsTheRightToTheProxy: the path of a CONNECT is the client's choice, and says nothing about where it leads.
func TestConnectNeedsTheRightToTheProxy(t *testing.T) {
	for _, target := range []string{"10.0.0.1:80", "/metrics", "/logs/", "/pods"} {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader("CONNECT " + target + " HTTP/1.1\r\nHost: 10.0.0.1:80\r\n\r\n")))
		if err != nil {
			t.Fatal(err)
		}
		if verb, subresources := action(r); verb != "create" || !slices.Equal(subresources, []string{"proxy"}) {
			t.Errorf("CONNECT %s: %q of %q", target, verb, subresources)
		}
	}
}

func TestAnswersAboutTokensAreRememberedForATime(t *testing.T) {
	m := &masters{}
	now := time.Now()
	checks := newTokens(m.authorize)
	checks.now = func() time.Time { return now }
	check := func(token, path string) (answer, error) {
		return checks.check(t.Context(), token, httptest.NewRequest(http.MethodGet, path, nil))
	}
	allowed := func(token, path string, want bool) {
		t.Helper()
		if a, err := check(token, path); err != nil || a.allowed != want {
			t.Errorf("%s %s: %+v %v", token, path, a, err)
		}
	}
	asked := func(want int) {
		t.Helper()
		if len(m.asked) != want {
			t.Errorf("the masters were asked %d times, want %d: %q", len(m.asked), want, m.asked)
		}
	}
	allowed("prometheus", "/metrics", true)
	allowed("prometheus", "/metrics/cadvisor", true)
	allowed("viewer", "/metrics", false)
	asked(2)
	m.down = true
	now = now.Add(refusedFor)
	allowed("prometheus", "/metrics", true)
	asked(2)
	if _, err := check("viewer", "/metrics"); err == nil {
		t.Error("a refusal was remembered for too long")
	}
	now = now.Add(allowedFor)
	if _, err := check("prometheus", "/metrics"); err == nil {
		t.Error("an allowance was remembered for too long")
	}
	m.down = false // what failed is asked again
	allowed("prometheus", "/metrics", true)
	asked(5)
}

// TestMadeUpTokensTakeNobodysAnswerAway: whoever has no token can send any number of invalid ones.
func TestMadeUpTokensTakeNobodysAnswerAway(t *testing.T) {
	m := &masters{}
	checks := newTokens(m.authorize)
	r := httptest.NewRequest(http.MethodGet, "/metrics", nil)
	check := func(token string) (answer, error) { return checks.check(t.Context(), token, r) }
	if a, err := check("prometheus"); err != nil || !a.allowed {
		t.Fatalf("%+v %v", a, err)
	}
	for i := range 3 * answersKept {
		if a, err := check(fmt.Sprint("made up ", i)); err != nil || a.allowed || a.user != "" {
			t.Fatalf("%+v %v", a, err)
		}
	}
	m.down = true
	if a, err := check("prometheus"); err != nil || !a.allowed {
		t.Errorf("the answer was forgotten: %+v %v", a, err)
	}
	if a, err := check(fmt.Sprint("made up ", 3*answersKept-1)); err != nil || a.allowed {
		t.Errorf("the last refusal was forgotten: %+v %v", a, err)
	}
}

func TestWithoutAMasterNoTokenIsAccepted(t *testing.T) {
	m := &masters{down: true}
	r := newRigWith(t, func(c *Config) { c.Authorize = m.authorize })
	if code, body := r.get(r.bearer("admin"), "/metrics"); code != http.StatusServiceUnavailable || !strings.Contains(body, "no master can be asked") {
		t.Errorf("%d %q", code, body)
	}
	r = newRig(t)
	if code, _ := r.get(r.bearer("admin"), "/metrics"); code != http.StatusUnauthorized {
		t.Errorf("without anybody to ask: %d", code)
	}
}
