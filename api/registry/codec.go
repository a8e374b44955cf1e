package registry

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"reflect"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	extensionconfigurations "k8s.io/apiextensions-apiserver/pkg/client/applyconfiguration"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	applyconfigurations "k8s.io/client-go/applyconfigurations"
	aggregatorv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregator "k8s.io/kube-aggregator/pkg/generated/openapi"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// Codec converts the objects of a resource between their representations: versioned, internal and stored. It is safe for concurrent
// use.
type Codec interface {
	// New and NewList return an empty object and an empty list of a version.
	New(gvk schema.GroupVersionKind) Object
	NewList(gvk schema.GroupVersionKind) runtime.Object
	// Default sets the defaults of a versioned object's empty fields.
	Default(obj Object)
	// Internal returns the form that strategies work on, and External the object of a version with its type set. What they return may
	// share memory with what they are given.
	Internal(obj runtime.Object, kind string) (runtime.Object, error)
	External(internal runtime.Object, gvk schema.GroupVersionKind) (Object, error)
	// Store returns the bytes to store for an object of the version that is stored, and Load the object of such bytes with its type
	// set. Store may make the object what Load would return.
	Store(obj Object, gvk schema.GroupVersionKind) ([]byte, error)
	Load(value []byte, gvk schema.GroupVersionKind) (Object, error)
	// Meta returns only the metadata of stored bytes.
	Meta(value []byte) (*metav1.PartialObjectMetadata, error)
	// Fields returns the structure of the objects' fields, for managed fields and server-side apply.
	Fields() managedfields.TypeConverter
	// Prune removes what objects of the version do not have from an object that was decoded, and returns the paths of it, if they are
	// wanted. An error means that the object cannot be of the version.
	Prune(obj Object, paths bool) (unknown []string, err error)
	// AnyVersion says whether Store and Load convert between versions themselves, since objects are stored in different versions.
	AnyVersion() bool
	// Protobuf says whether objects have a protobuf form.
	Protobuf() bool
}

// Batch is implemented by codecs for which loading many objects at a time costs less than one at a time.
type Batch interface {
	// Apart says whether bytes that Store returned are of another version, so that loading them as a version costs a conversion.
	Apart(value []byte, gvk schema.GroupVersionKind) bool
	// LoadAll is Load for many objects.
	LoadAll(values [][]byte, gvk schema.GroupVersionKind) ([]Object, error)
}

// Fresh is implemented by codecs whose stored bytes are nearly what clients get.
type Fresh interface {
	// FreshJSON returns the JSON of bytes that Store of the same codec has returned, as an encoding of what Load returns would be. It returns
	// false if that cannot be had without decoding them.
	FreshJSON(value []byte, gvk schema.GroupVersionKind, resourceVersion string) ([]byte, bool)
}

// goTypes is implemented by codecs whose objects have a Go type of their own.
type goTypes interface {
	goType(schema.GroupVersionKind) reflect.Type
}

// schemeCodec is the codec of types in Scheme, which are stored as Kubernetes protobuf.
type schemeCodec struct {
	// group is the API group of the internal type.
	group string
	// loaded, if not nil, restores in a loaded object what protobuf does not contain.
	loaded func(Object)
	// fields returns the structure of the fields; nil means client-go's.
	fields func() managedfields.TypeConverter
}

// SchemeCodec returns the codec of the built-in types of an API group. loaded, which may be nil, restores in a loaded object what
// protobuf does not contain.
func SchemeCodec(group string, loaded func(Object)) Codec {
	return schemeCodec{group: group, loaded: loaded}
}

// New implements Codec. All GVKs of rows are in Scheme: see TestNamesAgreeWithTheScheme.
func (schemeCodec) New(gvk schema.GroupVersionKind) Object {
	obj, err := Scheme.New(gvk)
	if err != nil {
		panic(err)
	}
	return obj.(Object)
}

// NewList implements Codec.
func (schemeCodec) NewList(gvk schema.GroupVersionKind) runtime.Object {
	gvk.Kind += "List"
	list, err := Scheme.New(gvk)
	if err != nil {
		panic(err)
	}
	return list
}

