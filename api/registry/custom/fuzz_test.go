package custom

import (
	"bytes"
	"encoding/json"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/kontiki/kontiki/api/registry"
)

// FuzzSchemas takes a schema, and an object that it is to describe. A definition that is refused serves nothing; one that is accepted serves any
// object, or refuses it, and neither panics.
func FuzzSchemas(f *testing.F) {
	for _, seed := range [][2]string{
		{`{"type":"object","properties":{"spec":{"type":"object","properties":{"n":{"type":"integer","default":3,"minimum":1}}}}}`, `{"spec":{"n":0,"x":[1,{}]}}`},
		{`{"type":"object","x-kubernetes-preserve-unknown-fields":true}`, `{"a":{"b":[null,1.5,"x"]}}`},
		{`{"type":"object","properties":{"l":{"type":"array","maxItems":3,"x-kubernetes-list-type":"map","x-kubernetes-list-map-keys":["k"],"items":{"type":"object","required":["k"],"properties":{"k":{"type":"string","maxLength":3}}}}},"x-kubernetes-validations":[{"rule":"self.l.all(e, e.k != 'no')","messageExpression":"'bad: ' + self.l[0].k"}]}`,
			`{"l":[{"k":"a"},{"k":"a"},7]}`},
		{`{"type":"object","properties":{"p":{"x-kubernetes-int-or-string":true,"anyOf":[{"type":"integer"},{"type":"string"}]},"s":{"type":"string","format":"date-time","nullable":true}}}`, `{"p":"80%","s":null}`},
		{`{"type":"object","properties":{"e":{"type":"object","x-kubernetes-embedded-resource":true,"x-kubernetes-preserve-unknown-fields":true}},"x-kubernetes-validations":[{"rule":"self == oldSelf","optionalOldSelf":false}]}`, `{"e":{"apiVersion":"v1","kind":"Pod","metadata":{"name":1}}}`},
	} {
		f.Add(seed[0], seed[1])
	}
	f.Fuzz(func(t *testing.T, schema, object string) {
		if len(schema) > 1<<14 || len(object) > 1<<14 {
			return // the API's own bounds are tested elsewhere
		}
		var props apiextensionsv1.JSONSchemaProps
		if json.Unmarshal([]byte(schema), &props) != nil {
			return
		}
		crd := &apiextensionsv1.CustomResourceDefinition{
			ObjectMeta: metav1.ObjectMeta{Name: "widgets.example.com"},
			Spec: apiextensionsv1.CustomResourceDefinitionSpec{
				Group: "example.com", Scope: apiextensionsv1.ClusterScoped,
				Names:    apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList"},
				Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &props}}},
			},
		}
		registry.Scheme.Default(crd)
		crd.Status.AcceptedNames, crd.Status.StoredVersions = crd.Spec.Names, []string{"v1"}
		internal := &apiextensions.CustomResourceDefinition{}
		if registry.Scheme.Convert(crd, internal, nil) != nil || len(validation.ValidateCustomResourceDefinition(t.Context(), internal)) > 0 {
			return
		}
		rows, err := Rows(crd, nil, None{})
		if err != nil {
			return
		}
		row := rows[0]
		given := &unstructured.Unstructured{}
		if given.UnmarshalJSON([]byte(object)) != nil {
			var content map[string]any
			if json.Unmarshal([]byte(object), &content) != nil || content == nil {
				return
			}
			given.Object = content
		}
		given.SetAPIVersion("example.com/v1")
		given.SetKind("Widget")
		if _, ok := given.Object["metadata"].(map[string]any); !ok {
			given.Object["metadata"] = map[string]any{}
		}
		given.SetName("a")
		round, err := given.MarshalJSON() // numbers as the API decodes them
		if err != nil || given.UnmarshalJSON(round) != nil {
			return
		}
		if _, err := row.Codec.Prune(given, true); err != nil {
			return
		}
		row.Codec.Default(given)
		asked, err := row.Codec.Internal(given, "Widget")
		if err != nil {
			return
		}
		_ = row.Validate(t.Context(), asked)
		_ = row.ValidateUpdate(t.Context(), asked, asked.DeepCopyObject())
		stored, err := row.Codec.Store(given, given.GroupVersionKind())
		if err != nil {
			return
		}
		loaded, err := row.Codec.Load(stored, given.GroupVersionKind())
		if err != nil {
			t.Errorf("what was stored cannot be read: %v\n%s", err, stored)
			return
		}
		if fresh, ok := row.Codec.(registry.Fresh).FreshJSON(stored, given.GroupVersionKind(), "7"); ok {
			loaded.SetResourceVersion("7")
			if want, err := json.Marshal(loaded); err != nil || !bytes.Equal(bytes.TrimSpace(want), fresh) {
				t.Errorf("fresh  %s\nloaded %s, %v", fresh, want, err)
			}
		}
	})
}
