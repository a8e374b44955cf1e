package custom

import (
	"encoding/json"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/api/registry"
)

// TestFreshJSONIsWhatLoadingGives: also when admission has added what the schema lacks, or removed what has a default.
func TestFreshJSONIsWhatLoadingGives(t *testing.T) {
	c := rows(t)[0].Codec
	for _, text := range []string{
		`{apiVersion: example.com/v1, kind: Widget, metadata: {name: a}, spec: {size: 1}}`,
		`{apiVersion: example.com/v1, kind: Widget, metadata: {name: a, uid: x, labels: {"a\"{": "}\\"}, selfLink: "", annotations: {resourceVersion: "<1>"}}, spec: {free: {metadata: {a: 1}}}}`,
		`{apiVersion: example.com/v1, kind: Widget, metadata: {finalizers: [a, b], name: a}, spec: {unknown: 1}, status: {ready: true, x: null}, aaa: {metadata: {}}}`,
		`{apiVersion: example.com/v1, kind: Widget, metadata: {name: ü}}`,
	} {
		u := widget(t, text)
		gvk := u.GroupVersionKind()
		stored, err := c.Store(u, gvk)
		if err != nil {
			t.Fatal(err)
		}
		fresh, ok := c.(registry.Fresh).FreshJSON(stored, gvk, "42")
		if !ok {
			t.Errorf("%s: no JSON without decoding", text)
		}
		loaded, err := c.Load(stored, gvk)
		if err != nil {
			t.Fatal(err)
		}
		loaded.SetResourceVersion("42")
		want, err := json.Marshal(loaded)
		if err != nil || strings.TrimSpace(string(want)) != string(fresh) {
			t.Errorf("fresh  %s\nloaded %s, %v", fresh, want, err)
		}
	}
	old := widget(t, `{apiVersion: example.com/v1beta1, kind: Widget, metadata: {name: a}}`)
	stored, err := c.Store(old, old.GroupVersionKind())
	if err != nil {
		t.Fatal(err)
	}
	if fresh, ok := c.(registry.Fresh).FreshJSON(stored, old.GroupVersionKind(), "42"); ok {
		t.Errorf("what must be converted is %s without decoding", fresh)
	}
}

// TestADefaultOfTheStatusIsNotFresh: creations remove the status, and readers see its default.
func TestADefaultOfTheStatusIsNotFresh(t *testing.T) {
	crd := &apiextensionsv1.CustomResourceDefinition{}
	if err := yaml.UnmarshalStrict([]byte(strings.Replace(widgets, "status: {type: object,", "status: {type: object, default: {ready: false},", 1)), crd); err != nil {
		t.Fatal(err)
	}
	rows, err := Rows(crd, nil, None{})
	if err != nil {
		t.Fatal(err)
	}
	u := widget(t, `{apiVersion: example.com/v1, kind: Widget, metadata: {name: a}}`)
	stored, err := rows[0].Codec.Store(u, u.GroupVersionKind())
	if err != nil || strings.Contains(string(stored), "status") {
		t.Fatalf("stored %s, %v", stored, err)
	}
	if fresh, ok := rows[0].Codec.(registry.Fresh).FreshJSON(stored, u.GroupVersionKind(), "42"); ok {
		t.Errorf("fresh %s", fresh)
	}
}

// FuzzWithResourceVersion: JSON of another form is refused, and the result of the expected form is JSON with the resourceVersion.
func FuzzWithResourceVersion(f *testing.F) {
	for _, seed := range []string{`{"apiVersion":"v1","kind":"A","metadata":{"name":"a","uid":"b"}}`, `{"metadata":{"a":"}"},"z":[1,{"b":"\\\""}]}`, `{"metadata":{}}`, `{"metadata":{"resourceVersion":"1"}}`, `{"metadata":"`, `[]`, `{"metadata":{"a"`, ``} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		var object map[string]any
		valid := json.Unmarshal(value, &object) == nil
		canonical, err := json.Marshal(object)
		if !valid || err != nil || string(canonical) != string(value) {
			withResourceVersion(value, "7") // must not panic
			return
		}
		out, ok := withResourceVersion(value, "7")
		if !ok {
			return
		}
		object["metadata"].(map[string]any)["resourceVersion"] = "7"
		if want, err := json.Marshal(object); err != nil || string(want) != string(out) {
			t.Errorf("%s is %s, want %s, %v", value, out, want, err)
		}
	})
}
