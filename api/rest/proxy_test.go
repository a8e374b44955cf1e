package rest_test

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	clientrest "k8s.io/client-go/rest"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/test/harness"
)

// toAgents trusts any agent; another test checks that its certificate names the node.
type toAgents struct{}

func (toAgents) TLS() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }

// agentOf is the agent of node w1, which records its requests.
type agentOf struct {
	mu    sync.Mutex
	asked []*http.Request
	cut   bool // it breaks off in the middle of its answers
}

func (a *agentOf) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, r)
	if a.cut {
		w.Write([]byte("half of it"))
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
	w.WriteHeader(http.StatusTeapot)
}

func (a *agentOf) take() []*http.Request {
	a.mu.Lock()
	defer a.mu.Unlock()
	asked := a.asked
	a.asked = nil
	return asked
}

func withAgent(t *testing.T) (*harness.Harness, *agentOf) {
	t.Helper()
	ca, err := pki.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := ca.IssueClient("system:node:w1", []string{"system:nodes"})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := leaf.TLS()
	if err != nil {
		t.Fatal(err)
	}
	agent := &agentOf{}
	server := httptest.NewUnstartedServer(agent)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	server.StartTLS()
	t.Cleanup(server.Close)
	host, port, err := net.SplitHostPort(server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	number, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	h := harness.NewConfigured(t, func(c *apiserver.Config) { c.Agents = toAgents{} })
	ctx := context.Background()
	node, err := client.Create(ctx, h.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "w1"}})
	if err != nil {
		t.Fatal(err)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: host}}
	node.Status.DaemonEndpoints.KubeletEndpoint.Port = int32(number)
	if _, err := client.UpdateStatus(ctx, h.Client, node); err != nil {
		t.Fatal(err)
	}
	p := pod("p")
	p.Namespace, p.Spec.NodeName = "default", "w1"
	if _, err := client.Create(ctx, h.Client, p); err != nil {
		t.Fatal(err)
	}
	return h, agent
}

// The target of a proxy does not get the caller's credentials: it could send requests in the caller's name.
func TestCredentialsAreNotForwarded(t *testing.T) {
	h, agent := withAgent(t)
	h.REST.Authorizer = anything{}
	request := &authenticationv1.TokenRequest{}
	request, err := h.Clientset().CoreV1().ServiceAccounts("default").CreateToken(context.Background(), "default", request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	token := request.Status.Token
	config := &clientrest.Config{Host: h.Config("x").Host, TLSClientConfig: clientrest.TLSClientConfig{Insecure: true}}
	encoded := "base64url.bearer.authorization.k8s.io." + base64.RawURLEncoding.EncodeToString([]byte(token))
	for name, headers := range map[string][]string{
		"a token": {"Authorization", "Bearer " + token},
		"impersonation": {"Authorization", "Bearer " + token, "Impersonate-User", "jane", "Impersonate-Group", "devs",
			"Impersonate-Extra-Scopes", "x", "Impersonate-Uid", "7"},
	} {
		t.Run(name, func(t *testing.T) {
			if code, body := raw(t, config, "GET", "/api/v1/nodes/w1/proxy/some/path", "", nil, append(headers, "X-Mine", "kept")...); code != http.StatusTeapot {
				t.Fatal(code, body)
			}
			for _, r := range agent.take() {
				if r.Header.Get("X-Mine") != "kept" || r.URL.Path != "/some/path" {
					t.Errorf("forwarded %s %v", r.URL, r.Header)
				}
				for key, values := range r.Header {
					if key == "Authorization" || strings.HasPrefix(key, "Impersonate-") || strings.Contains(strings.Join(values, ""), token) {
						t.Errorf("forwarded %s: %q", key, values)
					}
				}
			}
		})
	}
	// A browser sends its token as a subprotocol, in addition to any other credentials.
	r := httptest.NewRequest("GET", "/", nil)
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Sec-WebSocket-Protocol", "v5.channel.k8s.io, "+encoded)
	if _, err := h.Authenticator.Authenticate(r, r.URL.Path); err != nil {
		t.Fatal(err)
	}
	if got := r.Header.Get("Sec-WebSocket-Protocol"); got != "v5.channel.k8s.io" || r.Header.Get("Authorization") != "" {
		t.Errorf("left: %v", r.Header)
	}
}

// readers may read everything and create nothing.
type readers struct{}

func (readers) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if a.GetVerb() == "create" {
		return authorizer.DecisionNoOpinion, "it is for reading", nil
	}
	return authorizer.DecisionAllow, "", nil
}

