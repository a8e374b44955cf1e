package custom

import (
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/api/registry"
)

const widgets = `
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: widgets, kind: Widget, listKind: WidgetList, singular: widget}
  conversion: {strategy: None}
  versions:
  - name: v1beta1
    served: true
    storage: false
    deprecated: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}, old: {type: string}}}}}}
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    schema: {openAPIV3Schema: {type: object, properties: {
      spec: {type: object, properties: {size: {type: integer, default: 3, minimum: 1}, free: {type: object, x-kubernetes-preserve-unknown-fields: true}}},
      status: {type: object, properties: {ready: {type: boolean}}}}}}
status:
  acceptedNames: {plural: widgets, kind: Widget, listKind: WidgetList, singular: widget}
`

// rows returns the rows of widgets: v1, then v1beta1.
func rows(t *testing.T) []*registry.Resource {
	t.Helper()
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict([]byte(widgets), crd); err != nil {
		t.Fatal(err)
	}
	rows, err := Rows(crd, nil, None{})
	if err != nil || len(rows) != 2 || rows[0].Versions[0] != "v1" || rows[1].Versions[0] != "v1beta1" || rows[1].VersionOf != rows[0] {
		t.Fatalf("rows %+v, %v", rows, err)
	}
	return rows
}

func widget(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	data, err := yaml.YAMLToJSON([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	u := &unstructured.Unstructured{}
	if err := u.UnmarshalJSON(data); err != nil { // numbers as the API decodes them
		t.Fatal(err)
	}
	return u
}

func TestRowsFollowTheDefinition(t *testing.T) {
	all := rows(t)
	if all[0].Status == nil || all[1].Status != nil {
		t.Error("v1 has a status, v1beta1 has none")
	}
	if want := "example.com/v1beta1 Widget is deprecated; use example.com/v1 Widget"; all[1].Deprecation != want || all[0].Deprecation != "" {
		t.Errorf("deprecations %q and %q", all[0].Deprecation, all[1].Deprecation)
	}
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if _, err := Rows(crd, nil, None{}); err == nil || !strings.Contains(err.Error(), "no storage version") {
		t.Errorf("a definition without versions: %v", err)
	}
}

// TestObjectsAreStoredInTheStorageVersion: with defaults, without what the schema lacks; and read in each version without what that lacks.
func TestObjectsAreStoredInTheStorageVersion(t *testing.T) {
	c := rows(t)[0].Codec
	u := widget(t, `{apiVersion: example.com/v1, kind: Widget, metadata: {name: a}, spec: {unknown: x, free: {any: [1, {a: b}]}}}`)
	unknown, err := c.Prune(u, true)
	if err != nil || strings.Join(unknown, " ") != "spec.unknown" {
		t.Errorf("unknown fields %q, %v", unknown, err)
	}
	c.Default(u)
	stored, err := c.Store(u, u.GroupVersionKind())
	if err != nil || !strings.Contains(string(stored), `"spec":{"free":{"any":[1,{"a":"b"}]},"size":3}`) {
		t.Fatalf("%s, %v", stored, err)
	}
	old, err := c.Load(stored, schema.GroupVersionKind{Group: "example.com", Version: "v1beta1", Kind: "Widget"})
	if err != nil {
		t.Fatal(err)
	}
	read := old.(*unstructured.Unstructured)
	if spec, _ := read.Object["spec"].(map[string]any); read.GetAPIVersion() != "example.com/v1beta1" || spec["free"] != nil || spec["size"] != int64(3) {
		t.Errorf("read as v1beta1: %v", read.Object)
	}
	// What is written in the other version is stored in the storage version, and stays as it was given.
	given := widget(t, `{apiVersion: example.com/v1beta1, kind: Widget, metadata: {name: b}, spec: {size: 1, old: x}}`)
	if stored, err = c.Store(given, given.GroupVersionKind()); err != nil || !strings.Contains(string(stored), `"apiVersion":"example.com/v1"`) || strings.Contains(string(stored), "old") {
		t.Errorf("%s, %v", stored, err)
	}
	if given.GetAPIVersion() != "example.com/v1beta1" {
		t.Error("storing an object has changed it")
	}
	if meta, err := c.Meta(stored); err != nil || meta.Name != "b" {
		t.Errorf("metadata %+v, %v", meta, err)
	}
	for _, bad := range []string{`{"apiVersion":"example.com/v9","kind":"Widget"}`, `{"apiVersion":"other.com/v1","kind":"Widget"}`, `[]`, `{`} {
		if obj, err := c.Load([]byte(bad), u.GroupVersionKind()); err == nil {
			t.Errorf("%s is read as %v", bad, obj)
		}
	}
}

func TestStatusAndGeneration(t *testing.T) {
	r := rows(t)[0]
	u := widget(t, `{apiVersion: example.com/v1, kind: Widget, metadata: {name: a}, spec: {size: 1}, status: {ready: true}}`)
	r.PrepareCreate(t.Context(), u)
	if u.Object["status"] != nil || u.GetGeneration() != 1 {
		t.Errorf("a new object is %v", u.Object)
	}
	stored := widget(t, `{apiVersion: example.com/v1, kind: Widget, metadata: {name: a, generation: 4}, spec: {size: 1}, status: {ready: true}}`)
	for spec, generation := range map[string]int64{"{size: 1}": 4, "{size: 2}": 5} {
		now := widget(t, `{apiVersion: example.com/v1, kind: Widget, metadata: {name: a, generation: 4, labels: {a: b}}, spec: `+spec+`, status: {ready: false}}`)
		r.Strategy.PrepareUpdate(t.Context(), now, stored)
		if ready, _, _ := unstructured.NestedBool(now.Object, "status", "ready"); !ready || now.GetGeneration() != generation {
			t.Errorf("%s: %v, want generation %d and the stored status", spec, now.Object, generation)
		}
	}
	if errs := r.Validate(t.Context(), widget(t, `{apiVersion: example.com/v1, kind: Widget, metadata: {name: a, namespace: shop}, spec: {size: 0}}`)); len(errs) != 1 || errs[0].Field != "spec.size" {
		t.Errorf("a size of 0: %v", errs)
	}
}
