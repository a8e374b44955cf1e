package attributes

import (
	"errors"
	"fmt"
	"reflect"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/admission"

	"github.com/kontiki/kontiki/api/registry"
)

// Interfaces convert and default the objects of a table. They implement upstream's admission.ObjectInterfaces, with the resources that are
// other versions of the same stored objects, and mutating policies' type converters. They are safe for concurrent use.
type Interfaces struct {
	Table *registry.Table

	equivalents sync.Map // resourceKey -> []schema.GroupVersionResource
}

type resourceKey struct {
	resource    schema.GroupVersionResource
	subresource string
}

var _ admission.ObjectInterfaces = (*Interfaces)(nil)

// GetObjectCreater implements admission.ObjectInterfaces.
func (i *Interfaces) GetObjectCreater() runtime.ObjectCreater { return i }

// GetObjectTyper implements admission.ObjectInterfaces.
func (i *Interfaces) GetObjectTyper() runtime.ObjectTyper { return i }

// GetObjectDefaulter implements admission.ObjectInterfaces.
func (i *Interfaces) GetObjectDefaulter() runtime.ObjectDefaulter { return i }

// GetObjectConvertor implements admission.ObjectInterfaces.
func (i *Interfaces) GetObjectConvertor() runtime.ObjectConvertor { return i }

// GetEquivalentResourceMapper implements admission.ObjectInterfaces.
func (i *Interfaces) GetEquivalentResourceMapper() runtime.EquivalentResourceMapper { return i }

// New implements runtime.ObjectCreater.
func (i *Interfaces) New(gvk schema.GroupVersionKind) (runtime.Object, error) {
	if kind, ok := i.Table.ByGVK(gvk); ok {
		return kind.New(), nil
	}
	return registry.Scheme.New(gvk) // of a subresource
}

// ObjectKinds implements runtime.ObjectTyper.
func (i *Interfaces) ObjectKinds(obj runtime.Object) ([]schema.GroupVersionKind, bool, error) {
	if gvk := obj.GetObjectKind().GroupVersionKind(); !gvk.Empty() {
		return []schema.GroupVersionKind{gvk}, false, nil
	}
	return registry.Scheme.ObjectKinds(obj)
}

// Recognizes implements runtime.ObjectTyper.
func (i *Interfaces) Recognizes(gvk schema.GroupVersionKind) bool {
	_, ok := i.Table.ByGVK(gvk)
	return ok || registry.Scheme.Recognizes(gvk)
}

// Default implements runtime.ObjectDefaulter.
func (i *Interfaces) Default(obj runtime.Object) {
	if kind, ok := i.Table.ByGVK(obj.GetObjectKind().GroupVersionKind()); ok {
		if typed, ok := obj.(registry.Object); ok {
			kind.Codec.Default(typed)
			return
		}
	}
	registry.Scheme.Default(obj)
}

// Convert implements runtime.ObjectConvertor: it makes out have the content of in, in its own version.
func (i *Interfaces) Convert(in, out, _ any) error {
	from, ok := in.(runtime.Object)
	to, okTo := out.(runtime.Object)
	if !ok || !okTo {
		return fmt.Errorf("a %T cannot be converted to a %T", in, out)
	}
	converted, err := i.to(from, to)
	if err != nil {
		return err
	}
	if u, ok := to.(*unstructured.Unstructured); ok {
		u.Object = converted.(*unstructured.Unstructured).Object
		if kind, ok := i.Table.ByGVK(u.GroupVersionKind()); ok {
			_, err = kind.Prune(u, false)
		}
		return err
	}
	reflect.ValueOf(to).Elem().Set(reflect.ValueOf(converted).Elem())
	return nil
}

