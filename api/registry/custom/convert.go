package custom

import (
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// Converter converts objects of a definition between its versions. It is safe for concurrent use.
type Converter interface {
	// Convert returns the objects, which may be of different versions, in another one (group and version), in their order. It may change
	// and return those that it gets.
	Convert(objects []*unstructured.Unstructured, apiVersion string) ([]*unstructured.Unstructured, error)
}

// None is the conversion of objects that differ only in the name of their version.
type None struct{}

// Convert implements Converter.
func (None) Convert(objects []*unstructured.Unstructured, apiVersion string) ([]*unstructured.Unstructured, error) {
	for _, obj := range objects {
		obj.SetAPIVersion(apiVersion)
	}
	return objects, nil
}
