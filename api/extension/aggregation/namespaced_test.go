package aggregation

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/kontiki/kontiki/test/gathered"
)

// TestNamespaced: one version of each resource that can be emptied; a server that is not available counts unless it is known to have none.
func TestNamespaced(t *testing.T) {
	resource := func(name string, scope apidiscoveryv2.ResourceScope, verbs ...string) apidiscoveryv2.APIResourceDiscovery {
		return apidiscoveryv2.APIResourceDiscovery{Resource: name, Scope: scope, Verbs: verbs}
	}
	spec := &apiregistrationv1.APIServiceSpec{}
	all := []string{"get", "list", "delete", "deletecollection"}
	s := New(Config{Log: slog.New(slog.DiscardHandler)})
	metrics := []apidiscoveryv2.APIResourceDiscovery{resource("pods", apidiscoveryv2.ScopeNamespace, "get", "list")}
	flunders := []apidiscoveryv2.APIResourceDiscovery{resource("flunders", apidiscoveryv2.ScopeNamespace, all...), resource("fischers", apidiscoveryv2.ScopeCluster, all...)}
	s.store([]*Service{
		{Group: "a", Version: "v1", Spec: spec, Available: true, Fresh: true, Resources: flunders},
		{Group: "a", Version: "v1beta1", Spec: spec, Available: true, Fresh: true, Resources: append(flunders, resource("old", apidiscoveryv2.ScopeNamespace, "list", "delete"))},
		{Group: "never", Version: "v1", Spec: spec, Available: true},
		{Group: "down", Version: "v1", Spec: spec, Fresh: true, Resources: flunders},
		{Group: "metrics", Version: "v1", Spec: spec, Resources: metrics},
	})
	services := s.Now().Services
	found, unknown := map[string][]string{}, []string{}
	for _, service := range services {
		for _, r := range service.namespaced() {
			found[service.Group+"/"+service.Version] = append(found[service.Group+"/"+service.Version], r.Name)
		}
	}
	if got := fmt.Sprint(found); got != "map[a/v1:[flunders] a/v1beta1:[flunders old] down/v1:[flunders]]" {
		t.Errorf("got %s", got)
	}
	resources, missing := s.namespacedNow()
	var names []string
	for _, r := range resources {
		names = append(names, r.Version+"/"+r.Name)
	}
	for gv, err := range missing {
		unknown = append(unknown, gv.String())
		if err.Error() != "stale GroupVersion discovery: "+gv.String() {
			t.Error(err)
		}
	}
	slices.Sort(unknown)
	if want := []string{"v1/flunders", "v1beta1/old"}; !slices.Equal(names, want) || !slices.Equal(unknown, []string{"down/v1", "never/v1"}) {
		t.Errorf("got %v, unknown %v", names, unknown)
	}
	if missing[schema.GroupVersion{Group: "metrics", Version: "v1"}] != nil {
		t.Error("metrics are in the way")
	}
}

// TestMetrics: what is not available is told, and when it became so with the reason; the series of a service go with it.
func TestMetrics(t *testing.T) {
	s := New(Config{Log: slog.New(slog.DiscardHandler)})
	spec := &apiregistrationv1.APIServiceSpec{}
	up := &Service{Group: "g", Version: "v1", Spec: spec, Available: true}
	down := &Service{Group: "g", Version: "v1", Spec: spec, reason: "MissingEndpoints"}
	described := &Service{Group: "g", Version: "v1", Spec: spec, Available: true, v2: &openAPIv2{}}
	again := &Service{Group: "g", Version: "v1", Spec: spec, Available: true, v2: &openAPIv2{}}
	for _, state := range []*Service{down, up, down, described, again} {
		s.store([]*Service{state})
	}
	s.Merged()
	counted := gathered.Values(t, s.Metrics())
	for series, want := range map[string]float64{
		`aggregator_unavailable_apiservice{name="v1.g"}`: 0, `aggregator_unavailable_apiservice_total{name="v1.g",reason="MissingEndpoints"}`: 1,
		`aggregator_openapi_v2_regeneration_count{apiservice="v1.g",reason="add"}`: 1, `aggregator_openapi_v2_regeneration_count{apiservice="v1.g",reason="update"}`: 1,
		`aggregator_discovery_aggregation_count_total{}`: 1,
	} {
		if got, ok := counted[series]; !ok || got != want {
			t.Errorf("%s is %v (%v), want %v", series, got, ok, want)
		}
	}
	s.store([]*Service{down})
	if got := gathered.Values(t, s.Metrics())[`aggregator_unavailable_apiservice{name="v1.g"}`]; got != 1 {
		t.Errorf("%v are unavailable", got)
	}
	s.store(nil)
	for series := range gathered.Values(t, s.Metrics()) {
		if strings.Contains(series, "v1.g") {
			t.Errorf("%s is left", series)
		}
	}
}

// TestOpenAPIv2 is read again only when it has changed, and nothing of it is a failure of discovery.
func TestOpenAPIv2(t *testing.T) {
	const path = `"/apis/g.example.com/v1/things":{"get":{"responses":{"200":{"description":"OK"}}}}`
	document := `{"swagger":"2.0","info":{"title":"t","version":"v"},"paths":{` + path + `}}`
	tag, code := `"1"`, http.StatusOK
	var sent atomic.Int32
	e := start(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != "/openapi/v2":
			fmt.Fprint(w, `{}`)
		case r.Header.Get("If-None-Match") == tag:
			w.WriteHeader(http.StatusNotModified)
		default:
			sent.Add(1)
			w.Header().Set("Etag", tag)
			w.WriteHeader(code)
			fmt.Fprint(w, document)
		}
	})
	s := e.service(t)
	discover := func() *openAPIv2 {
		t.Helper()
		found, err := s.discover(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		s.v2 = found.v2
		return found.v2
	}
	first := discover()
	if first == nil || s.OpenAPIv2() == nil || first.err != nil {
		t.Fatalf("got %+v", first)
	}
	if again := discover(); again != first || sent.Load() != 1 {
		t.Errorf("the same document was read %d times", sent.Load())
	}
	tag = `"2"` // of the same text
	if again := discover(); again != first || sent.Load() != 2 {
		t.Error("the same text was taken for a change")
	}
	document, tag = strings.Replace(document, "OK", "fine", 1), `"3"`
	if changed := discover(); changed == first || s.OpenAPIv2() == nil {
		t.Error("the change was not read")
	}
	document, tag = "<html>", `"4"`
	if wrong := discover(); wrong == nil || wrong.err == nil || s.OpenAPIv2() != nil {
		t.Errorf("got %+v", wrong)
	}
	document, tag = strings.Repeat(" ", maxAnswer+1), `"5"`
	if wrong := discover(); wrong == nil || wrong.err != errTooMuch || s.OpenAPIv2() != nil {
		t.Errorf("got %+v", wrong)
	}
	code, document, tag = http.StatusNotFound, "", `"6"`
	if none := discover(); none != nil || s.OpenAPIv2() != nil {
		t.Errorf("got %+v", none)
	}
}
