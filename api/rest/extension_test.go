package rest_test

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	clientrest "k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"github.com/kontiki/kontiki/api/agents"
	"github.com/kontiki/kontiki/api/extension/aggregation"
	"github.com/kontiki/kontiki/api/rest"
	"github.com/kontiki/kontiki/controller/controllertest"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/harness"
)

// extension is an extension API server that serves group versions by the name of the service by which it is asked.
type extension struct {
	server   *httptest.Server
	requests atomic.Int32 // that are none of discovery
	// hang is closed at the end; the service hanging answers nothing before.
	hang chan struct{}
}

func (e *extension) Service(namespace, name string) (*corev1.Service, error) {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 443}}}}, nil
}

func (e *extension) EndpointsOf(*corev1.Service, string) []agents.Endpoint {
	return []agents.Endpoint{{Node: "n", Address: e.server.Listener.Addr().String()}}
}

func (e *extension) Dial(ctx context.Context, to agents.Endpoint) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", to.Address)
}

func (e *extension) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Host == "hanging.default.svc" {
		select {
		case <-e.hang:
		case <-r.Context().Done():
		}
		return
	}
	parts := strings.Split(r.URL.Path, "/")
	switch {
	case r.URL.Path == "/openapi/v3":
		fmt.Fprint(w, `{"paths":{"apis/g.example.com/v1":{"serverRelativeURL":"/openapi/v3/apis/g.example.com/v1?hash=ABC"}}}`)
	case r.URL.Path == "/openapi/v2":
		fmt.Fprint(w, `{"swagger":"2.0","info":{"title":"e","version":"1"},"paths":{"/apis/g.example.com/v1/things":{"get":{"responses":{"200":{"description":"things"}}}}}}`)
	case r.URL.Path == "/openapi/v3/apis/g.example.com/v1":
		fmt.Fprint(w, `{"openapi":"3.0.0"}`)
	case len(parts) == 4:
		fmt.Fprint(w, `{"kind":"APIResourceList","resources":[{"name":"things","kind":"Thing","verbs":["get"]}]}`)
	default:
		e.requests.Add(1)
		fmt.Fprintf(w, `{"by":"extension","user":%q}`, r.Header.Get("X-Remote-User"))
	}
}

// withExtension has a harness whose API is extended by an extension API server.
func withExtension(t *testing.T) (*harness.Harness, *extension) {
	t.Helper()
	e := &extension{hang: make(chan struct{})}
	e.server = httptest.NewTLSServer(e)
	t.Cleanup(func() {
		close(e.hang)
		e.server.CloseClientConnections()
		e.server.Close()
	})
	h := harness.New(t)
	h.Roles()
	kind, ok := h.Catalog.Table().ByGroupResource(apiregistrationv1.GroupName, "apiservices")
	if !ok {
		t.Fatal("no APIServices")
	}
	h.REST.Aggregated = aggregation.New(aggregation.Config{Store: h.Store, Decode: h.Objects.Decode, Kind: kind, Pods: e,
		Certificate: func() (*tls.Certificate, error) { return &e.server.TLS.Certificates[0], nil }, Log: slog.New(slog.DiscardHandler)})
	h.RPC.Aggregated = h.REST.Aggregated
	controllertest.Go(t, "aggregation", h.REST.Aggregated.Run)
	return h, e
}

// extend has a service serve a group version.
func extend(t *testing.T, h *harness.Harness, group, version, service string) {
	t.Helper()
	name := version + "." + group
	controllertest.Create(t, h.Client, &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: apiregistrationv1.APIServiceSpec{
		Group: group, Version: version, GroupPriorityMinimum: 1000, VersionPriority: 10, InsecureSkipTLSVerify: true,
		Service: &apiregistrationv1.ServiceReference{Namespace: "default", Name: service}}})
	setAvailable(t, h, name, apiregistrationv1.ConditionTrue)
}

