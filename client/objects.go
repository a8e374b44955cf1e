package client

import (
	"context"
	"encoding/json"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/yaml"

	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

func (c *Client) objects() kontikiv1.ObjectsClient { return kontikiv1.NewObjectsClient(c) }

func (c *Client) warned(texts []string) {
	if c.warn == nil {
		return
	}
	for _, text := range texts {
		c.warn(text)
	}
}

// Get returns one object, including all writes acknowledged before the call; see NotOlderThan.
func Get[T Object](ctx context.Context, c *Client, namespace, name string, options ...Option) (T, error) {
	var none T
	s, err := c.settle(forGet, options)
	if err != nil {
		return none, err
	}
	kind, err := kindOfType[T](s.kind)
	if err != nil {
		return none, err
	}
	answer, err := c.objects().Get(ctx, &kontikiv1.GetRequest{
		Reference: Ref{Kind: kind, Namespace: namespace, Name: name}.wire(), ResourceVersion: s.version, Encoding: encodingOf(newOf[T]()),
	})
	if err != nil {
		return none, err
	}
	return decode[T](answer.Object)
}

// Create stores a new object, and returns it as it was stored.
func Create[T Object](ctx context.Context, c *Client, obj T, options ...Option) (T, error) {
	var none T
	request, err := c.createRequest(obj, options)
	if err != nil {
		return none, err
	}
	answer, err := c.objects().Create(ctx, request)
	if err != nil {
		return none, err
	}
	c.warned(answer.Warnings)
	return decode[T](answer.Object)
}

func (c *Client) createRequest(obj Object, options []Option) (*kontikiv1.CreateRequest, error) {
	s, err := c.settle(forCreate, options)
	if err != nil {
		return nil, err
	}
	encoded, err := encode(obj)
	if err != nil {
		return nil, err
	}
	return &kontikiv1.CreateRequest{Object: encoded, Options: &s.write}, nil
}

// Update replaces an object, and returns it as it was stored. If the object has a resource version, it must not have changed since
// (ErrConflict).
func Update[T Object](ctx context.Context, c *Client, obj T, options ...Option) (T, error) {
	var none T
	request, err := c.updateRequest(obj, options)
	if err != nil {
		return none, err
	}
	answer, err := c.objects().Update(ctx, request)
	if err != nil {
		return none, err
	}
	c.warned(answer.Warnings)
	return decode[T](answer.Object)
}

// UpdateStatus is Update for the status only.
func UpdateStatus[T Object](ctx context.Context, c *Client, obj T, options ...Option) (T, error) {
	return Update(ctx, c, obj, append(options[:len(options):len(options)], Subresource("status"))...)
}

func (c *Client) updateRequest(obj Object, options []Option) (*kontikiv1.UpdateRequest, error) {
	s, err := c.settle(forUpdate, options)
	if err != nil {
		return nil, err
	}
	encoded, err := encode(obj)
	if err != nil {
		return nil, err
	}
	return &kontikiv1.UpdateRequest{Object: encoded, Subresource: s.subresource, Options: &s.write}, nil
}

var patchTypes = map[types.PatchType]kontikiv1.PatchType{
	types.JSONPatchType: kontikiv1.PatchType_PATCH_TYPE_JSON, types.MergePatchType: kontikiv1.PatchType_PATCH_TYPE_MERGE,
	types.StrategicMergePatchType: kontikiv1.PatchType_PATCH_TYPE_STRATEGIC,
}

// Patch applies a patch, a JSON document of the type types.MergePatchType, StrategicMergePatchType or JSONPatchType, and returns
// the object as it was stored.
func Patch[T Object](ctx context.Context, c *Client, namespace, name string, patch types.PatchType, document []byte, options ...Option) (T, error) {
	var none T
	request, err := c.patchRequest(RefOf[T], namespace, name, patch, document, options)
	if err != nil {
		return none, err
	}
	request.Encoding = encodingOf(newOf[T]())
	answer, err := c.objects().Patch(ctx, request)
	if err != nil {
		return none, err
	}
	c.warned(answer.Warnings)
	return decode[T](answer.Object)
}

func (c *Client) patchRequest(refOf func(namespace, name string) Ref, namespace, name string, patch types.PatchType, document []byte, options []Option) (*kontikiv1.PatchRequest, error) {
	s, err := c.settle(forPatch, options)
	if err != nil {
		return nil, err
	}
	ref := s.named(refOf, namespace, name)
	if ref.err != nil {
		return nil, ref.err
	}
	wire, ok := patchTypes[patch]
	if !ok {
		return nil, invalid("%q is no type of patches; for server-side apply there is Apply", patch)
	}
	return &kontikiv1.PatchRequest{Reference: ref.wire(), Subresource: s.subresource, Type: wire, Patch: document, Options: &s.write}, nil
}

// named returns the reference to an object whose kind is given by an option, or else by its type.
func (s *settings) named(refOf func(namespace, name string) Ref, namespace, name string) Ref {
	if s.kind.Kind != "" {
		return Ref{Kind: s.kind, Namespace: namespace, Name: name}
	}
	return refOf(namespace, name)
}

// Apply is server-side apply: it sets the fields in the document, and removes those that the same manager applied before and that
// the document no longer has. The document names its object. It is an object, an apply configuration of client-go, anything else
// that encodes to the object's JSON, or JSON or YAML as []byte or string.
//
// Note that a Go object cannot distinguish zero from absent: fields of its type without omitempty are applied. The status and an
// empty creationTimestamp are left out.
func Apply[T Object](ctx context.Context, c *Client, document any, options ...Option) (T, error) {
	var none T
	request, err := c.applyRequest(document, options)
	if err != nil {
		return none, err
	}
	request.Encoding = encodingOf(newOf[T]())
	answer, err := c.objects().Apply(ctx, request)
	if err != nil {
		return none, err
	}
	c.warned(answer.Warnings)
	return decode[T](answer.Object)
}

func (c *Client) applyRequest(document any, options []Option) (*kontikiv1.ApplyRequest, error) {
	s, err := c.settle(forApply, options)
	if err != nil {
		return nil, err
	}
	raw, ref, err := readDocument(document, s.kind, s.subresource)
	if err != nil {
		return nil, err
	}
	return &kontikiv1.ApplyRequest{Reference: ref.wire(), Subresource: s.subresource, Configuration: raw, Force: s.force, Options: &s.write}, nil
}

// readDocument returns an apply document, given in JSON or YAML, as JSON, and the object that it names.
func readDocument(document any, kind Kind, subresource string) ([]byte, Ref, error) {
	var raw []byte
	obj, isObject := document.(Object)
	switch d := document.(type) {
	case []byte:
		raw = d
	case string:
		raw = []byte(d)
	case json.RawMessage:
		raw = d
	default:
		if isObject && kind.Kind == "" {
			var err error
			if kind, err = kindOf(obj); err != nil {
				return nil, Ref{}, err
			}
		}
		var err error
		if raw, err = json.Marshal(document); err != nil {
			return nil, Ref{}, invalid("encode the document: %v", err)
		}
	}
	var fields map[string]any
	if err := yaml.UnmarshalStrict(raw, &fields); err != nil || fields == nil { // one of two duplicate fields would be lost
		return nil, Ref{}, invalid("the document is no object in JSON or YAML: %v", err)
	}
	if kind.Kind != "" {
		fields["apiVersion"], fields["kind"] = kind.GroupVersion().String(), kind.Kind
	}
	metadata, _ := fields["metadata"].(map[string]any)
	if isObject {
		if metadata["creationTimestamp"] == nil {
			delete(metadata, "creationTimestamp")
		}
		if subresource == "" {
			delete(fields, "status")
		}
	}
	var err error
	if raw, err = json.Marshal(fields); err != nil {
		return nil, Ref{}, invalid("encode the document: %v", err)
	}
	text := func(value any) string { s, _ := value.(string); return s }
	apiVersion := text(fields["apiVersion"])
	ref := Ref{Namespace: text(metadata["namespace"]), Name: text(metadata["name"])}
	ref.Kind = schema.FromAPIVersionAndKind(apiVersion, text(fields["kind"]))
	if ref.Kind.Kind == "" || ref.Kind.Version == "" || ref.Name == "" {
		return nil, Ref{}, invalid("the document must have apiVersion, kind and metadata.name")
	}
	return raw, ref, nil
}

// Delete deletes an object, or starts its deletion. If gone is true, obj is the object's last state; otherwise a finalizer or a
// pod's grace period keeps it, and obj is its present state.
func Delete[T Object](ctx context.Context, c *Client, namespace, name string, options ...Option) (obj T, gone bool, err error) {
	request, err := c.deleteRequest(RefOf[T], namespace, name, options)
	if err != nil {
		return obj, false, err
	}
	request.Encoding = encodingOf(newOf[T]())
	answer, err := c.objects().Delete(ctx, request)
	if err != nil {
		return obj, false, err
	}
	obj, err = decode[T](answer.Object)
	return obj, answer.Gone, err
}

func (c *Client) deleteRequest(refOf func(namespace, name string) Ref, namespace, name string, options []Option) (*kontikiv1.DeleteRequest, error) {
	s, err := c.settle(forDelete, options)
	if err != nil {
		return nil, err
	}
	ref := s.named(refOf, namespace, name)
	if ref.err != nil {
		return nil, ref.err
	}
	return &kontikiv1.DeleteRequest{Reference: ref.wire(), DeleteOptions: &s.delete, Options: &s.write}, nil
}

// DeleteAll deletes all objects of a kind in a namespace that match Labels and Fields, one after the other, and returns them.
func DeleteAll[T Object](ctx context.Context, c *Client, namespace string, options ...Option) ([]T, error) {
	s, err := c.settle(forDeleteAll, options)
	if err != nil {
		return nil, err
	}
	kind, err := kindOfType[T](s.kind)
	if err != nil {
		return nil, err
	}
	answer, err := c.objects().DeleteCollection(ctx, &kontikiv1.DeleteCollectionRequest{
		Kind: wireKind(kind), Namespace: namespace, LabelSelector: s.labels, FieldSelector: s.fields,
		DeleteOptions: &s.delete, Options: &s.write, Encoding: encodingOf(newOf[T]()),
	})
	if err != nil {
		return nil, err
	}
	return decodeAll[T](answer.Objects)
}

func decodeAll[T Object](in []*kontikiv1.Object) ([]T, error) {
	out := make([]T, len(in))
	for i, one := range in {
		var err error
		if out[i], err = decode[T](one); err != nil {
			return nil, err
		}
	}
	return out, nil
}
