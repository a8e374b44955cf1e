package custom

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// repeated returns a list or an object of n values.
func repeated(n int, value string, open, shut string) json.RawMessage {
	parts := make([]string, n)
	for i := range parts {
		if parts[i] = value; open == "{" {
			parts[i] = fmt.Sprintf(`"f%d":%s`, i, value)
		}
	}
	return json.RawMessage(open + strings.Join(parts, ",") + shut)
}

// TestDefaultsAreBounded: an object that defaults would make too large for memory gets none and is refused; every other one gets all.
func TestDefaultsAreBounded(t *testing.T) {
	text := func(s string) *apiextensionsv1.JSON { return &apiextensionsv1.JSON{Raw: fmt.Appendf(nil, "%q", s)} }
	long := apiextensionsv1.JSONSchemaProps{Type: "string", Default: text(strings.Repeat("y", 100<<10))}
	item := apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"x": long}}
	nested := apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"x": {Type: "string"}, "in": item}}
	inner := item
	inner.Default = &apiextensionsv1.JSON{Raw: []byte("{}")}
	nested.Properties["in"] = inner
	list := func(of apiextensionsv1.JSONSchemaProps) apiextensionsv1.JSONSchemaProps {
		return apiextensionsv1.JSONSchemaProps{Type: "array", Items: &apiextensionsv1.JSONSchemaPropsOrArray{Schema: &of}}
	}
	values := apiextensionsv1.JSONSchemaProps{Type: "object", AdditionalProperties: &apiextensionsv1.JSONSchemaPropsOrBool{Allows: true, Schema: &item}}
	nulls := apiextensionsv1.JSONSchemaProps{Type: "object", AdditionalProperties: &apiextensionsv1.JSONSchemaPropsOrBool{Allows: true, Schema: &long}}
	for name, c := range map[string]struct {
		schema apiextensionsv1.JSONSchemaProps
		value  func(n int) json.RawMessage
	}{
		"items":              {list(item), func(n int) json.RawMessage { return repeated(n, "{}", "[", "]") }},
		"nulls of lists":     {list(long), func(n int) json.RawMessage { return repeated(n, "null", "[", "]") }},
		"values":             {values, func(n int) json.RawMessage { return repeated(n, "{}", "{", "}") }},
		"nulls of maps":      {nulls, func(n int) json.RawMessage { return repeated(n, "null", "{", "}") }},
		"defaults within":    {list(nested), func(n int) json.RawMessage { return repeated(n, `{"x":""}`, "[", "]") }},
		"lists within lists": {list(list(item)), func(n int) json.RawMessage { return repeated(1, string(repeated(n, "{}", "[", "]")), "[", "]") }},
	} {
		t.Run(name, func(t *testing.T) {
			rows, err := Rows(definitionOf(c.schema), nil, None{})
			if err != nil {
				t.Fatal(err)
			}
			codec := rows[0].Codec.(*codec)
			schemas, err := codec.storage.compiled.get()
			if err != nil {
				t.Fatal(err)
			}
			few := widgetWith(t, c.value(10))
			want := few.DeepCopy()
			codec.Default(few)
			if defaulting.Default(want.Object, schemas.structural); !reflect.DeepEqual(few, want) {
				t.Error("few values did not get their defaults")
			}
			if errs := rows[0].Validate(t.Context(), few); len(errs) > 0 {
				t.Error(errs)
			}
			// 100,000 would have 10 GB
			many := widgetWith(t, c.value(100_000))
			before := many.DeepCopy()
			codec.Default(many)
			if !reflect.DeepEqual(many, before) {
				t.Error("many values were changed")
			}
			for verb, errs := range map[string]int{
				"create": len(rows[0].Validate(t.Context(), many)), "update": len(rows[0].ValidateUpdate(t.Context(), many, few)),
			} {
				if errs != 1 {
					t.Errorf("%s: %d errors", verb, errs)
				}
			}
		})
	}
	if c := (&compiled{}); c.overflows(&unstructured.Unstructured{}) {
		t.Error("no schema has defaults")
	}
}