// to returns a copy of an object in the type and the version of another one.
func (i *Interfaces) to(from, like runtime.Object) (runtime.Object, error) {
	fromKind, toKind := from.GetObjectKind().GroupVersionKind(), like.GetObjectKind().GroupVersionKind()
	sameType := reflect.TypeOf(from) == reflect.TypeOf(like)
	if sameType && (fromKind == toKind || toKind.Empty()) {
		return from.DeepCopyObject(), nil
	}
	source, ok := i.Table.ByGVK(fromKind)
	target, okTarget := i.Table.ByGVK(toKind)
	if toKind.Empty() {
		target, okTarget = i.Table.ByObject(like)
	}
	obj, isObject := from.DeepCopyObject().(registry.Object)
	if !ok || !okTarget || !isObject {
		return nil, fmt.Errorf("%s cannot be converted to %s", fromKind, toKind)
	}
	converted, err := target.Convert(source, obj)
	if err != nil {
		return nil, err
	}
	if reflect.TypeOf(converted) != reflect.TypeOf(like) {
		return nil, fmt.Errorf("a %T cannot be converted to a %T", from, like)
	}
	return converted, nil
}

// ConvertToVersion implements runtime.ObjectConvertor, for what upstream uses it for: it gives an object that a patch has made its Go type.
func (i *Interfaces) ConvertToVersion(in runtime.Object, _ runtime.GroupVersioner) (runtime.Object, error) {
	u, ok := in.(*unstructured.Unstructured)
	if !ok {
		return in, nil
	}
	out, err := i.New(u.GroupVersionKind())
	if err != nil {
		return nil, err
	}
	if _, custom := out.(*unstructured.Unstructured); custom {
		return u, nil
	}
	return out, runtime.DefaultUnstructuredConverter.FromUnstructured(u.Object, out)
}

// ConvertFieldLabel implements runtime.ObjectConvertor. Nothing asks for it in admission.
func (*Interfaces) ConvertFieldLabel(schema.GroupVersionKind, string, string) (string, string, error) {
	return "", "", errors.New("field labels are not converted in admission")
}

// EquivalentResourcesFor implements runtime.EquivalentResourceMapper: the resources whose objects are the same stored ones, with the
// subresource.
func (i *Interfaces) EquivalentResourcesFor(resource schema.GroupVersionResource, subresource string) []schema.GroupVersionResource {
	key := resourceKey{resource, subresource}
	if known, ok := i.equivalents.Load(key); ok {
		return known.([]schema.GroupVersionResource)
	}
	found := i.sameObjects(resource, subresource)
	i.equivalents.Store(key, found)
	return found
}

func (i *Interfaces) sameObjects(resource schema.GroupVersionResource, subresource string) (out []schema.GroupVersionResource) {
	kind, ok := i.Table.ByResource(resource.Group, resource.Version, resource.Resource)
	if !ok || !kind.Stored() {
		return nil
	}
	for _, other := range i.Table.Kinds() {
		if other.Prefix() == kind.Prefix() && (other == kind || has(other, subresource)) {
			out = append(out, other.GroupVersion().WithResource(other.Resource))
		}
	}
	return out
}

func has(kind *registry.Kind, subresource string) bool {
	if subresource == "scale" {
		return kind.Scale != nil
	}
	_, ok := kind.StrategyFor(subresource)
	return ok
}

// KindFor implements runtime.EquivalentResourceMapper.
func (i *Interfaces) KindFor(resource schema.GroupVersionResource, subresource string) schema.GroupVersionKind {
	kind, ok := i.Table.ByResource(resource.Group, resource.Version, resource.Resource)
	switch {
	case !ok:
		return schema.GroupVersionKind{}
	case subresource == "scale":
		return schema.GroupVersionKind{Group: "autoscaling", Version: "v1", Kind: "Scale"}
	}
	return kind.GVK()
}

// GetTypeConverter returns the structure of the fields of a kind; nil if there is no such kind. It is upstream's interface for mutating policies.
func (i *Interfaces) GetTypeConverter(gvk schema.GroupVersionKind) managedfields.TypeConverter {
	if kind, ok := i.Table.ByGVK(gvk); ok {
		return kind.Codec.Fields()
	}
	if registry.Scheme.Recognizes(gvk) { // of a subresource
		return registry.SchemeCodec(gvk.Group, nil).Fields()
	}
	return nil
}

// scope returns whether the objects of a kind have namespaces.
func scope(kind *registry.Kind) meta.RESTScope {
	if kind.Namespaced {
		return meta.RESTScopeNamespace
	}
	return meta.RESTScopeRoot
}
