package rest_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/kontiki/kontiki/test/harness"
)

var unstructuredToken = authenticationv1.TokenRequest{}

// TestHostilePatches: a patch of a few bytes cannot take gigabytes of memory.
func TestHostilePatches(t *testing.T) {
	h := harness.New(t)
	config := h.Config("admin", "system:masters")
	const path = "/api/v1/namespaces/default/configmaps/a"
	if code, body := raw(t, config, "POST", "/api/v1/namespaces/default/configmaps", "application/json",
		[]byte(`{"metadata":{"name":"a"},"data":{"k":"`+strings.Repeat("v", 1000)+`"}}`)); code != 201 {
		t.Fatal(code, body)
	}
	copies := func(n int) string {
		return "[" + strings.TrimSuffix(strings.Repeat(`{"op":"copy","from":"","path":"/x"},`, n), ",") + "]"
	}
	doubling := "["
	for i := range 16 { // 64 MB, were it not refused
		doubling += fmt.Sprintf(`{"op":"copy","from":"/data","path":"/data/x%d"},`, i)
	}
	doubling = strings.TrimSuffix(doubling, ",") + "]"
	// 80 MB, were it not refused.
	amplified := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: &a " + strings.Repeat("x", 200_000) + "\nb: [" + strings.Repeat("*a, ", 400) + "]\n"
	pods := "/api/v1/namespaces/default/pods"
	if code, body := raw(t, config, "POST", pods, "application/json", []byte(`{"metadata":{"name":"p"},"spec":{"containers":[{"name":"c","image":"i"}]}}`)); code != 201 {
		t.Fatal(code, body)
	}
	for _, c := range []struct {
		name, method, path, contentType, body string
		code                                  int
		want                                  string
	}{
		{"copies that double", "PATCH", path, "application/json-patch+json", doubling, 422, "the server rejected our request due to an error in our request"},
		{"many operations", "PATCH", path, "application/json-patch+json", copies(10001), 413, "The allowed maximum operations in a JSON patch is 10000, got 10001"},
		{"an exponent", "POST", pods, "application/json", `{"metadata":{"name":"b"},"spec":{"containers":[{"name":"c","image":"i","resources":{"limits":{"cpu":"1e-2000000000"}}}]}}`, 400, "the exponent has more than 3 digits"},
		{"an exponent by patch", "PATCH", pods + "/p", "application/json-patch+json", `[{"op":"add","path":"/spec/overhead","value":{"cpu":"1e-2000000000"}}]`, 400, "the exponent has more than 3 digits"},
		{"an exponent by apply", "PATCH", pods + "/q?fieldManager=m", "application/apply-patch+yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: q}\nspec: {overhead: {cpu: \"1e-2000000000\"}}", 400, "the exponent has more than 3 digits"},
		{"aliases", "POST", "/api/v1/namespaces/default/configmaps", "application/yaml", amplified, 400, "when its aliases are replaced"},
		{"aliases as JSON", "POST", pods, "application/json", amplified + "c: 1e9999\n", 400, "when its aliases are replaced"},
		{"aliases by apply", "PATCH", path + "?fieldManager=m", "application/apply-patch+yaml", amplified, 400, "when its aliases are replaced"},
		{"aliases of a deletion", "DELETE", path, "application/yaml", amplified, 400, "when its aliases are replaced"},
		{"a merge key that is a list", "PATCH", pods + "/p", "application/strategic-merge-patch+json", `{"spec":{"containers":[{"name":["a"]},{"name":["a"]}]}}`, 400, "the keys that identify elements of its lists must be strings, numbers or booleans"},
		{"a wrong type shows the patch", "PATCH", pods + "/p", "application/strategic-merge-patch+json", `{"metadata":{"labels":7}}`, 422, `patch: Invalid value: "map[metadata:map[labels:7]]"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			if code, body := raw(t, config, c.method, c.path, c.contentType, []byte(c.body)); code != c.code || !strings.Contains(unescape(body), c.want) {
				t.Errorf("%d %.600s, want %d with %q", code, body, c.code, c.want)
			}
		})
	}
	if code, body := raw(t, config, "PATCH", path, "application/json-patch+json", []byte(`[{"op":"copy","from":"/data/k","path":"/data/l"}]`)); code != 200 {
		t.Errorf("a small copy: %d %s", code, body)
	}
}

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
		{"bad field selector", "GET", pods + "?fieldSelector=spec.colour%3Dblue", "", "", 400, `"message":"field label not supported: spec.colour"`},
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

// A timeout that cannot be read is refused; one that is not shorter than the server's own is the server's own.
func TestTimeoutsInTheURL(t *testing.T) {
	h := harness.New(t)
	config := h.Config("admin", "system:masters")
	for _, path := range []string{"/version", "/api/v1/namespaces", "/api/v1/namespaces/default", "/healthz"} {
		for timeout, want := range map[string]int{"soon": 400, "10": 400, "0s": 200, "5s": 200, "3m": 200, "": 200} {
			code, body := raw(t, config, "GET", path+"?timeout="+timeout, "", nil)
			if code != want || (code == 400 && !strings.Contains(body, "invalid timeout specified in the request URL")) {
				t.Errorf("%s?timeout=%s: %d %s", path, timeout, code, body)
			}
		}
	}
	if code, body := raw(t, config, "GET", "/api/v1/namespaces?watch=1&timeoutSeconds=1&timeout=soon", "", nil); code != 200 {
		t.Errorf("a watch: %d %s", code, body)
	}
}
