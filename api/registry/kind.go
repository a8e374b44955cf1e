package registry

import (
	"context"
	"fmt"
	"reflect"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"k8s.io/apimachinery/pkg/api/validate/content"
)

// definition is Resource under a name that does not hide Resource's field of that name where it is embedded.
type definition = Resource

// Kind is a resource in one of its API versions. It is immutable, and only a Table makes it.
type Kind struct {
	*definition
	Version string
	// StoredAs is the kind as which objects are stored, if that is another one; nil if they are stored as this one.
	StoredAs *Kind
	// Form distinguishes the kinds that share stored objects. The resource of the objects has Form 0 in its preferred version, which stands
	// for the resource where the version does not matter.
	Form int

	goType     reflect.Type // nil for a kind without a Go type
	deprecated string
}

// Of returns the kind's resource.
func (k *Kind) Of() *Resource { return k.definition }

// New returns an empty object.
func (k *Kind) New() Object { return k.Codec.New(k.GVK()) }

// NewList returns an empty list.
func (k *Kind) NewList() runtime.Object { return k.Codec.NewList(k.GVK()) }

// GroupVersion returns the kind's group and version.
func (k *Kind) GroupVersion() schema.GroupVersion {
	return schema.GroupVersion{Group: k.Group, Version: k.Version}
}

// GVK returns the kind's group, version and kind.
func (k *Kind) GVK() schema.GroupVersionKind { return k.GroupVersion().WithKind(k.Kind) }

// Storage returns the kind as which objects are stored, which may be k itself.
func (k *Kind) Storage() *Kind {
	if k.StoredAs != nil {
		return k.StoredAs
	}
	return k
}

// Deprecated returns the warning for every request for the kind, in upstream's words; "" if the kind is not deprecated.
func (k *Kind) Deprecated() string { return k.deprecated }

// deprecation returns that warning, from the row or from the deprecation methods of the type.
func deprecation(k *Kind) string {
	if k.Deprecation != "" {
		return k.Deprecation
	}
	obj := k.New()
	deprecated, ok := obj.(interface{ APILifecycleDeprecated() (major, minor int) })
	if !ok {
		return ""
	}
	major, minor := deprecated.APILifecycleDeprecated()
	text := fmt.Sprintf("%s %s is deprecated in v%d.%d+", k.GroupVersion(), k.Kind, major, minor)
	if removed, ok := obj.(interface{ APILifecycleRemoved() (major, minor int) }); ok {
		major, minor := removed.APILifecycleRemoved()
		text += fmt.Sprintf(", unavailable in v%d.%d+", major, minor)
	}
	if replaced, ok := obj.(interface {
		APILifecycleReplacement() schema.GroupVersionKind
	}); ok {
		by := replaced.APILifecycleReplacement()
		text += fmt.Sprintf("; use %s %s", by.GroupVersion(), by.Kind)
	}
	return text
}

// SelectableFields returns the fields of an object that field selectors can use.
func (k *Kind) SelectableFields(obj Object) fields.Set {
	set := fields.Set{}
	if k.Fields != nil {
		set = k.Fields(obj)
	}
	set["metadata.name"] = obj.GetName()
	if k.Namespaced {
		set["metadata.namespace"] = obj.GetNamespace()
	}
	return set
}

// CheckFieldSelector refuses a selector that uses a field which the kind does not support.
func (k *Kind) CheckFieldSelector(selector fields.Selector) error {
	for _, r := range selector.Requirements() {
		if r.Field == "metadata.name" || (r.Field == "metadata.namespace" && k.Namespaced) {
			continue
		}
		known := false
		for _, name := range k.FieldNames {
			known = known || name == r.Field
		}
		if !known {
			return fmt.Errorf("field label not supported: %s", r.Field)
		}
	}
	return nil
}

// ToInternal converts a versioned object to the form that strategies work on.
func (k *Kind) ToInternal(obj runtime.Object) (runtime.Object, error) {
	internal, err := k.Codec.Internal(obj, k.Kind)
	if err != nil {
		return nil, fmt.Errorf("convert %s to its internal form: %w", k.Kind, err)
	}
	return internal, nil
}

// FromInternal converts an internal object to a new versioned one with its type set.
func (k *Kind) FromInternal(internal runtime.Object) (Object, error) {
	obj, err := k.Codec.External(internal, k.GVK())
	if err != nil {
		return nil, fmt.Errorf("convert %s from its internal form: %w", k.Kind, err)
	}
	return obj, nil
}

