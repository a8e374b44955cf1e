package aggregation

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/kontiki/kontiki/api/agents"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/internal/upgrade"
)

// extension is an extension API server on loopback, and the service and agent by which it is reached.
type extension struct {
	server *httptest.Server
	ca     []byte // of its certificate
	front  *pki.Authority
	dials  atomic.Int32
}

// pods has every service's only endpoint be an extension.
type pods struct{ *extension }

func (p pods) Service(namespace, name string) (*corev1.Service, error) {
	if name == "missing" {
		return nil, fmt.Errorf("service %q not found", namespace+"/"+name)
	}
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}}, nil
}

func (p pods) EndpointsOf(*corev1.Service, string) []agents.Endpoint {
	return []agents.Endpoint{{Node: "n", Address: p.server.Listener.Addr().String()}}
}

func (p pods) Dial(ctx context.Context, to agents.Endpoint) (net.Conn, error) {
	p.dials.Add(1)
	return (&net.Dialer{}).DialContext(ctx, "tcp", to.Address)
}

func newCA(t *testing.T) *pki.Authority {
	t.Helper()
	ca, err := pki.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// start runs an extension API server that believes the front proxy alone.
func start(t *testing.T, handler http.HandlerFunc) *extension {
	t.Helper()
	ca := newCA(t)
	pair, err := ca.Issue(pki.Request{CommonName: "ext.ns.svc", Hosts: []string{"ext.ns.svc"}, Server: true})
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	e := &extension{server: httptest.NewUnstartedServer(handler), ca: ca.CertPEM(), front: newCA(t).FrontProxy()}
	roots := x509.NewCertPool()
	roots.AddCert(e.front.Certificate())
	e.server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: roots}
	e.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	e.server.EnableHTTP2 = true
	e.server.StartTLS()
	t.Cleanup(func() {
		e.server.CloseClientConnections()
		e.server.Close()
	})
	return e
}

func (e *extension) services(t *testing.T) *Services {
	t.Helper()
	pair, err := e.front.IssueFrontProxy()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	return New(Config{Pods: pods{e}, Certificate: func() (*tls.Certificate, error) { return &cert, nil }, Log: slog.New(slog.DiscardHandler)})
}

func (e *extension) spec(changes ...func(*apiregistrationv1.APIServiceSpec)) *apiregistrationv1.APIServiceSpec {
	spec := &apiregistrationv1.APIServiceSpec{Group: "g.example.com", Version: "v1", CABundle: e.ca, GroupPriorityMinimum: 1000, VersionPriority: 10,
		Service: &apiregistrationv1.ServiceReference{Namespace: "ns", Name: "ext"}}
	for _, change := range changes {
		change(spec)
	}
	return spec
}

// service returns an available service of an extension API server.
func (e *extension) service(t *testing.T, changes ...func(*apiregistrationv1.APIServiceSpec)) *Service {
	t.Helper()
	spec := e.spec(changes...)
	s := &Service{Group: spec.Group, Version: spec.Version, Spec: spec, Available: true, t: e.services(t).target(spec)}
	t.Cleanup(s.t.transport.CloseIdleConnections)
	return s
}

// fails answers with an error as the REST front does.
type fails struct{}

func (fails) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), http.StatusServiceUnavailable)
}

// jane has everything that a user can have.
var jane = &user.DefaultInfo{Name: "jane", UID: "7", Groups: []string{"devs", "ops"}, Extra: map[string][]string{"example.com/team": {"a b"}}}

// front serves requests of jane as a master does, over a network.
func front(t *testing.T, s *Service) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.ServeHTTP(w, r, jane, fails{}) }))
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return server
}

// smuggled are headers by which a client might pretend to be another user, or that carry its credentials.
func smuggled() http.Header {
	return http.Header{
		"X-Remote-User": {"admin"}, "x-remote-group": {"system:masters"}, "X-Remote-Groups": {"system:masters"}, "X-Remote-Uid": {"0"}, "X_Remote_User": {"admin"},
		"X-Remote_group": {"system:masters"}, "X-Remote-Extra-Scopes": {"all"}, "Impersonate-User": {"admin"}, "Impersonate-Group": {"system:masters"},
		"Authorization": {"Bearer secret"}, "Proxy-Authorization": {"Bearer secret"}, "Cookie": {"secret=1"}, "Kept": {"yes"},
		"Connection": {"X-Remote-User, X-Remote-Group, x-remote-uid"},
	}
}

