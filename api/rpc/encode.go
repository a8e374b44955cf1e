package rpc

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"

	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

var jsonEncoder = json.NewSerializerWithOptions(json.DefaultMetaFactory, registry.Scheme, registry.Scheme, json.SerializerOptions{})

func kindOf(k *registry.Kind) *kontikiv1.Kind {
	return &kontikiv1.Kind{Group: k.Group, Version: k.Version, Kind: k.Kind}
}

// encoder converts objects of one kind to messages.
type encoder struct {
	service  *objects.Service
	kind     *registry.Kind
	wire     *kontikiv1.Kind // shared by all messages
	encoding kontikiv1.Encoding
}

func (o *operation) encoder(encoding kontikiv1.Encoding) (*encoder, error) {
	if err := checkEncoding(encoding); err != nil {
		return nil, err
	}
	switch protobuf := o.request.Kind.Codec.Protobuf(); {
	case encoding == kontikiv1.Encoding_ENCODING_UNSPECIFIED && protobuf:
		encoding = kontikiv1.Encoding_ENCODING_PROTOBUF
	case encoding == kontikiv1.Encoding_ENCODING_UNSPECIFIED:
		encoding = kontikiv1.Encoding_ENCODING_JSON
	case encoding == kontikiv1.Encoding_ENCODING_PROTOBUF && !protobuf:
		return nil, Wrong("encoding", "a %s has no protobuf form, use ENCODING_JSON", o.request.Kind.Kind)
	}
	return &encoder{o.Objects, o.request.Kind, kindOf(o.request.Kind), encoding}, nil
}

// version returns a stored version as a message that shares the version's encoded bytes: it must be marshalled, not changed.
func (e *encoder) version(v *kv.Version) (*kontikiv1.Object, error) {
	out := &kontikiv1.Object{Kind: e.wire, Encoding: e.encoding, ResourceVersion: objects.FormatRevision(v.ModRevision)}
	out.Namespace, out.Name = e.kind.SplitKey(v.Key)
	var err error
	if e.encoding == kontikiv1.Encoding_ENCODING_JSON {
		if out.Data, err = e.service.JSON(e.kind, v); err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		obj, err := e.service.Decode(e.kind, v)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		out.Uid = string(obj.GetUID())
		return out, nil
	}
	if out.Data, err = e.service.Proto(e.kind, v); err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	out.Uid = uidIn(out.Data)
	return out, nil
}

// written returns the result of a write as a message, and records it as the response.
func (e *encoder) written(r *objects.Request, record *audit.Record, obj registry.Object) (*kontikiv1.Object, error) {
	v, ok := e.service.Written(e.kind, obj)
	if !ok || r.DryRun || !e.kind.Stored() {
		record.Response(obj)
		return e.object(obj)
	}
	if record.WantsResponse() {
		body, err := e.service.JSON(e.kind, v)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		record.ResponseJSON(body)
	}
	return e.version(v)
}

// object returns an object as a message.
func (e *encoder) object(obj registry.Object) (*kontikiv1.Object, error) {
	if obj == nil {
		return nil, nil
	}
	out := &kontikiv1.Object{Kind: e.wire, Encoding: e.encoding, Namespace: obj.GetNamespace(), Name: obj.GetName(),
		Uid: string(obj.GetUID()), ResourceVersion: obj.GetResourceVersion()}
	var err error
	if e.encoding == kontikiv1.Encoding_ENCODING_JSON {
		out.Data, err = runtime.Encode(jsonEncoder, obj)
		out.Data = bytes.TrimRight(out.Data, "\n")
	} else if message, ok := obj.(interface{ Marshal() ([]byte, error) }); ok {
		out.Data, err = message.Marshal()
	} else {
		err = fmt.Errorf("%T has no protobuf form", obj)
	}
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return out, nil
}

// The field numbers that lead to an object's UID: every kind's message has its ObjectMeta as field 1, which has the UID as field 5.
const (
	metadataField = 1
	uidField      = 5
)

// uidIn returns the UID in an object's protobuf without decoding the rest.
func uidIn(raw []byte) string { return string(bytesField(bytesField(raw, metadataField), uidField)) }

// bytesField returns the first length-delimited field with a number, nil if there is none.
func bytesField(raw []byte, number protowire.Number) []byte {
	for len(raw) > 0 {
		n, kind, size := protowire.ConsumeTag(raw)
		if size < 0 {
			return nil
		}
		raw = raw[size:]
		if n == number && kind == protowire.BytesType {
			value, size := protowire.ConsumeBytes(raw)
			if size < 0 {
				return nil
			}
			return value
		}
		if size = protowire.ConsumeFieldValue(n, kind, raw); size < 0 {
			return nil
		}
		raw = raw[size:]
	}
	return nil
}
