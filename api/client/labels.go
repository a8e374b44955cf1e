package client

import (
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// LabelKeys returns the keys of an object with labels in a namespace, one for each label, for an index by labels.
func LabelKeys(namespace string, labels map[string]string) []string {
	keys := make([]string, 0, len(labels)+1)
	for name, value := range labels {
		keys = append(keys, namespace+"/"+name+"="+value)
	}
	return keys
}

// SelectorKey returns the key of an object with a selector in a namespace, for an index by selectors: one of the LabelKeys that
// every selected object has. A selector that requires no particular value of any label has a separate key.
func SelectorKey(namespace string, selector labels.Selector) string {
	requirements, _ := selector.Requirements()
	for _, r := range requirements {
		switch r.Operator() {
		case selection.Equals, selection.DoubleEquals, selection.In:
			if values := r.ValuesUnsorted(); len(values) == 1 {
				return namespace + "/" + r.Key() + "=" + values[0]
			}
		}
	}
	return namespace + "/"
}

// SelectorKeys returns the keys under which an index by SelectorKey has all selectors that may match the labels.
func SelectorKeys(namespace string, labels map[string]string) []string {
	return append(LabelKeys(namespace, labels), namespace+"/")
}