// checkUser returns what is wrong with the headers that reached an extension API server.
func checkUser(h http.Header) error {
	want := map[string][]string{"X-Remote-User": {"jane"}, "X-Remote-Uid": {"7"}, "X-Remote-Group": {"devs", "ops"}, "X-Remote-Extra-Example.com%2fteam": {"a b"}, "Kept": {"yes"}}
	for name, values := range want {
		if !slices.Equal(h[name], values) {
			return fmt.Errorf("%s: %q, want %q", name, h[name], values)
		}
	}
	for name, values := range h {
		plain := http.CanonicalHeaderKey(strings.ReplaceAll(name, "_", "-"))
		if want[name] == nil && strings.HasPrefix(plain, "X-Remote-") || strings.HasPrefix(plain, "Impersonate-") || strings.Contains(strings.Join(values, " "), "secret") {
			return fmt.Errorf("%s: %q reached it", name, values)
		}
	}
	return nil
}

// TestTheUserIsTold: an extension API server hears from a master that presents the front proxy's certificate who the user is, and nothing that the
// client says of that.
func TestTheUserIsTold(t *testing.T) {
	e := start(t, func(w http.ResponseWriter, r *http.Request) {
		if name := r.TLS.PeerCertificates[0].Subject.CommonName; name != pki.FrontProxyName {
			t.Errorf("the client is %s", name)
		}
		if err := checkUser(r.Header); err != nil {
			t.Error(err)
		}
		if r.Host != "ext.ns.svc" || r.URL.RequestURI() != "/apis/g.example.com/v1/namespaces/a/things/x%2Fy?b=c" {
			t.Errorf("%s of %s", r.URL.RequestURI(), r.Host)
		}
		body, _ := io.ReadAll(r.Body)
		if len(r.Trailer) > 0 {
			t.Errorf("trailers %v", r.Trailer)
		}
		w.Header().Set("Answered", "yes")
		w.WriteHeader(http.StatusTeapot)
		w.Write(body)
	})
	server := front(t, e.service(t))
	r, err := http.NewRequest(http.MethodPost, server.URL+"/apis/g.example.com/v1/namespaces/a/things/x%2Fy?b=c", io.MultiReader(strings.NewReader("body")))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = smuggled()
	r.Trailer = http.Header{"X-Remote-User": {"admin"}}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if body, err := io.ReadAll(response.Body); err != nil || string(body) != "body" || response.StatusCode != http.StatusTeapot || response.Header.Get("Answered") != "yes" {
		t.Errorf("%s: %q, %v", response.Status, body, err)
	}
}

// TestStreams: an upgrade becomes a stream in both directions, with the same headers; other answers are passed on, and none without end.
func TestStreams(t *testing.T) {
	e := start(t, func(w http.ResponseWriter, r *http.Request) {
		if err := checkUser(r.Header); err != nil {
			t.Error(err)
		}
		if r.Header.Get("Connection") != "Upgrade" {
			t.Errorf("Connection: %q", r.Header["Connection"])
		}
		if strings.HasSuffix(r.URL.Path, "/refused") {
			http.Error(w, "not today", http.StatusForbidden)
			return
		}
		conn, both, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n")
		if strings.HasSuffix(r.URL.Path, "/endless") {
			for err == nil {
				_, err = fmt.Fprintf(conn, "A: %s\r\n", strings.Repeat("a", 4096))
			}
			return
		}
		fmt.Fprint(conn, "\r\n")
		io.Copy(conn, both)
	})
	server := front(t, e.service(t))
	open := func(path string) (net.Conn, *http.Response) {
		t.Helper()
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		r, err := http.NewRequest(http.MethodGet, server.URL+"/apis/g.example.com/v1/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header = smuggled()
		r.Header.Set("Connection", "Upgrade, X-Remote-User, X-Remote-Group")
		r.Header.Set("Upgrade", "echo")
		if err := r.Write(conn); err != nil {
			t.Fatal(err)
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), r)
		if err != nil {
			t.Fatal(err)
		}
		return conn, response
	}
	conn, response := open("echo")
	if response.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(response.Status)
	}
	for range 3 {
		if _, err := io.WriteString(conn, "ping"); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, 4)
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != "ping" {
			t.Fatalf("%q, %v", got, err)
		}
	}
	if _, response := open("refused"); response.StatusCode != http.StatusForbidden {
		t.Error(response.Status)
	}
	_, response = open("endless")
	if body, _ := io.ReadAll(response.Body); response.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(body), "larger than") {
		t.Errorf("%s: %s", response.Status, body)
	}
}

