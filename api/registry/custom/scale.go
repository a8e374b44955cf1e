package custom

import (
	"fmt"
	"math"
	"strings"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kontiki/kontiki/api/registry"
)

// fieldsOf returns the fields of a path such as ".spec.replicas".
func fieldsOf(path string) []string { return strings.Split(strings.TrimPrefix(path, "."), ".") }

func scaleOf(paths *apiextensionsv1.CustomResourceSubresourceScale) *registry.Scale {
	spec, status := fieldsOf(paths.SpecReplicasPath), fieldsOf(paths.StatusReplicasPath)
	var selector []string
	if paths.LabelSelectorPath != nil && *paths.LabelSelectorPath != "" {
		selector = fieldsOf(*paths.LabelSelectorPath)
	}
	return &registry.Scale{
		Path: spec,
		Get: func(obj registry.Object) (replicas, current int32, labels string) {
			u := obj.(*unstructured.Unstructured).Object
			// Validation leaves only numbers and texts there; what was stored with an earlier schema counts as absent.
			wanted, _, _ := unstructured.NestedInt64(u, spec...)
			have, _, _ := unstructured.NestedInt64(u, status...)
			if selector != nil {
				labels, _, _ = unstructured.NestedString(u, selector...)
			}
			return int32(wanted), int32(have), labels
		},
		Set: func(obj registry.Object, replicas int32) {
			// An error means that a field on the way is not an object: validation names it then.
			_ = unstructured.SetNestedField(obj.(*unstructured.Unstructured).Object, int64(replicas), spec...)
		},
		Check: func(obj registry.Object) error {
			_, found, err := unstructured.NestedInt64(obj.(*unstructured.Unstructured).Object, spec...)
			if err == nil && !found {
				err = fmt.Errorf("the spec replicas field %q does not exist", paths.SpecReplicasPath)
			}
			return err
		},
	}
}

// validateScale validates what the scale subresource shows of an object.
func (v *versionOf) validateScale(u *unstructured.Unstructured, spec bool) (errs field.ErrorList) {
	paths := v.scale()
	if paths == nil {
		return nil
	}
	check := func(path string) {
		n, _, err := unstructured.NestedInt64(u.Object, fieldsOf(path)...)
		switch at := field.NewPath(path); {
		case err != nil:
			errs = append(errs, field.Invalid(at, n, err.Error()))
		case n < 0:
			errs = append(errs, field.Invalid(at, n, "should be a non-negative integer"))
		case n > math.MaxInt32:
			errs = append(errs, field.Invalid(at, n, fmt.Sprintf("should be less than or equal to %v", math.MaxInt32)))
		}
	}
	if spec {
		check(paths.SpecReplicasPath)
	}
	check(paths.StatusReplicasPath)
	if paths.LabelSelectorPath != nil {
		text, _, err := unstructured.NestedString(u.Object, fieldsOf(*paths.LabelSelectorPath)...)
		if err != nil {
			errs = append(errs, field.Invalid(field.NewPath(*paths.LabelSelectorPath), text, err.Error()))
		}
	}
	return errs
}
