package custom

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestColumnsAreBounded: columns whose paths would have more results than there is memory are empty, those with other paths are not.
func TestColumnsAreBounded(t *testing.T) {
	open := true
	value := apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &open}
	crd := definitionOf(value)
	paths := map[string]any{
		".value.a": "x", ".value.list[0].n": "1", ".value.list[*].n": "1", `.value.list[?(@.n=="2")].m`: "y", ".value['a','list']": "x", ".metadata.name": "a",
		".value" + strings.Repeat("..b", 12):        nil,
		".value..n":                                 nil,
		".value.list" + strings.Repeat("[0,0]", 40): nil,
		".value.list[?(@..b..b==1)]":                nil,
		".value}{range .value.list[*]}{.n":          nil,
		".value" + strings.Repeat(".b", 1000):       nil,
	}
	var columns []apiextensionsv1.CustomResourceColumnDefinition
	for path := range paths {
		columns = append(columns, apiextensionsv1.CustomResourceColumnDefinition{Name: path, Type: "string", JSONPath: path})
	}
	for i := range 200 {
		columns = append(columns, apiextensionsv1.CustomResourceColumnDefinition{Name: fmt.Sprint(i), Type: "string", JSONPath: ".value.a"})
	}
	crd.Spec.Versions[0].AdditionalPrinterColumns = columns
	rows, err := Rows(crd, nil, None{})
	if err != nil {
		t.Fatal(err)
	}
	deep := strings.Repeat(`{"b":`, 40) + "{}" + strings.Repeat("}", 40)
	table, err := rows[0].Print(t.Context(), widgetWith(t, json.RawMessage(`{"a":"x","list":[{"n":"1"},{"n":"2","m":"y"}],"b":`+deep+`}`)), &metav1.TableOptions{})
	if err != nil {
		t.Fatal(err)
	}
	filled := 0
	for i, c := range table.ColumnDefinitions[1:] {
		cell := table.Rows[0].Cells[i+1]
		if cell != nil {
			filled++
		}
		want, ok := paths[c.Name]
		if ok && cell != want {
			t.Errorf("%.100s: %v, not %v", c.Name, cell, want)
		}
		if !strings.Contains(c.Description, columns[i].JSONPath[:min(len(columns[i].JSONPath), 1024)]) {
			t.Errorf("%.100s is described so: %.200s", c.Name, c.Description)
		}
	}
	if filled != maxColumns-6 {
		t.Errorf("%d columns have values", filled)
	}
	for i := range columns {
		if columns[i].JSONPath == ".metadata['']" {
			t.Error("the definition was changed")
		}
	}
}