// TestWhatIsRefused: no service, no certificate, another's certificate, redirections, a server that does not answer.
func TestWhatIsRefused(t *testing.T) {
	hang := make(chan struct{})
	defer close(hang)
	e := start(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/redirect"):
			w.Header().Set("Location", "https://10.0.0.1/")
			w.Header().Set("Set-Cookie", "a=b")
			w.WriteHeader(http.StatusFound)
		case strings.HasSuffix(r.URL.Path, "/hang"):
			select {
			case <-hang:
			case <-r.Context().Done():
			}
		default:
			fmt.Fprint(w, "served")
		}
	})
	other := newCA(t).CertPEM()
	for name, c := range map[string]struct {
		service *Service
		path    string
		code    int
		body    string
	}{
		"served":           {e.service(t), "x", 200, "served"},
		"unavailable":      {func() *Service { s := e.service(t); s.Available = false; return s }(), "x", 503, "service unavailable\n"},
		"no service":       {e.service(t, func(s *apiregistrationv1.APIServiceSpec) { s.Service.Name = "missing" }), "x", 503, `service "ns/missing" not found`},
		"no port":          {e.service(t, func(s *apiregistrationv1.APIServiceSpec) { s.Service.Port = new(int32(8443)) }), "x", 503, "has no port 8443"},
		"another name":     {e.service(t, func(s *apiregistrationv1.APIServiceSpec) { s.Service.Namespace = "tenant" }), "x", 503, "not ext.tenant.svc"},
		"another CA":       {e.service(t, func(s *apiregistrationv1.APIServiceSpec) { s.CABundle = other }), "x", 503, "certificate signed by unknown authority"},
		"the system's CAs": {e.service(t, func(s *apiregistrationv1.APIServiceSpec) { s.CABundle = nil }), "x", 503, "certificate"},
		"not verified": {e.service(t, func(s *apiregistrationv1.APIServiceSpec) {
			s.CABundle, s.InsecureSkipTLSVerify, s.Service.Namespace = nil, true, "tenant"
		}), "x", 200, "served"},
		"unreadable CA": {e.service(t, func(s *apiregistrationv1.APIServiceSpec) { s.CABundle = []byte("x") }), "x", 500, "caBundle: no certificate can be read"},
		"redirection":   {e.service(t), "redirect", 502, "not permitted"},
		"no answer":     {e.service(t), "hang", 503, "context deadline exceeded"},
	} {
		t.Run(name, func(t *testing.T) {
			ctx := t.Context()
			if c.path == "hang" {
				var cancel func()
				ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
				defer cancel()
			}
			w := httptest.NewRecorder()
			c.service.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, "/apis/g.example.com/v1/"+c.path, nil), jane, fails{})
			if w.Code != c.code || !strings.Contains(w.Body.String(), c.body) {
				t.Errorf("%d %s", w.Code, w.Body)
			}
			if w.Header().Get("Location") != "" || w.Header().Get("Set-Cookie") != "" {
				t.Errorf("headers %v", w.Header())
			}
		})
	}
	s := e.service(t)
	s.t.transport.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return nil, errors.New("none here") }
	if err := s.Check(t.Context()); err == nil || !strings.Contains(err.Error(), "none here") {
		t.Error(err)
	}
}

