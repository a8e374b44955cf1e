package custom

import (
	"encoding/json"
	"strings"
	"testing"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/validation"
	celconfig "k8s.io/apiserver/pkg/apis/cel"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/api/registry/builtin"
)

// costs is an entry of upstream's table of what rules cost at run time, or of what they are estimated to cost.
type costs struct {
	Name   string
	Schema json.RawMessage
	Obj    json.RawMessage
	Costs  map[string]uint64
}

// estimated are entries of upstream's table of estimates: a schema with a rule in it, its estimated cost if that is told, and what it exceeds.
type estimated []struct {
	Schema        json.RawMessage
	Cost, Exceeds uint64
}

func schemaWith(t *testing.T, text json.RawMessage, rule string) apiextensionsv1.JSONSchemaProps {
	t.Helper()
	var props apiextensionsv1.JSONSchemaProps
	if err := json.Unmarshal(text, &props); err != nil {
		t.Fatal(err)
	}
	if rule != "" {
		props.XValidations = apiextensionsv1.ValidationRules{{Rule: rule, Message: "it is not so"}}
	}
	return props
}

// costOf returns what the rules of the only version of a definition cost for an object, with which they agree.
func costOf(t *testing.T, crd *apiextensionsv1.CustomResourceDefinition, value json.RawMessage) uint64 {
	t.Helper()
	v := &versionOf{CustomResourceDefinitionVersion: &crd.Spec.Versions[0], of: &definition{crd: crd}}
	v.compiled.make = v.compile
	r, err := v.makeRules()
	if err != nil {
		t.Fatal(err)
	}
	errs, left := r.cel.Validate(t.Context(), nil, r.structural, widgetWith(t, value).Object, nil, celconfig.RuntimeCELCostBudget)
	if len(errs) > 0 {
		t.Error(errs)
	}
	return uint64(celconfig.RuntimeCELCostBudget - left)
}

// refused tells whether the rules of up to a number of values of a schema cost too much, by their estimate, for a definition to be stored,
// unless its schema is none of a definition, which upstream's tests do not look at.
func refused(t *testing.T, props apiextensionsv1.JSONSchemaProps, values uint64) (dear, checked bool) {
	t.Helper()
	items := int64(values)
	crd := definitionOf(apiextensionsv1.JSONSchemaProps{Type: "object", MaxProperties: &items,
		AdditionalProperties: &apiextensionsv1.JSONSchemaPropsOrBool{Allows: true, Schema: &props}})
	internal := &apiextensions.CustomResourceDefinition{}
	if err := registry.Scheme.Convert(crd, internal, nil); err != nil {
		t.Fatal(err)
	}
	row, ok := builtin.Kinds().ByGroupResource("apiextensions.k8s.io", "customresourcedefinitions")
	if !ok {
		t.Fatal("there are no definitions")
	}
	checked = true
	for _, err := range row.Validate(t.Context(), internal) {
		switch {
		case strings.Contains(err.Detail, "estimated rule cost"):
			dear = true
		case strings.Contains(err.Field, "x-kubernetes-validations"):
			t.Error(err)
		default:
			checked = false
		}
	}
	return dear, checked
}

// checkEstimate fails unless as many values are allowed as the limit has room for by upstream's estimate of one, and not one more. It tells
// whether it could be checked.
func checkEstimate(t *testing.T, name string, props apiextensionsv1.JSONSchemaProps, estimate uint64) bool {
	t.Helper()
	fits := uint64(validation.StaticEstimatedCostLimit) / max(estimate, 1)
	if fits > 0 {
		if dear, checked := refused(t, props, fits); !checked {
			return false
		} else if dear {
			t.Errorf("%s: %d values are refused, though one costs %d", name, fits, estimate)
		}
	}
	if dear, checked := refused(t, props, fits+1); !checked {
		return false
	} else if !dear && estimate > 0 {
		t.Errorf("%s: %d values are allowed, though one costs %d", name, fits+1, estimate)
	}
	return true
}

// TestUpstreamsCosts: the rules of upstream's tables (TestCelCostStability, TestCelEstimatedCostStability) cost here what they cost there, for
// an object and by the estimate for which a definition is refused.
func TestUpstreamsCosts(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles upstream's tests, which takes half a minute; make test runs it")
	}
	tables := upstreamsTables(t, "celcoststability_test.go", map[string]string{
		"TestCelCostStability":          `map[string]any{"Name": $.name, "Schema": schemaOf($.schema), "Obj": wide($.obj), "Costs": $.expectCost}`,
		"TestCelEstimatedCostStability": `map[string]any{"Name": $.name, "Schema": schemaOf($.schema), "Costs": $.expectCost}`,
	})
	tried := map[string]int{}
	for test, lines := range tables {
		for _, line := range lines {
			var entry costs
			if err := json.Unmarshal(line, &entry); err != nil {
				t.Fatal(err)
			}
			if entry.Name == "typemeta and objectmeta access not specified" {
				continue // what only the object has
			}
			for rule, want := range entry.Costs {
				props := schemaWith(t, entry.Schema, rule)
				if test == "TestCelEstimatedCostStability" {
					if !checkEstimate(t, entry.Name+": "+rule, props, want) {
						continue
					}
				} else if got := costOf(t, definitionOf(props), entry.Obj); got != want {
					t.Errorf("%s: %s: costs %d, in upstream %d", entry.Name, rule, got, want)
				}
				tried[test]++
			}
		}
	}
	if t.Log(tried); tried["TestCelCostStability"] < 300 || tried["TestCelEstimatedCostStability"] < 200 {
		t.Error("only these were tried:", tried)
	}
}

// TestUpstreamsEstimates: by upstream's table of estimates (TestCostEstimation), with limits of lengths in the schema and without.
func TestUpstreamsEstimates(t *testing.T) {
	if testing.Short() {
		t.Skip("it compiles upstream's tests, which takes half a minute; make test runs it")
	}
	table := upstreamsTables(t, "compilation_test.go", map[string]string{"TestCostEstimation": `map[string]any{"Name": $.name, "Of": []any{
		map[string]any{"Schema": schemaOf($.schemaGenerator(nil)), "Cost": $.expectedCalcCost, "Exceeds": $.expectCalcCostExceedsLimit},
		map[string]any{"Schema": schemaOf($.schemaGenerator(&$.setMaxElements)), "Cost": $.expectedSetCost, "Exceeds": $.expectedSetCostExceedsLimit},
	}}`})["TestCostEstimation"]
	tried := 0
	for _, line := range table {
		var entry struct {
			Name string
			Of   estimated
		}
		if err := json.Unmarshal(line, &entry); err != nil {
			t.Fatal(err)
		}
		for _, e := range entry.Of {
			props := schemaWith(t, e.Schema, "")
			if e.Cost > 0 {
				if checkEstimate(t, entry.Name, props, e.Cost) {
					tried++
				}
			} else if e.Exceeds >= validation.StaticEstimatedCostLimit {
				tried++
				if dear, checked := refused(t, props, 1); !checked || !dear {
					t.Errorf("%s: allowed, though it costs more than %d", entry.Name, e.Exceeds)
				}
			}
		}
	}
	if t.Log(tried, "estimates"); tried < 100 {
		t.Errorf("only %d were tried", tried)
	}
}
