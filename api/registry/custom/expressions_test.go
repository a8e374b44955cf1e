package custom

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kjson "sigs.k8s.io/json"

	"github.com/kontiki/kontiki/api/registry"
)

// expressions is an entry of upstream's table of expressions: rules about an object that hold, and those that do not, with what their errors
// contain.
type expressions struct {
	Name   string
	Schema json.RawMessage
	Obj    json.RawMessage
	OldObj json.RawMessage
	Valid  []string
	Errors map[string]string
	IsRoot bool
}

// definitionOf returns a definition of widgets whose field "value" has a schema.
func definitionOf(value apiextensionsv1.JSONSchemaProps) *apiextensionsv1.CustomResourceDefinition {
	crd := &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "widgets.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.ClusterScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Singular: "widget", Kind: "Widget", ListKind: "WidgetList"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{
				OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", Properties: map[string]apiextensionsv1.JSONSchemaProps{"value": value}}}}},
		},
	}
	registry.Scheme.Default(crd)
	crd.Status.AcceptedNames, crd.Status.StoredVersions = crd.Spec.Names, []string{"v1"}
	return crd
}

// widgetWith returns a widget with a value.
func widgetWith(t *testing.T, value json.RawMessage) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": map[string]any{"name": "a", "resourceVersion": "1"}}}
	var content any
	if err := kjson.UnmarshalCaseSensitivePreserveInts(value, &content); err != nil {
		t.Fatal(err)
	}
	u.Object["value"] = content
	return u
}

// checkExpression returns what a resource whose field "value" has a schema and a rule says of an object, and of a change of it.
func checkExpression(t *testing.T, schema json.RawMessage, rule string, obj, old json.RawMessage) field.ErrorList {
	t.Helper()
	var props apiextensionsv1.JSONSchemaProps
	if err := json.Unmarshal(schema, &props); err != nil {
		t.Fatal(err)
	}
	if rule != "" {
		props.XValidations = apiextensionsv1.ValidationRules{{Rule: rule}}
	}
	crd := definitionOf(props)
	rows, err := Rows(crd, nil, None{})
	if err != nil {
		t.Fatal(err)
	}
	if old == nil || string(old) == "null" {
		return rows[0].Validate(t.Context(), widgetWith(t, obj))
	}
	return rows[0].ValidateUpdate(t.Context(), widgetWith(t, obj), widgetWith(t, old))
}

// TestUpstreamsExpressions: the rules of upstream's table hold, or fail with its errors, when they are those of a custom resource here.
func TestUpstreamsExpressions(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles upstream's tests")
	}
	rules, left := 0, 0
	table := upstreamsTables(t, "validation_test.go", map[string]string{"TestValidationExpressions": `map[string]any{"Name": $.name, "Schema": schemaOf($.schema),
		"Obj": wide($.obj), "OldObj": wide($.oldObj), "Valid": $.valid, "Errors": $.errors, "IsRoot": $.isRoot}`})
	for _, line := range table["TestValidationExpressions"] {
		var entry expressions
		if err := json.Unmarshal(line, &entry); err != nil {
			t.Fatal(err)
		}
		if entry.Name == "" || entry.IsRoot || len(checkExpression(t, entry.Schema, "", entry.Obj, entry.OldObj)) > 0 {
			left++ // not an object of its own schema: upstream's test does not validate that
			continue
		}
		for _, rule := range entry.Valid {
			rules++
			if errs := checkExpression(t, entry.Schema, rule, entry.Obj, entry.OldObj); len(errs) > 0 {
				t.Errorf("%s: %s: %v", entry.Name, rule, errs)
			}
		}
		for rule, want := range entry.Errors {
			rules++
			if errs := checkExpression(t, entry.Schema, rule, entry.Obj, entry.OldObj); len(errs) == 0 || !strings.Contains(fmt.Sprint(errs.ToAggregate()), want) {
				t.Errorf("%s: %s: want %q: %v", entry.Name, rule, want, errs)
			}
		}
	}
	if t.Logf("%d rules, %d entries left out", rules, left); rules < 700 || left > 10 {
		t.Errorf("only %d rules were tried, %d entries left out", rules, left)
	}
}