func setAvailable(t *testing.T, h *harness.Harness, name string, status apiregistrationv1.ConditionStatus) {
	t.Helper()
	controllertest.ChangeStatus(t, h.Client, "", name, func(a *apiregistrationv1.APIService) {
		helper.SetAPIServiceCondition(a, apiregistrationv1.APIServiceCondition{Type: apiregistrationv1.Available, Status: status, Reason: "Test", LastTransitionTime: metav1.Now()})
	})
}

// ask returns the answer to a request of a user.
func ask(t *testing.T, h *harness.Harness, path string, accept string, who string, groups ...string) (int, string) {
	t.Helper()
	config := h.Config(who, groups...)
	transport, err := clientrest.TransportFor(config)
	if err != nil {
		t.Fatal(err)
	}
	r, err := http.NewRequest(http.MethodGet, config.Host, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.URL.Opaque = strings.TrimPrefix(config.Host, "https:") + path // as it is, whatever it contains
	r.Header.Set("Accept", accept)
	response, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response.StatusCode, string(body)
}

const admins = "system:masters"

func awaitServed(t *testing.T, h *harness.Harness, path string) {
	t.Helper()
	await.That(t, path+" is served by the extension", func() error {
		if code, body := ask(t, h, path, "application/json", "admin", admins); code != http.StatusOK || !strings.Contains(body, `"by":"extension"`) {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
}

// TestExtensionsServeGroupVersions: also in the place of a built-in one, whichever the request, but nothing before it is authorized, and no path that
// may mean another object to them than to the masters. Without the APIService the masters serve as before.
func TestExtensionsServeGroupVersions(t *testing.T) {
	h, e := withExtension(t)
	extend(t, h, "g.example.com", "v1", "ext")
	extend(t, h, "metrics.k8s.io", "v1beta1", "ext")
	awaitServed(t, h, "/apis/g.example.com/v1/namespaces/a/things/x")
	awaitServed(t, h, "/apis/metrics.k8s.io/v1beta1/nodes")
	before := e.requests.Load()
	if code, body := ask(t, h, "/apis/g.example.com/v1/namespaces/a/things/x", "application/json", "jane", "devs"); code != http.StatusForbidden || !strings.Contains(body, `cannot get resource \"things\" in API group \"g.example.com\"`) {
		t.Errorf("%d %s", code, body)
	}
	for _, path := range []string{"namespaces/a/things/..", "namespaces/a/things/x/../../../b/things/x", "namespaces/a/things/%2e%2e/x", "namespaces/a/things/..%2f..%2fb",
		"namespaces//things/x", "./things", "things/x/status/a/../../../../y"} {
		if code, body := ask(t, h, "/apis/g.example.com/v1/"+path, "application/json", "admin", admins); code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
	if n := e.requests.Load(); n != before {
		t.Errorf("%d requests reached the extension", n-before)
	}
	awaitServed(t, h, "/apis/g.example.com/v1/things/x/proxy/a//b/")
	setAvailable(t, h, "v1.g.example.com", apiregistrationv1.ConditionFalse)
	await.That(t, "it is not available", func() error {
		if code, body := ask(t, h, "/apis/g.example.com/v1/things", "application/json", "admin", admins); code != http.StatusServiceUnavailable || body != "service unavailable\n" {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	if err := h.Client.Delete(t.Context(), &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1beta1.metrics.k8s.io"}}); err != nil {
		t.Fatal(err)
	}
	await.That(t, "the masters serve metrics.k8s.io", func() error {
		if _, body := ask(t, h, "/apis/metrics.k8s.io/v1beta1/nodes", "application/json", "admin", admins); strings.Contains(body, "extension") {
			return fmt.Errorf("got %s", body)
		}
		return nil
	})
}

// TestExtensionsComeBeforeTheMasters in a group that both serve, unless their priority is lower, in both forms of discovery: metrics-server has no version v1, and
// kubectl top takes the first version that it knows.
func TestExtensionsComeBeforeTheMasters(t *testing.T) {
	h, _ := withExtension(t)
	versions := func() (list, aggregated []string, preferred string) {
		var group metav1.APIGroup
		_, body := ask(t, h, "/apis/metrics.k8s.io", "application/json", "admin", admins)
		if err := json.Unmarshal([]byte(body), &group); err != nil {
			t.Fatal(err)
		}
		for _, v := range group.Versions {
			list = append(list, v.Version)
		}
		var all apidiscoveryv2.APIGroupDiscoveryList
		_, body = ask(t, h, "/apis", "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList", "admin", admins)
		if err := json.Unmarshal([]byte(body), &all); err != nil {
			t.Fatal(err)
		}
		for _, g := range all.Items {
			for _, v := range g.Versions {
				if g.Name == group.Name {
					aggregated = append(aggregated, v.Version)
				}
			}
		}
		return list, aggregated, group.PreferredVersion.Version
	}
	await.That(t, "the masters' order", func() error { return ordered(versions, "v1", "v1beta1") })
	extend(t, h, "metrics.k8s.io", "v1beta1", "ext")
	awaitServed(t, h, "/apis/metrics.k8s.io/v1beta1/nodes")
	await.That(t, "the masters' order beside a lower priority", func() error { return ordered(versions, "v1", "v1beta1") })
	controllertest.Change(t, h.Client, "", "v1beta1.metrics.k8s.io", func(a *apiregistrationv1.APIService) { a.Spec.VersionPriority = 100 })
	await.That(t, "the extension's version first", func() error { return ordered(versions, "v1beta1", "v1") })
	if err := h.Client.Delete(t.Context(), &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1beta1.metrics.k8s.io"}}); err != nil {
		t.Fatal(err)
	}
	await.That(t, "the masters' order again", func() error { return ordered(versions, "v1", "v1beta1") })
}

// ordered returns why the versions of a group are not these, in this order.
func ordered(versions func() (list, aggregated []string, preferred string), want ...string) error {
	list, aggregated, preferred := versions()
	if !slices.Equal(list, want) || !slices.Equal(aggregated, want) || preferred != want[0] {
		return fmt.Errorf("%q and %q, preferred %s", list, aggregated, preferred)
	}
	return nil
}

// TestDiscoveryIsMerged, in both forms, with the index of OpenAPI v3; an extension API server that does not answer delays none of it, and is stale.
func TestDiscoveryIsMerged(t *testing.T) {
	h, _ := withExtension(t)
	extend(t, h, "slow.example.com", "v1", "hanging")
	extend(t, h, "g.example.com", "v1", "ext")
	const aggregated = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
	find := func(group string) (*apidiscoveryv2.APIVersionDiscovery, error) {
		_, body := ask(t, h, "/apis", aggregated, "admin", admins)
		var list apidiscoveryv2.APIGroupDiscoveryList
		if err := json.Unmarshal([]byte(body), &list); err != nil {
			return nil, err
		}
		i := slices.IndexFunc(list.Items, func(g apidiscoveryv2.APIGroupDiscovery) bool { return g.Name == group })
		if i < 0 || len(list.Items[i].Versions) != 1 {
			return nil, fmt.Errorf("no %s", group)
		}
		return &list.Items[i].Versions[0], nil
	}
	await.That(t, "discovery has the extension's resources", func() error {
		v, err := find("g.example.com")
		if err == nil && (v.Freshness != apidiscoveryv2.DiscoveryFreshnessCurrent || len(v.Resources) != 1 || v.Resources[0].Resource != "things") {
			err = fmt.Errorf("got %+v", v)
		}
		return err
	})
	if v, err := find("slow.example.com"); err != nil || v.Freshness != apidiscoveryv2.DiscoveryFreshnessStale {
		t.Errorf("got %+v, %v", v, err)
	}
	if v, err := find("apps"); err != nil || v.Freshness != apidiscoveryv2.DiscoveryFreshnessCurrent || len(v.Resources) == 0 {
		t.Errorf("got %+v, %v", v, err)
	}
	for path, want := range map[string]string{
		"/apis":                             `"groupVersion":"g.example.com/v1"`,
		"/apis/g.example.com":               `"preferredVersion":{"groupVersion":"g.example.com/v1","version":"v1"}`,
		"/apis/g.example.com/v1":            `"name":"things"`,
		"/openapi/v3":                       `"apis/g.example.com/v1":{"serverRelativeURL":"/openapi/v3/apis/g.example.com/v1?hash=ABC"}`,
		"/openapi/v3/apis/g.example.com/v1": `{"openapi":"3.0.0"}`,
		"/openapi/v3/apis/apps/v1":          `io.k8s.api.apps.v1.Deployment`,
		"/openapi/v2":                       `"/apis/g.example.com/v1/things":{"get":{"responses":{"200":{"description":"things"}}}}`,
	} {
		if code, body := ask(t, h, path, "application/json", "admin", admins); code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d %.2000s", path, code, body)
		}
	}
	before := h.REST.Aggregated.Now().Of("g.example.com", "v1")
	setAvailable(t, h, "v1.g.example.com", apiregistrationv1.ConditionFalse)
	await.That(t, "discovery says that the extension is stale", func() error {
		v, err := find("g.example.com")
		if err == nil && (v.Freshness != apidiscoveryv2.DiscoveryFreshnessStale || len(v.Resources) != 1) {
			err = fmt.Errorf("got %+v", v)
		}
		return err
	})
	if now := h.REST.Aggregated.Now().Of("g.example.com", "v1"); now == before || now.OpenAPI != "ABC" {
		t.Errorf("got %+v", now)
	}
	if err := h.Client.Delete(t.Context(), &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: "v1.g.example.com"}}); err != nil {
		t.Fatal(err)
	}
	await.That(t, "discovery is without the extension", func() error {
		if v, err := find("g.example.com"); err == nil {
			return fmt.Errorf("got %+v", v)
		}
		return nil
	})
}

// TestTransactionsAndGRPCDoNotReachExtensions, and say so, also where an extension replaces a built-in group version.
func TestTransactionsAndGRPCDoNotReachExtensions(t *testing.T) {
	h, _ := withExtension(t)
	extend(t, h, "g.example.com", "v1", "ext")
	extend(t, h, "metrics.k8s.io", "v1beta1", "ext")
	awaitServed(t, h, "/apis/g.example.com/v1/things/x")
	awaitServed(t, h, "/apis/metrics.k8s.io/v1beta1/nodes")
	for _, kind := range []*kontikiv1.Kind{{Group: "g.example.com", Version: "v1", Kind: "Thing"}, {Group: "metrics.k8s.io", Version: "v1beta1", Kind: "NodeMetrics"}} {
		want := kind.Kind + ": " + h.REST.Aggregated.Now().Of(kind.Group, kind.Version).Unreachable()
		_, err := kontikiv1.NewObjectsClient(h.GRPC("admin", admins)).Get(t.Context(), &kontikiv1.GetRequest{Reference: &kontikiv1.Reference{Kind: kind, Name: "x"}})
		if grpcstatus.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), want) {
			t.Errorf("%s by gRPC: %v", kind.Kind, err)
		}
		body := fmt.Sprintf(`{"operations":[{"create":{"apiVersion":"%s/%s","kind":%q,"metadata":{"name":"x"}}}]}`, kind.Group, kind.Version, kind.Kind)
		w := httptest.NewRecorder()
		h.AsAdmin().ServeHTTP(w, httptest.NewRequest(http.MethodPost, "https://kontiki"+rest.TransactionsPath, strings.NewReader(body)))
		if w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), want) {
			t.Errorf("%s in a transaction: %d %s", kind.Kind, w.Code, w.Body)
		}
	}
}