func (c schemeCodec) goType(gvk schema.GroupVersionKind) reflect.Type {
	return reflect.TypeOf(c.New(gvk))
}

// Default implements Codec.
func (schemeCodec) Default(obj Object) { Scheme.Default(obj) }

// Internal implements Codec.
func (c schemeCodec) Internal(obj runtime.Object, kind string) (runtime.Object, error) {
	internal, err := Scheme.New(schema.GroupVersionKind{Group: c.group, Version: runtime.APIVersionInternal, Kind: kind})
	if err != nil {
		return nil, err
	}
	return internal, Scheme.Convert(obj, internal, nil)
}

// External implements Codec.
func (c schemeCodec) External(internal runtime.Object, gvk schema.GroupVersionKind) (Object, error) {
	obj := c.New(gvk)
	if err := Scheme.Convert(internal, obj, nil); err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	return obj, nil
}

// Store implements Codec.
func (schemeCodec) Store(obj Object, gvk schema.GroupVersionKind) ([]byte, error) {
	whole, _, err := MarshalEnveloped(obj, gvk)
	return whole, err
}

// Load implements Codec.
func (c schemeCodec) Load(value []byte, gvk schema.GroupVersionKind) (Object, error) {
	raw, err := Unwrap(value)
	if err != nil {
		return nil, err
	}
	obj := c.New(gvk)
	if err := obj.(protoMessage).Unmarshal(raw); err != nil {
		return nil, err
	}
	obj.GetObjectKind().SetGroupVersionKind(gvk)
	if c.loaded != nil {
		c.loaded(obj)
	}
	return obj, nil
}

// metadataField is the number of the metadata's field in the protobuf message of every kind.
const metadataField = 1

// Meta implements Codec.
func (schemeCodec) Meta(value []byte) (*metav1.PartialObjectMetadata, error) {
	raw, err := Unwrap(value)
	if err != nil {
		return nil, err
	}
	m := &metav1.PartialObjectMetadata{}
	for len(raw) > 0 {
		number, content, rest, err := nextField(raw)
		if err != nil {
			return nil, err
		}
		if number == metadataField {
			return m, m.ObjectMeta.Unmarshal(content)
		}
		raw = rest
	}
	return m, nil
}

var schemeFields = sync.OnceValue(func() managedfields.TypeConverter { return applyconfigurations.NewTypeConverter(Scheme) })

var extensionFields = sync.OnceValue(func() managedfields.TypeConverter { return extensionconfigurations.NewTypeConverter(Scheme) })

// ExtensionCodec is SchemeCodec for CustomResourceDefinitions, the structure of which client-go does not have.
func ExtensionCodec() Codec {
	return schemeCodec{group: apiextensions.GroupName, fields: extensionFields}
}

// AggregatorCodec is SchemeCodec for APIServices, the structure of which client-go does not have.
func AggregatorCodec() Codec {
	return schemeCodec{group: aggregatorv1.GroupName, fields: aggregatorFields}
}

// aggregatorFields reads the structure from upstream's OpenAPI definitions.
var aggregatorFields = sync.OnceValue(func() managedfields.TypeConverter {
	kind := aggregatorv1.APIService{}.OpenAPIModelName()
	definitions, err := builder3.BuildOpenAPIDefinitionsForResources(&common.OpenAPIV3Config{
		GetDefinitions: aggregator.GetOpenAPIDefinitions,
		GetDefinitionName: func(name string) (string, spec.Extensions) {
			if name != kind {
				return name, nil
			}
			return name, spec.Extensions{"x-kubernetes-group-version-kind": []any{map[string]any{
				"group": aggregatorv1.GroupName, "version": "v1", "kind": "APIService"}}}
		},
	}, kind)
	if err != nil {
		panic(err) // of constants
	}
	converter, err := managedfields.NewTypeConverter(definitions, false)
	if err != nil {
		panic(err) // of constants
	}
	return converter
})

// Fields implements Codec.
func (c schemeCodec) Fields() managedfields.TypeConverter {
	if c.fields != nil {
		return c.fields()
	}
	return schemeFields()
}

