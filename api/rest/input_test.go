package rest_test

import (
	"encoding/json"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/kontiki/kontiki/test/harness"
)

var unstructuredToken = authenticationv1.TokenRequest{}

func TestBadInputNamesTheFieldAndChangesNothing(t *testing.T) {
	h := harness.New(t)
	config := h.Config("admin", "system:masters")
	before := h.Store.View().Revision()
	const pods = "/api/v1/namespaces/default/pods"
	podWith := func(spec string) string {
		return `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a"},"spec":` + spec + `}`
	}
	for _, c := range []struct {
		name, method, path, contentType, body string
		code                                  int
		want                                  string
	}{
		{"unknown field", "POST", pods + "?fieldValidation=Strict", "application/json", podWith(`{"containers":[{"name":"c","image":"i","imagge":"x"}]}`), 400, `strict decoding error: unknown field "spec.containers[0].imagge"`},
		{"wrong type", "POST", pods, "application/json", podWith(`{"containers":"many"}`), 400, `Pod in version "v1" cannot be handled as a Pod`},
		{"impossible port", "POST", pods, "application/json", podWith(`{"containers":[{"name":"c","image":"i","ports":[{"containerPort":70000}]}]}`), 422, `spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535`},
		{"no containers", "POST", pods, "application/json", podWith(`{"containers":[]}`), 422, `spec.containers: Required value`},
		{"not JSON", "POST", pods, "application/json", `{"apiVersion"`, 400, `the object provided is unrecognized (must be of type Pod)`},
		{"another kind", "POST", pods, "application/json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}`, 400, "ConfigMap"},
		{"another namespace", "POST", pods, "application/json", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","namespace":"other"},"spec":{"containers":[{"name":"c","image":"i"}]}}`, 400, "does not match the namespace"},
		{"unknown media type", "POST", pods, "text/plain", "x", 415, "accepted media types include"},
		{"damaged protobuf", "POST", pods, "application/vnd.kubernetes.protobuf", "k8s\x00\xff\xff", 400, "the object provided is unrecognized (must be of type Pod)"},
		{"oversized body", "POST", pods, "application/json", `{"x":"` + strings.Repeat("y", 3<<20) + `"}`, 413, "limit is 3145728"},
		{"oversized object", "POST", "/api/v1/namespaces/default/configmaps", "application/json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":"` + strings.Repeat("y", 1600<<10) + `"}}`, 422, "Too long"},
		{"oversized annotations", "POST", "/api/v1/namespaces/default/services", "application/json", `{"apiVersion":"v1","kind":"Service","metadata":{"name":"a"},"spec":{"externalName":"` + strings.Repeat("y", 1600<<10) + `","type":"ExternalName"}}`, 422, "spec.externalName"},
		{"unknown resource", "GET", "/api/v1/namespaces/default/gadgets", "", "", 404, "404 page not found"},
		{"unknown subresource", "GET", pods + "/a/colour", "", "", 404, "404 page not found"},
		{"absent object", "GET", pods + "/a", "", "", 404, `pods \"a\" not found`},
		{"wrong method", "PUT", pods, "application/json", "{}", 405, "update is not supported"},
		{"bad selector", "GET", pods + "?labelSelector=a%20b%20c", "", "", 400, "unable to parse requirement"},
		{"bad limit", "GET", pods + "?limit=many", "", "", 400, "many"},
		{"bad revision", "GET", pods + "?resourceVersion=x&watch=1", "", "", 400, "resourceVersion"},
		{"bad continue", "GET", pods + "?continue=x&limit=1", "", "", 400, "continue key is not valid"},
		{"unknown patch type", "PATCH", pods + "/a", "application/json", "{}", 415, "application/merge-patch+json"},
		{"apply without manager", "PATCH", pods + "/a", "application/apply-patch+yaml", "{}", 422, "fieldManager: Required value"},
		{"negative replicas", "POST", "/apis/apps/v1/namespaces/default/deployments", "application/json", `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"a"},"spec":{"replicas":-1,"selector":{"matchLabels":{"a":"b"}},"template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i"}]}}}}`, 422, "spec.replicas: Invalid value: -1: must be greater than or equal to 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			code, body := raw(t, config, c.method, c.path, c.contentType, []byte(c.body))
			if code != c.code || !strings.Contains(unescape(body), unescape(c.want)) {
				t.Errorf("%d %.600s, want %d with %q", code, body, c.code, c.want)
			}
			var status struct{ Kind, Status, Message string }
			if err := json.Unmarshal([]byte(body), &status); err != nil || status.Kind != "Status" || status.Status != "Failure" || status.Message == "" {
				t.Errorf("not a Status: %.300s (%v)", body, err)
			}
		})
	}
	if after := h.Store.View().Revision(); after != before {
		t.Errorf("refused requests changed the store: revision %d, then %d", before, after)
	}
}

func unescape(s string) string { return strings.ReplaceAll(s, `\"`, `"`) }

func TestUnknownFieldsWarnByDefault(t *testing.T) {
	config := harness.New(t).Config("admin", "system:masters")
	code, body := raw(t, config, "POST", "/api/v1/namespaces/default/configmaps", "application/json", []byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"dataa":{}}`))
	if code != 201 {
		t.Fatalf("%d %s", code, body)
	}
}

func TestTablesHaveUpstreamsColumns(t *testing.T) {
	config := harness.New(t).Config("admin", "system:masters")
	code, body := raw(t, config, "POST", "/api/v1/namespaces/default/configmaps", "application/yaml", []byte("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {k: v}\n"))
	if code != 201 {
		t.Fatalf("%d %s", code, body)
	}
	code, body = raw(t, config, "GET", "/api/v1/namespaces/default/configmaps", "", nil, "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io,application/json")
	if code != 200 || !strings.Contains(body, `"kind":"Table"`) || !strings.Contains(body, `"name":"Data"`) || !strings.Contains(body, `"cells":["a",1`) {
		t.Fatalf("%d %s", code, body)
	}
	code, body = raw(t, config, "GET", "/api/v1/namespaces/default/configmaps/a", "", nil, "Accept", "application/yaml")
	if code != 200 || !strings.HasPrefix(body, "apiVersion: v1\n") {
		t.Fatalf("%d %s", code, body)
	}
	code, body = raw(t, config, "GET", "/api/v1/namespaces/default/configmaps", "", nil, "Accept", "text/html")
	if code != 406 {
		t.Fatalf("%d %s", code, body)
	}
}