// Store returns an object's bytes for the store, in the version that is stored and without a resource version: the store's revision
// is authoritative. obj is as before when Store returns, but must not be read meanwhile.
func (k *Kind) Store(obj Object) ([]byte, error) {
	if stored := k.StoredAs; stored != nil {
		internal, err := k.ToInternal(obj.DeepCopyObject())
		if err != nil {
			return nil, err
		}
		if obj, err = stored.FromInternal(internal); err != nil {
			return nil, err
		}
		k = stored
	}
	version := obj.GetResourceVersion()
	obj.SetResourceVersion("")
	value, err := k.Codec.Store(obj, k.GVK())
	obj.SetResourceVersion(version)
	return value, err
}

// Load returns a new object from bytes that Store returned, with its type but without a resource version.
func (k *Kind) Load(value []byte) (Object, error) {
	if stored := k.StoredAs; stored != nil {
		obj, err := stored.Load(value)
		if err != nil {
			return nil, err
		}
		return k.Convert(stored, obj)
	}
	return k.Codec.Load(value, k.GVK())
}

// Convert returns an object of another version of the resource as a new one of this. The other one may share memory with it and
// must not be used afterwards.
func (k *Kind) Convert(from *Kind, obj Object) (Object, error) {
	internal, err := from.ToInternal(obj)
	if err != nil {
		return nil, err
	}
	return k.FromInternal(internal)
}

// Prune removes from a decoded object what objects of the kind do not have, and returns the paths of it, if they are wanted. An error means
// that the object cannot be of the kind.
func (k *Kind) Prune(obj runtime.Object, paths bool) (unknown []string, err error) {
	typed, ok := obj.(Object)
	if !ok {
		return nil, fmt.Errorf("a %T is no object", obj)
	}
	return k.Codec.Prune(typed, paths)
}

// Meta returns an object's metadata from bytes that Store returned, at less cost than the whole object. Its type is the object's.
func (k *Kind) Meta(value []byte) (*metav1.PartialObjectMetadata, error) {
	m, err := k.Storage().Codec.Meta(value)
	if err == nil {
		m.SetGroupVersionKind(k.GVK())
	}
	return m, err
}

// declarative adds the errors of upstream's generated (declarative) validation that hand-written validation did not
// already report for the same field.
func declarative(errs field.ErrorList, more field.ErrorList) field.ErrorList {
	type place struct {
		kind field.ErrorType
		path string
	}
	if len(more) == 0 {
		return errs
	}
	seen := make(map[place]bool, len(errs)+len(more))
	for _, e := range errs {
		seen[place{e.Type, e.Field}] = true
	}
	for _, e := range more {
		if at := (place{e.Type, e.Field}); !seen[at] {
			seen[at] = true
			errs = append(errs, e)
		}
	}
	return errs
}

// ValidateCreate runs hand-written and declarative validation of a new object, given in both forms.
func (k *Kind) ValidateCreate(ctx context.Context, internal runtime.Object, obj Object) field.ErrorList {
	if k.definition.ValidateWhole {
		return k.Validate(ctx, internal)
	}
	var errs field.ErrorList
	if k.Validate != nil {
		errs = k.Validate(ctx, internal)
	}
	if len(errs) == 0 {
		// After the kind's own validation, whose messages are more specific.
		errs = apivalidation.ValidateObjectMetaAccessor(obj, k.Namespaced, pathSegment, field.NewPath("metadata"))
	}
	return declarative(errs, Scheme.Validate(ctx, declarativeOptions, obj))
}

// ValidateChange runs hand-written and declarative validation of an update through a subresource ("" for none).
func (k *Kind) ValidateChange(ctx context.Context, s *Strategy, subresource string, internal, oldInternal runtime.Object, obj, old Object) field.ErrorList {
	if s.ValidateWhole {
		return s.ValidateUpdate(ctx, internal, oldInternal)
	}
	metadata := field.NewPath("metadata")
	errs := apivalidation.ValidateObjectMetaAccessor(obj, k.Namespaced, pathSegment, metadata)
	errs = append(errs, apivalidation.ValidateObjectMetaAccessorUpdate(obj, old, metadata)...)
	if s.ValidateUpdate != nil {
		errs = append(errs, s.ValidateUpdate(ctx, internal, oldInternal)...)
	}
	var sub []string
	if subresource != "" {
		sub = []string{subresource}
	}
	return declarative(errs, Scheme.ValidateUpdate(ctx, declarativeOptions, obj, old, sub...))
}

// pathSegment returns the minimal requirements for every name.
func pathSegment(name string, prefix bool) []string {
	if prefix {
		return content.IsPathSegmentPrefix(name)
	}
	return content.IsPathSegmentName(name)
}
