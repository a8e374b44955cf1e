package rest_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/measure"
	"github.com/kontiki/kontiki/test/gathered"
	"github.com/kontiki/kontiki/test/harness"
)

// TestRequestsAreCounted under upstream's labels, and what clients invent makes no series.
func TestRequestsAreCounted(t *testing.T) {
	metrics := measure.New()
	h := harness.NewConfigured(t, func(c *apiserver.Config) { c.Metrics = metrics })
	ask := func(method, path, contentType, body string) int {
		t.Helper()
		r := httptest.NewRequest(method, path, strings.NewReader(body))
		r.Header.Set("Content-Type", contentType)
		w := httptest.NewRecorder()
		h.AsAdmin().ServeHTTP(w, r)
		return w.Code
	}
	const maps = "/api/v1/namespaces/default/configmaps"
	for _, c := range []struct {
		method, path, contentType, body string
		code                            int
	}{
		{"POST", maps, "application/json", `{"metadata":{"name":"a"}}`, 201},
		{"POST", maps, "application/json", `{"metadata":{"name":"a"}}`, 409},
		{"POST", maps + "?dryRun=All", "application/json", `{"metadata":{"name":"b"}}`, 201},
		{"GET", maps + "/a", "", "", 200},
		{"GET", maps, "", "", 200},
		{"GET", "/api/v1/configmaps", "", "", 200},
		{"PATCH", maps + "/a", "application/merge-patch+json", `{"data":{"x":"y"}}`, 200},
		{"PATCH", maps + "/a?fieldManager=m", "application/apply-patch+yaml", "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}", 200},
		{"DELETE", maps + "/a", "", "", 200},
		{"GET", "/healthz", "", "", 200},
		{"GET", maps + "/a/invented", "", "", 404},
		{"GET", "/apis/invented/v1/things", "", "", 404},
		{"GET", "/invented", "", "", 404},
		{"POST", "/api/v1/namespaces/default/pods", "application/json", `{"metadata":{"name":"p"},"spec":{"serviceAccountName":"none","containers":[{"name":"c","image":"i"}]}}`, 403},
	} {
		if code := ask(c.method, c.path, c.contentType, c.body); code != c.code {
			t.Fatalf("%s %s: %d, want %d", c.method, c.path, code, c.code)
		}
	}
	got := gathered.Values(t, metrics)
	total := func(code, dry, group, resource, scope, subresource, verb, version string) float64 {
		return got[`apiserver_request_total{code="`+code+`",component="apiserver",dry_run="`+dry+`",group="`+group+`",resource="`+resource+`",scope="`+scope+`",subresource="`+subresource+`",verb="`+verb+`",version="`+version+`"}`]
	}
	for _, c := range []struct {
		code, dry, resource, scope, subresource, verb, version string
	}{
		{"201", "", "configmaps", "resource", "", "POST", "v1"}, {"409", "", "configmaps", "resource", "", "POST", "v1"}, {"201", "All", "configmaps", "resource", "", "POST", "v1"},
		{"200", "", "configmaps", "resource", "", "GET", "v1"}, {"200", "", "configmaps", "namespace", "", "LIST", "v1"}, {"200", "", "configmaps", "cluster", "", "LIST", "v1"},
		{"200", "", "configmaps", "resource", "", "PATCH", "v1"}, {"200", "", "configmaps", "resource", "", "APPLY", "v1"}, {"200", "", "configmaps", "resource", "", "DELETE", "v1"},
		{"200", "", "", "", "/healthz", "GET", ""}, {"403", "", "pods", "resource", "", "POST", "v1"},
	} {
		if n := total(c.code, c.dry, "", c.resource, c.scope, c.subresource, c.verb, c.version); n != 1 {
			t.Errorf("%+v was counted %v times", c, n)
		}
	}
	for name := range got {
		if strings.Contains(name, "invented") {
			t.Errorf("a client made the series %s", name)
		}
	}
	if n := got[`kontiki_admission_rejections_total{name="ServiceAccount",operation="CREATE",type="admit"}`]; n != 1 {
		t.Errorf("the step that refused the pod was counted %v times", n)
	}
	if n := got[`authentication_attempts{result="success"}`]; n < 14 {
		t.Errorf("%v attempts to authenticate", n)
	}
	if code := ask(http.MethodGet, "/api/v1/pods", "", ""); code != 200 {
		t.Error(code)
	}
}
