package definitions_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/client-go/discovery"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/test/harness"
)

// decoded returns a value as JSON decodes it.
func decoded(t *testing.T, value any) (out map[string]any) {
	t.Helper()
	text, ok := value.([]byte)
	if !ok {
		var err error
		if text, err = json.Marshal(value); err != nil {
			t.Fatal(err)
		}
	}
	if err := json.Unmarshal(text, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

func at(value map[string]any, path ...string) map[string]any {
	for _, key := range path {
		value, _ = value[key].(map[string]any)
	}
	return value
}

// TestOpenAPIEqualsUpstreams: the schemas and paths of a custom resource are those that upstream's builder makes.
func TestOpenAPIEqualsUpstreams(t *testing.T) {
	h := harness.New(t)
	for _, scope := range []string{"Namespaced", "Cluster"} {
		text := strings.ReplaceAll(strings.ReplaceAll(strings.ReplaceAll(widgets, "Namespaced", scope), "widget", "w"+strings.ToLower(scope)), "Widget", "W"+strings.ToLower(scope))
		text = strings.Replace(text, "shortNames: [wd], ", "", 1)
		define(t, dynamicClient(t, h), text)
		crd := &apiextensionsv1.CustomResourceDefinition{}
		if err := yaml.Unmarshal([]byte(text), crd); err != nil {
			t.Fatal(err)
		}
		apiextensionsv1.SetDefaults_CustomResourceDefinition(crd)
		client, err := discovery.NewDiscoveryClientForConfig(h.Config("admin", "system:masters"))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := client.RESTClient().Get().AbsPath("/openapi/v3/apis/example.com/v1").DoRaw(ctx)
		if err != nil {
			t.Fatal(err)
		}
		model := "com.example.v1." + crd.Spec.Names.Kind
		wantV3, err := builder.BuildOpenAPIV3(crd, "v1", builder.Options{IncludeSelectableFields: true})
		if err != nil {
			t.Fatal(err)
		}
		got, want := decoded(t, raw), decoded(t, wantV3)
		for _, name := range []string{model, model + "List"} {
			if a, b := at(got, "components", "schemas", name), at(want, "components", "schemas", name); a == nil || !reflect.DeepEqual(a, b) {
				t.Errorf("version 3, %s:\n%v\nwant\n%v", name, a, b)
			}
		}
		for path, item := range at(want, "paths") {
			have := at(got, "paths", path)
			for method, operation := range item.(map[string]any) {
				if method == "parameters" {
					continue
				}
				op, wanted := at(have, method), operation.(map[string]any)
				if op["operationId"] != wanted["operationId"] || op["description"] != wanted["description"] || !reflect.DeepEqual(op["tags"], wanted["tags"]) ||
					!reflect.DeepEqual(op["x-kubernetes-group-version-kind"], wanted["x-kubernetes-group-version-kind"]) {
					t.Errorf("%s %s: %v %v %v, want %v %v %v", method, path, op["operationId"], op["description"], op["tags"], wanted["operationId"], wanted["description"], wanted["tags"])
				}
			}
		}
		if len(at(got, "paths")) < len(at(want, "paths")) {
			t.Errorf("%d paths, want %d", len(at(got, "paths")), len(at(want, "paths")))
		}
		raw, err = client.RESTClient().Get().AbsPath("/openapi/v2").SetHeader("Accept", "application/json").DoRaw(ctx)
		if err != nil {
			t.Fatal(err)
		}
		wantV2, err := builder.BuildOpenAPIV2(crd, "v1", builder.Options{V2: true, IncludeSelectableFields: true})
		if err != nil {
			t.Fatal(err)
		}
		if a, b := at(decoded(t, raw), "definitions", model), withoutDefaults(at(decoded(t, wantV2), "definitions", model)); a == nil || !reflect.DeepEqual(a, b) {
			t.Errorf("version 2:\n%v\nwant\n%v", a, b)
		}
		document, err := client.OpenAPISchema()
		if err != nil {
			t.Fatal(err)
		}
		if !hasDefinition(document, model) || !hasDefinition(document, "io.k8s.api.core.v1.Pod") {
			t.Errorf("version 2 in protobuf lacks definitions")
		}
	}
}

// withoutDefaults removes the defaults in a schema, as upstream does before it publishes version 2. None of the properties has this name.
func withoutDefaults(schema map[string]any) map[string]any {
	delete(schema, "default")
	for _, value := range schema {
		if inner, ok := value.(map[string]any); ok {
			withoutDefaults(inner)
		}
	}
	return schema
}

func hasDefinition(d *openapi_v2.Document, name string) bool {
	for _, n := range d.GetDefinitions().GetAdditionalProperties() {
		if n.Name == name {
			return true
		}
	}
	return false
}
