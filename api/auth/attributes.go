package auth

import (
	"strings"

	"k8s.io/apimachinery/pkg/api/validate/content"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Select sets the selectors of a request for a collection, given as the client sent them; "" is none. A selector that cannot be
// parsed is an error that authorizers see.
func Select(a *authorizer.AttributesRecord, fieldSelector, labelSelector string) {
	if fieldSelector != "" {
		selector, err := fields.ParseSelector(fieldSelector)
		if a.FieldSelectorParsingErr = err; err == nil && len(selector.Requirements()) > 0 {
			a.FieldSelectorRequirements = selector.Requirements()
		}
	}
	if labelSelector != "" {
		selector, err := labels.Parse(labelSelector)
		if a.LabelSelectorParsingErr = err; err == nil {
			if requirements, _ := selector.Requirements(); len(requirements) > 0 {
				a.LabelSelectorRequirements = requirements
			}
		}
	}
}

// SelectedName returns the one name that a list or a watch selects by its field selector, which is the request's name, as in
// upstream's RequestInfo; it returns "" if several names may match.
func SelectedName(fieldSelector string) string {
	if !strings.Contains(fieldSelector, metav1.ObjectNameField) {
		return ""
	}
	selector, err := fields.ParseSelector(fieldSelector)
	if err != nil {
		return ""
	}
	name, ok := selector.RequiresExactMatch(metav1.ObjectNameField)
	if !ok || len(content.IsPathSegmentName(name)) > 0 {
		return ""
	}
	return name
}
