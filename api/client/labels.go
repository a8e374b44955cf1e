package client

import (
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// LabelKeys are keys for an index of what has labels in a namespace, one for each of these.
func LabelKeys(namespace string, labels map[string]string) []string {
	keys := make([]string, 0, len(labels)+1)
	for name, value := range labels {
		keys = append(keys, namespace+"/"+name+"="+value)
	}
	return keys
}

// SelectorKey is the key for an index of what has a selector in a namespace: one of the LabelKeys that all has which it
// selects. Where it requires no one value of any label, the key is one of its own.
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

// SelectorKeys are the keys under which an index by SelectorKey has all selectors that may select the labels.
func SelectorKeys(namespace string, labels map[string]string) []string {
	return append(LabelKeys(namespace, labels), namespace+"/")
}