// Prune implements Codec. Decoding into a Go type leaves nothing to remove.
func (schemeCodec) Prune(Object, bool) ([]string, error) { return nil, nil }

// AnyVersion implements Codec.
func (schemeCodec) AnyVersion() bool { return false }

// Protobuf implements Codec.
func (schemeCodec) Protobuf() bool { return true }

var protoPrefix = []byte("k8s\x00")

// protoMessage is implemented by every built-in type.
type protoMessage interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
	Unmarshal([]byte) error
}

// MarshalProto returns an object's protobuf, without an envelope. Objects of custom resources have none.
func MarshalProto(obj runtime.Object) ([]byte, error) {
	message, ok := obj.(protoMessage)
	if !ok {
		return nil, fmt.Errorf("%T has no protobuf form", obj)
	}
	buf := make([]byte, message.Size())
	n, err := message.MarshalToSizedBuffer(buf)
	if err != nil {
		return nil, err
	}
	return buf[len(buf)-n:], nil
}

// Envelope wraps protobuf bytes of a kind as runtime.Unknown after the "k8s\0" prefix (k8s.io/apimachinery/pkg/runtime/generated.proto:
// typeMeta = 1 {apiVersion = 1, kind = 2}, raw = 2, contentEncoding = 3, contentType = 4).
func Envelope(gvk schema.GroupVersionKind, raw []byte) []byte {
	return append(append(appendEnvelope(gvk, len(raw)), raw...), envelopeTail...)
}

// MarshalEnveloped returns an object's protobuf in an envelope, and the part of it that is the object's.
func MarshalEnveloped(obj runtime.Object, gvk schema.GroupVersionKind) (whole, raw []byte, err error) {
	message, ok := obj.(protoMessage)
	if !ok {
		return nil, nil, fmt.Errorf("%T has no protobuf form", obj)
	}
	size := message.Size()
	head := appendEnvelope(gvk, size)
	whole = head[:len(head)+size]
	raw = whole[len(head):]
	n, err := message.MarshalToSizedBuffer(raw)
	if err == nil && n != size {
		err = fmt.Errorf("%T was changed while it was encoded", obj)
	}
	return append(whole, envelopeTail...), raw, err
}

// appendEnvelope returns the beginning of an envelope, with the capacity for size raw bytes and the end.
func appendEnvelope(gvk schema.GroupVersionKind, size int) []byte {
	apiVersion := gvk.GroupVersion().String()
	meta := fieldSize(len(apiVersion)) + fieldSize(len(gvk.Kind))
	b := make([]byte, 0, len(protoPrefix)+fieldSize(meta)+fieldSize(size)+len(envelopeTail))
	b = append(b, protoPrefix...)
	b = appendTag(b, 1, meta)
	b = appendTag(b, 1, len(apiVersion))
	b = append(b, apiVersion...)
	b = appendTag(b, 2, len(gvk.Kind))
	b = append(b, gvk.Kind...)
	return appendTag(b, 2, size)
}

// appendField appends a length-delimited protobuf field.
func appendField(b []byte, number int, value []byte) []byte {
	b = append(b, byte(number<<3|2))
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// nextField returns the first field of a message whose fields are all length-delimited, and what follows it.
func nextField(b []byte) (number int, content, rest []byte, err error) {
	length, n := binary.Uvarint(b[1:])
	if b[0]&7 != 2 || n <= 0 || uint64(len(b)-1-n) < length {
		return 0, nil, nil, fmt.Errorf("damaged Kubernetes protobuf")
	}
	end := 1 + n + int(length)
	return int(b[0] >> 3), b[1+n : end], b[end:], nil
}

// Unwrap returns the raw field of an envelope without copying it.
func Unwrap(value []byte) ([]byte, error) {
	if !bytes.HasPrefix(value, protoPrefix) {
		return nil, fmt.Errorf("not in Kubernetes protobuf")
	}
	var raw []byte
	for rest := value[len(protoPrefix):]; len(rest) > 0; {
		number, content, next, err := nextField(rest)
		if err != nil {
			return nil, fmt.Errorf("damaged Kubernetes protobuf envelope")
		}
		if number == 2 {
			raw = content
		}
		rest = next
	}
	return raw, nil
}