// WebSockets begin with GET, but users who may only read cannot run commands by them.
func TestAGetRunsNothing(t *testing.T) {
	h, agent := withAgent(t)
	h.REST.Authorizer = readers{}
	config := h.Config("reader")
	for _, path := range []string{
		"/api/v1/namespaces/default/pods/p/exec?command=id&stdout=1", "/api/v1/namespaces/default/pods/p/attach?stdout=1",
		"/api/v1/namespaces/default/pods/p/portforward?ports=80",
		"/api/v1/nodes/w1/proxy/exec/default/p/c?command=id", "/api/v1/nodes/w1/proxy/attach/default/p/c", "/api/v1/nodes/w1/proxy/portForward/default/p",
		"/api/v1/nodes/w1/proxy/run/default/p/c?cmd=id", "/api/v1/nodes/w1/proxy//exec/default/p/c?command=id", "/api/v1/nodes/w1/proxy/healthz/../exec/default/p/c",
	} {
		code, body := raw(t, config, "GET", path, "", nil, "Connection", "Upgrade", "Upgrade", "websocket",
			"Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Protocol", "v5.channel.k8s.io")
		if code != 403 || !strings.Contains(body, "cannot create") {
			t.Errorf("%s: %d %s", path, code, body)
		}
		if code, body = raw(t, config, "GET", path, "", nil); code != 403 && code != 404 && code != 301 {
			t.Errorf("%s without upgrade: %d %s", path, code, body)
		}
	}
	if asked := agent.take(); len(asked) != 0 {
		t.Errorf("the agent was asked %s", asked[0].URL)
	}
	if code, _ := raw(t, config, "GET", "/api/v1/nodes/w1/proxy/metrics", "", nil); code != http.StatusTeapot || len(agent.take()) != 1 {
		t.Errorf("reading: %d", code)
	}
}

// A proxied node may be named with a scheme and a port, as pods and services are; the port is its agent's.
func TestANodeIsProxiedToByPort(t *testing.T) {
	h, agent := withAgent(t)
	config := h.Config("admin", "system:masters")
	node, err := h.Clientset().CoreV1().Nodes().Get(context.Background(), "w1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	port := strconv.Itoa(int(node.Status.DaemonEndpoints.KubeletEndpoint.Port))
	for _, name := range []string{"w1", "w1:" + port, "https:w1:" + port, "https:w1:"} {
		if code, body := raw(t, config, "GET", "/api/v1/nodes/"+name+"/proxy/pods?limit=1", "", nil); code != http.StatusTeapot {
			t.Errorf("%s: %d %s", name, code, body)
		}
		if asked := agent.take(); len(asked) != 1 || asked[0].URL.String() != "/pods?limit=1" {
			t.Errorf("%s: the agent was asked %v", name, asked)
		}
	}
	for name, want := range map[string]int{"w1:22": 400, "ftp:w1:" + port: 400, "w2:" + port: 404} {
		if code, body := raw(t, config, "GET", "/api/v1/nodes/"+name+"/proxy/pods", "", nil); code != want {
			t.Errorf("%s: %d %s", name, code, body)
		}
	}
	if asked := agent.take(); len(asked) != 0 {
		t.Errorf("the agent was asked %s", asked[0].URL)
	}
}

// Every method is proxied, also one that has no verb: only those with all verbs may use that.
func TestEveryMethodIsProxied(t *testing.T) {
	h, agent := withAgent(t)
	h.REST.Authorizer = anything{}
	config := h.Config("x")
	for _, method := range []string{"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"} {
		code, body := raw(t, config, method, "/api/v1/nodes/w1/proxy/path", "", nil)
		if forwarded := agent.take(); code != http.StatusTeapot || len(forwarded) != 1 || forwarded[0].Method != method {
			t.Errorf("%s: %d %s", method, code, body)
		}
	}
	if code, _ := raw(t, config, "TRACE", "/api/v1/nodes/w1/proxy/path", "", nil); code != http.StatusMethodNotAllowed || len(agent.take()) != 0 {
		t.Errorf("TRACE: %d", code)
	}
	if code, _ := raw(t, config, "OPTIONS", "/api/v1/nodes/w1", "", nil); code != http.StatusMethodNotAllowed {
		t.Errorf("OPTIONS of a node: %d", code)
	}
}
