package auth

import (
	"testing"

	"k8s.io/apiserver/pkg/authorization/authorizer"
)

func TestSelectors(t *testing.T) {
	for _, c := range []struct {
		fields, labels             string
		ofFields, ofLabels         int
		badFields, badLabels, name string
	}{
		{},
		{fields: "metadata.name=a,spec.nodeName=w", ofFields: 2, name: "a"},
		{fields: "metadata.name!=a", ofFields: 1},
		{fields: "metadata.name=a/b", ofFields: 1},
		{fields: ","}, // selects everything
		{labels: "a in (b, c),!d", ofLabels: 2},
		{fields: "metadata.name", badFields: "invalid selector", labels: "a b", badLabels: "unable to parse requirement"},
	} {
		var a authorizer.AttributesRecord
		Select(&a, c.fields, c.labels)
		if len(a.FieldSelectorRequirements) != c.ofFields || len(a.LabelSelectorRequirements) != c.ofLabels {
			t.Errorf("%q %q: %v %v", c.fields, c.labels, a.FieldSelectorRequirements, a.LabelSelectorRequirements)
		}
		if (a.FieldSelectorParsingErr != nil) != (c.badFields != "") || (a.LabelSelectorParsingErr != nil) != (c.badLabels != "") {
			t.Errorf("%q %q: %v, %v", c.fields, c.labels, a.FieldSelectorParsingErr, a.LabelSelectorParsingErr)
		}
		if got := SelectedName(c.fields); got != c.name {
			t.Errorf("%q: the name is %q", c.fields, got)
		}
	}
}