// TestCheck: the errors are upstream's, a target in use is used, any other leaves no connection.
func TestCheck(t *testing.T) {
	code := http.StatusOK
	e := start(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header; got.Get("X-Remote-User") != "system:kube-aggregator" || !slices.Equal(got["X-Remote-Group"], []string{"system:masters"}) {
			t.Errorf("headers %v", got)
		}
		w.WriteHeader(code)
	})
	services := e.services(t)
	a := &apiregistrationv1.APIService{Spec: *e.spec()}
	for range 2 {
		if err := services.Check(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	if n := e.dials.Load(); n != 2 {
		t.Errorf("%d connections", n)
	}
	service := e.service(t)
	services.store([]*Service{service})
	for range 2 {
		if err := services.Check(t.Context(), a); err != nil {
			t.Fatal(err)
		}
	}
	if n := e.dials.Load(); n != 3 {
		t.Errorf("%d connections", n)
	}
	code = http.StatusForbidden
	want := "failing or missing response from https://ext.ns.svc/apis/g.example.com/v1: bad status from /apis/g.example.com/v1: 403"
	if err := services.Check(t.Context(), a); err == nil || err.Error() != want {
		t.Error(err)
	}
}

// documents is an extension API server that answers paths with texts.
func documents(texts map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		text, ok := texts[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		io.WriteString(w, text)
	}
}

// TestDiscoveryIsConverted from the list of resources, as upstream does, with the hash of the OpenAPI document.
func TestDiscoveryIsConverted(t *testing.T) {
	const list = `{"kind":"APIResourceList","groupVersion":"g.example.com/v1","resources":[
		{"name":"things/status","namespaced":true,"kind":"Thing","verbs":["get"]},
		{"name":"things","singularName":"thing","namespaced":true,"kind":"Thing","verbs":["get","list"],"shortNames":["th"],"categories":["all"]},
		{"name":"things/scale","namespaced":true,"group":"autoscaling","version":"v1","kind":"Scale","verbs":["get"]},
		{"name":"reviews","namespaced":false,"kind":"Review","verbs":["create"]},
		{"name":"orphans/log","namespaced":false,"kind":"Log","verbs":["get"]}]}`
	const want = `[{"resource":"things","responseKind":{"group":"g.example.com","version":"v1","kind":"Thing"},"scope":"Namespaced","singularResource":"thing","verbs":["get","list"],` +
		`"shortNames":["th"],"categories":["all"],"subresources":[{"subresource":"status","responseKind":{"group":"g.example.com","version":"v1","kind":"Thing"},"verbs":["get"]},` +
		`{"subresource":"scale","responseKind":{"group":"autoscaling","version":"v1","kind":"Scale"},"verbs":["get"]}]},` +
		`{"resource":"reviews","responseKind":{"group":"g.example.com","version":"v1","kind":"Review"},"scope":"Cluster","singularResource":"","verbs":["create"]},` +
		`{"resource":"orphans","responseKind":{"group":"","version":"","kind":""},"scope":"Cluster","singularResource":"","verbs":[],` +
		`"subresources":[{"subresource":"log","responseKind":{"group":"g.example.com","version":"v1","kind":"Log"},"verbs":["get"]}]}]`
	for index, hash := range map[string]string{
		`{"paths":{"apis/g.example.com/v1":{"serverRelativeURL":"/openapi/v3/apis/g.example.com/v1?hash=AB%2FC"}}}`: "AB/C",
		`{"paths":{"apis/g.example.com/v1":{"serverRelativeURL":"/openapi/v3/apis/g.example.com/v1"}}}`:             "none",
		`{"paths":{"apis/other/v1":{"serverRelativeURL":"/?hash=x"}}}`:                                              "",
		"": "",
	} {
		texts := map[string]string{"/apis/g.example.com/v1": list, "/openapi/v3": index}
		if index == "" {
			delete(texts, "/openapi/v3")
		}
		found, err := start(t, documents(texts)).service(t).discover(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := json.Marshal(found.resources); string(got) != want {
			t.Errorf("got\n%s, want\n%s", got, want)
		}
		if found.openAPI != hash {
			t.Errorf("%s has the hash %q", index, found.openAPI)
		}
	}
}

// TestDiscoveryIsBounded: what is too much, or no discovery at all, is an error.
func TestDiscoveryIsBounded(t *testing.T) {
	many := strings.Repeat(`{"name":"a"},`, maxResources) + `{"name":"a"}`
	for want, texts := range map[string]map[string]string{
		"1001 resources: at most 1000 are possible":   {"/apis/g.example.com/v1": `{"resources":[` + many + `]}`},
		"larger than 4194304 bytes":                   {"/apis/g.example.com/v1": `{"resources":[` + strings.Repeat(" ", maxAnswer) + `]}`},
		"bad status from /apis/g.example.com/v1: 404": {},
		"/apis/g.example.com/v1: invalid character":   {"/apis/g.example.com/v1": "<html>"},
		"/openapi/v3: invalid character":              {"/apis/g.example.com/v1": "{}", "/openapi/v3": "<html>"},
	} {
		if _, err := start(t, documents(texts)).service(t).discover(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
	headers := start(t, func(w http.ResponseWriter, _ *http.Request) {
		for i := range 2 * upgrade.MaxHeader / 4096 {
			w.Header().Set(fmt.Sprint("A-", i), strings.Repeat("a", 4096))
		}
	})
	if _, err := headers.service(t).discover(t.Context()); err == nil {
		t.Error("endless headers were read")
	}
}

// TestOrder: groups by their highest priority, then versions by theirs, then by their names.
func TestOrder(t *testing.T) {
	one := func(group, version string, groupPriority, versionPriority int32) *Service {
		return &Service{Group: group, Version: version, Spec: &apiregistrationv1.APIServiceSpec{GroupPriorityMinimum: groupPriority, VersionPriority: versionPriority}}
	}
	s := New(Config{})
	s.store([]*Service{one("b", "v1", 100, 1), one("a", "v1", 100, 1), one("z", "v1beta1", 2000, 1), one("z", "v2", 10, 1), one("z", "v1", 10, 1), one("z", "v1alpha1", 10, 9)})
	var got []string
	for _, one := range s.Now().Services {
		got = append(got, one.Group+"/"+one.Version)
	}
	if want := "z/v1alpha1 z/v2 z/v1 z/v1beta1 a/v1 b/v1"; strings.Join(got, " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
	var missing *Services
	if missing.Now().Of("a", "v1") != nil || s.Now().Of("a", "v1") == nil || s.Now().Of("a", "v2") != nil {
		t.Error("wrong services")
	}
}

// TestFoundIsDropped if the service has changed while discovery was read.
func TestFoundIsDropped(t *testing.T) {
	s := New(Config{})
	old := &Service{Group: "g", Version: "v1", Spec: &apiregistrationv1.APIServiceSpec{}, pending: true}
	now := *old
	s.store([]*Service{&now})
	s.found(old, &found{openAPI: "x"}, nil)
	if got := s.Now().Of("g", "v1"); got != &now {
		t.Errorf("got %+v", got)
	}
	s.found(&now, &found{openAPI: "x"}, nil)
	got := s.Now().Of("g", "v1")
	if got.OpenAPI != "x" || !got.Fresh || got.pending {
		t.Errorf("got %+v", got)
	}
	s.found(got, &found{openAPI: "x"}, nil)
	if s.Now().Of("g", "v1") != got {
		t.Error("the same was taken for a change")
	}
	s.found(got, nil, errors.New("no"))
	if stale := s.Now().Of("g", "v1"); stale.Fresh || stale.OpenAPI != "x" {
		t.Errorf("got %+v", stale)
	}
}

// TestPrivateHeaders: whatever their case.
func TestPrivateHeaders(t *testing.T) {
	kept := slices.Collect(maps.Keys(smuggled()))
	kept = slices.DeleteFunc(kept, private)
	slices.Sort(kept)
	if !slices.Equal(kept, []string{"Connection", "Kept"}) {
		t.Errorf("kept %v", kept)
	}
}
