package rest

import "k8s.io/apimachinery/pkg/fields"

// nameSelector adds a name to a field selector.
func nameSelector(selector fields.Selector, name string) fields.Selector {
	one := fields.OneTermEqualSelector("metadata.name", name)
	if selector == nil || selector.Empty() {
		return one
	}
	return fields.AndSelectors(selector, one)
}
