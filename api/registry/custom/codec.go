package custom

import (
	"bytes"
	"encoding/json"
	"fmt"

	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	kjson "sigs.k8s.io/json"

	"github.com/kontiki/kontiki/api/registry"
)

// codec is the codec of all versions of a definition. The internal form of an object is the object itself.
type codec struct {
	*definition
	fields lazily[managedfields.TypeConverter]
}

func newCodec(d *definition) *codec {
	c := &codec{definition: d}
	c.fields.make = d.typeConverter
	return c
}

// New implements registry.Codec.
func (c *codec) New(gvk schema.GroupVersionKind) registry.Object {
	obj := &unstructured.Unstructured{Object: map[string]any{}}
	obj.SetGroupVersionKind(gvk)
	return obj
}

// NewList implements registry.Codec.
func (c *codec) NewList(gvk schema.GroupVersionKind) runtime.Object {
	list := &unstructured.UnstructuredList{Object: map[string]any{}}
	gvk.Kind = c.crd.Status.AcceptedNames.ListKind
	list.SetGroupVersionKind(gvk)
	return list
}

// version returns the version of an object.
func (c *codec) version(u *unstructured.Unstructured) (*versionOf, *compiled, error) {
	gv, err := schema.ParseGroupVersion(u.GetAPIVersion())
	if err != nil {
		return nil, nil, err
	}
	v, ok := c.versions[gv.Version]
	if !ok || gv.Group != c.crd.Spec.Group {
		return nil, nil, fmt.Errorf("%s has no version %s", c.crd.Name, u.GetAPIVersion())
	}
	schemas, err := v.compiled.get()
	return v, schemas, err
}

// Default implements registry.Codec.
func (c *codec) Default(obj registry.Object) {
	u := obj.(*unstructured.Unstructured)
	if _, schemas, err := c.version(u); err == nil { // otherwise validation fails
		schemas.setDefaults(u)
	}
}

// Internal implements registry.Codec.
func (c *codec) Internal(obj runtime.Object, _ string) (runtime.Object, error) { return obj, nil }

// External implements registry.Codec.
func (c *codec) External(internal runtime.Object, gvk schema.GroupVersionKind) (registry.Object, error) {
	u, ok := internal.(*unstructured.Unstructured)
	if !ok {
		return nil, fmt.Errorf("a %T is no custom resource", internal)
	}
	return c.to(u, gvk.GroupVersion().String())
}

// to returns an object in a version, which may be the object itself.
func (c *codec) to(u *unstructured.Unstructured, apiVersion string) (*unstructured.Unstructured, error) {
	if u.GetAPIVersion() == apiVersion {
		return u, nil
	}
	converted, err := c.convert.Convert([]*unstructured.Unstructured{u}, apiVersion)
	if err != nil {
		return nil, err
	}
	return converted[0], c.pruneValues(converted[0])
}

// pruneValues removes what an object's version does not have, but for its metadata.
func (c *codec) pruneValues(u *unstructured.Unstructured) error {
	_, schemas, err := c.version(u)
	if err != nil {
		return err
	}
	pruning.Prune(u.Object, schemas.structural, true)
	defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, schemas.structural)
	return nil
}

// Store implements registry.Codec.
func (c *codec) Store(obj registry.Object, gvk schema.GroupVersionKind) ([]byte, error) {
	u := obj.(*unstructured.Unstructured)
	if err := c.settle(u); err != nil {
		return nil, err
	}
	if storage := c.storage.gvk.GroupVersion().String(); u.GetAPIVersion() != storage {
		converted, err := c.to(u.DeepCopy(), storage)
		if err != nil {
			return nil, err
		}
		u = converted
	}
	return json.Marshal(u.Object)
}

// Load implements registry.Codec.
func (c *codec) Load(value []byte, gvk schema.GroupVersionKind) (registry.Object, error) {
	u, err := c.stored(value)
	if err != nil {
		return nil, err
	}
	return c.to(u, gvk.GroupVersion().String())
}

// Apart implements registry.Batch.
func (c *codec) Apart(value []byte, gvk schema.GroupVersionKind) bool {
	if _, none := c.convert.(None); none {
		return false
	}
	// A text inside of the object may look so too: then it is converted alone.
	return !bytes.Contains(value, fmt.Appendf(nil, `"apiVersion":%q,`, gvk.GroupVersion()))
}

// LoadAll implements registry.Batch.
func (c *codec) LoadAll(values [][]byte, gvk schema.GroupVersionKind) ([]registry.Object, error) {
	objects := make([]*unstructured.Unstructured, len(values))
	for i, value := range values {
		var err error
		if objects[i], err = c.stored(value); err != nil {
			return nil, err
		}
	}
	converted, err := c.convert.Convert(objects, gvk.GroupVersion().String())
	if err != nil {
		return nil, err
	}
	out := make([]registry.Object, len(converted))
	for i, u := range converted {
		if err := c.pruneValues(u); err != nil {
			return nil, err
		}
		out[i] = u
	}
	return out, nil
}

// stored returns the object of stored bytes, in the version in which they were stored.
func (c *codec) stored(value []byte) (*unstructured.Unstructured, error) {
	u := &unstructured.Unstructured{}
	if err := kjson.UnmarshalCaseSensitivePreserveInts(value, &u.Object); err != nil {
		return nil, err
	}
	_, schemas, err := c.version(u)
	if err != nil {
		return nil, err
	}
	// The schema may have changed since the object was stored.
	if err := c.pruneValues(u); err != nil {
		return nil, err
	}
	schemas.setDefaults(u)
	return u, nil
}

// Meta implements registry.Codec.
func (c *codec) Meta(value []byte) (*metav1.PartialObjectMetadata, error) {
	m := &metav1.PartialObjectMetadata{}
	return m, json.Unmarshal(value, m)
}

// Fields implements registry.Codec.
func (c *codec) Fields() managedfields.TypeConverter {
	fields, err := c.fields.get()
	if err != nil {
		return managedfields.NewDeducedTypeConverter() // as in upstream
	}
	return fields
}

// Prune implements registry.Codec, as upstream's unstructuredSchemaCoercer.
func (c *codec) Prune(obj registry.Object, paths bool) (unknown []string, err error) {
	u := obj.(*unstructured.Unstructured)
	gvk := u.GroupVersionKind()
	_, schemas, err := c.version(u)
	if err != nil {
		return nil, err
	}
	meta, found, unknown, err := objectmeta.GetObjectMetaWithOptions(u.Object, objectmeta.ObjectMetaOptions{ReturnUnknownFieldPaths: paths})
	if err != nil {
		return nil, err
	}
	unknown = append(unknown, pruning.PruneWithOptions(u.Object, schemas.structural, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: paths})...)
	defaulting.PruneNonNullableNullsWithoutDefaults(u.Object, schemas.structural)
	wrong, more := objectmeta.CoerceWithOptions(nil, u.Object, schemas.structural, false, objectmeta.CoerceOptions{ReturnUnknownFieldPaths: paths})
	if wrong != nil {
		return nil, wrong
	}
	u.SetGroupVersionKind(gvk)
	if found {
		if err := objectmeta.SetObjectMeta(u.Object, meta); err != nil {
			return nil, err
		}
	}
	return append(unknown, more...), nil
}

// AnyVersion implements registry.Codec.
func (c *codec) AnyVersion() bool { return true }

// Protobuf implements registry.Codec.
func (c *codec) Protobuf() bool { return false }
