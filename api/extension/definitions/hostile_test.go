package definitions_test

import (
	"fmt"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"github.com/kontiki/kontiki/test/harness"
)

// TestHostileDefinitions: definitions and objects that would cost without bound are refused, and the API goes on.
func TestHostileDefinitions(t *testing.T) {
	h := harness.New(t)
	c := dynamicClient(t, h)
	raw, err := discovery.NewDiscoveryClientForConfig(h.Config("admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	post := func(path, body string) (int, string) {
		t.Helper()
		var code int
		result := raw.RESTClient().Post().AbsPath(path).SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(ctx)
		result.StatusCode(&code)
		text, _ := result.Raw() // the code says whether it was refused
		return code, string(text)
	}
	const path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
	definition := func(schema string) string {
		return fmt.Sprintf(`{"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition","metadata":{"name":"bad.example.com"},"spec":{"group":"example.com","scope":"Cluster",
			"names":{"plural":"bad","kind":"Bad"},"versions":[{"name":"v1","served":true,"storage":true,"schema":{"openAPIV3Schema":%s}}]}}`, schema)
	}
	deep := func(open, close string, n int) string {
		return strings.Repeat(open, n) + `{"type":"object"}` + strings.Repeat(close, n)
	}
	for what, schema := range map[string]string{
		"a rule that loops over loops": `{"type":"object","properties":{"spec":{"type":"object","properties":{"list":{"type":"array","items":{"type":"string"}}},
			"x-kubernetes-validations":[{"rule":"self.list.all(a, self.list.all(b, self.list.all(c, a != b || b != c)))"}]}}}`,
		"a rule that does not compile": `{"type":"object","x-kubernetes-validations":[{"rule":"self.spec.("}]}`,
		"an expression without end":    `{"type":"object","properties":{"a":{"type":"string","pattern":"((((((((((a{1000}){1000}){1000}"}}}`,
		"alternatives too deep":        `{"type":"object","properties":{"a":{"anyOf":[` + deep(`{"anyOf":[`, `]}`, 3000) + `]}}}`,
		"JSON too deep":                `{"type":"object","default":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`,
		"a wrong default":              `{"type":"object","properties":{"a":{"type":"integer","default":"x"}}}`,
		"no types":                     `{"properties":{"a":{"properties":{"b":{}}}}}`,
	} {
		code, text := post(path, definition(schema))
		if code < 400 || code >= 500 {
			t.Errorf("%s: %d %.300s", what, code, text)
		}
	}
	// Depth alone is no reason to refuse a definition: it is served as well.
	if code, text := post(path, definition(deep(`{"type":"object","properties":{"a":`, `}}`, 3000))); code != 201 {
		t.Errorf("a deep schema: %d %.300s", code, text)
	}
	if code, text := post("/apis/example.com/v1/bad", `{"apiVersion":"example.com/v1","kind":"Bad","metadata":{"name":"a"},"a":{"a":{"a":{}}}}`); code != 201 {
		t.Errorf("an object of a deep schema: %d %.300s", code, text)
	}
	if _, err := raw.RESTClient().Get().AbsPath("/openapi/v3/apis/example.com/v1").DoRaw(ctx); err != nil {
		t.Errorf("the description of a deep schema: %v", err)
	}
	define(t, c, widgets)
	widget := func(spec string) string {
		return `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w"},"spec":` + spec + `}`
	}
	for what, spec := range map[string]string{
		"too deep":       `{"free":` + strings.Repeat(`{"a":`, 12000) + `1` + strings.Repeat(`}`, 12000) + `}`,
		"too many parts": `{"parts":[` + strings.Repeat(`{"name":"a"},`, 100000) + `{"name":"a"}]}`,
		"too large":      `{"free":{"a":"` + strings.Repeat("x", 2<<20) + `"}}`,
		"not an object":  `[1]`,
		"a huge number":  `{"size":1e400}`,
	} {
		if code, text := post("/apis/example.com/v1/namespaces/default/widgets", widget(spec)); code < 400 || code >= 500 {
			t.Errorf("%s: %d %.300s", what, code, text)
		}
	}
	if _, err := c.Resource(schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}).Namespace("default").Get(ctx, "w", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("something was stored: %v", err)
	}
}
