package objects

import (
	"encoding/hex"
	"fmt"
	"net/http"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/aliases"
)

var (
	strictJSON = json.NewSerializerWithOptions(json.DefaultMetaFactory, registry.Scheme, registry.Scheme, json.SerializerOptions{Strict: true})
	laxJSON    = json.NewSerializerWithOptions(json.DefaultMetaFactory, registry.Scheme, registry.Scheme, json.SerializerOptions{})
	strictYAML = json.NewSerializerWithOptions(json.DefaultMetaFactory, registry.Scheme, registry.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
	laxYAML    = json.NewSerializerWithOptions(json.DefaultMetaFactory, registry.Scheme, registry.Scheme, json.SerializerOptions{Yaml: true})
)

func unstructuredGroupKind(group, kind string) schema.GroupKind {
	return schema.GroupKind{Group: group, Kind: kind}
}

// Encoding is the encoding of a body.
type Encoding int

// The encodings of bodies.
const (
	JSON Encoding = iota
	YAML
	Protobuf
)

// DecodeBody decodes a body of the request's kind. Unknown and duplicate fields are refused (Strict), reported to the
// request's Warn (Warn) or dropped (Ignore), with upstream's messages. The request keeps data, which must not change: if its write has to
// be attempted again, the object is decoded again.
func (s *Service) DecodeBody(r *Request, data []byte, encoding Encoding, validation string) (registry.Object, error) {
	kind := r.Kind
	if encoding == Protobuf && !kind.Codec.Protobuf() {
		return nil, noProtobuf(kind)
	}
	obj, err := decodeInto(r, data, encoding, validation, kind.New(), kind)
	if err != nil {
		return nil, err
	}
	r.again = func() (registry.Object, error) { // the client has been warned
		return decodeInto(&Request{}, data, encoding, metav1.FieldValidationIgnore, kind.New(), kind)
	}
	return obj, nil
}

// noProtobuf refuses a body in protobuf of a kind that has only JSON.
func noProtobuf(kind *registry.Kind) error {
	return &apierrors.StatusError{ErrStatus: metav1.Status{
		Status: metav1.StatusFailure, Code: http.StatusUnsupportedMediaType, Reason: metav1.StatusReasonUnsupportedMediaType,
		Message: fmt.Sprintf("%s has no protobuf: the body of the request was in an unknown format - accepted media types include: application/json, application/yaml", kind.GroupResource()),
	}}
}

// DecodeJSON decodes a JSON document of the request's kind.
func (s *Service) DecodeJSON(r *Request, data []byte, validation string) (registry.Object, error) {
	return s.DecodeBody(r, data, JSON, validation)
}

// expected is the kind that a document must be of. Documents of the kinds of subresources have no codec.
type expected interface {
	GVK() schema.GroupVersionKind
	Prune(obj runtime.Object, paths bool) (unknown []string, err error)
}

// bareKind is an expected kind without a codec.
type bareKind schema.GroupVersionKind

// GVK implements expected.
func (k bareKind) GVK() schema.GroupVersionKind { return schema.GroupVersionKind(k) }

// Prune implements expected.
func (bareKind) Prune(runtime.Object, bool) ([]string, error) { return nil, nil }

// decodeInto decodes a body into an object that must be of the kind.
func decodeInto[T runtime.Object](r *Request, data []byte, encoding Encoding, validation string, into T, kind expected) (T, error) {
	gvk := kind.GVK()
	var decoder runtime.Decoder
	strict := validation == metav1.FieldValidationStrict || validation == metav1.FieldValidationWarn
	switch {
	case encoding == Protobuf:
		decoder = protoSerializer
	case encoding == YAML && strict:
		decoder = strictYAML
	case encoding == YAML:
		decoder = laxYAML
	case strict:
		decoder = strictJSON
	default:
		decoder = laxJSON
	}
	var none T
	if encoding == YAML {
		if err := aliases.Check(data, MaxBodyBytes); err != nil {
			return none, apierrors.NewBadRequest(err.Error())
		}
	}
	if err := registry.CheckQuantities(data, into); err != nil {
		return none, apierrors.NewBadRequest(err.Error())
	}
	out, actual, err := decodePruned(decoder, data, into, kind, strict)
	if err != nil && runtime.IsStrictDecodingError(err) && validation == metav1.FieldValidationWarn {
		problems, _ := runtime.AsStrictDecodingError(err)
		for _, problem := range problems.Errors() {
			r.warn("%s", problem.Error())
		}
		err = nil
	}
	if err != nil {
		if actual == nil || actual.Kind == "" {
			return none, apierrors.NewBadRequest(fmt.Sprintf("the object provided is unrecognized (must be of type %s): %v (%s)", gvk.Kind, err, summary(data)))
		}
		return none, apierrors.NewBadRequest(fmt.Sprintf("%s in version %q cannot be handled as a %s: %v", actual.Kind, actual.Version, gvk.Kind, err))
	}
	typed, ok := out.(T)
	if !ok || (actual != nil && *actual != gvk) {
		return none, apierrors.NewBadRequest(fmt.Sprintf("the API version in the data (%s) does not match the expected API version (%s)",
			strings.TrimPrefix(actual.GroupVersion().String()+", Kind="+actual.Kind, ", "), gvk.GroupVersion().String()+", Kind="+gvk.Kind))
	}
	return typed, nil
}

// decodePruned decodes a document and removes what the kind does not have. The strict error names this too if it is wanted.
func decodePruned(decoder runtime.Decoder, data []byte, into runtime.Object, kind expected, strict bool) (runtime.Object, *schema.GroupVersionKind, error) {
	gvk := kind.GVK()
	out, actual, err := decoder.Decode(data, &gvk, into)
	problems, lax := runtime.AsStrictDecodingError(err)
	if err != nil && !lax || *actual != gvk {
		return out, actual, err
	}
	unknown, wrong := kind.Prune(out, strict)
	if wrong != nil {
		return out, actual, wrong
	}
	if len(unknown) == 0 {
		return out, actual, err
	}
	var all []error
	if lax {
		all = problems.Errors()
	}
	for _, path := range unknown {
		all = append(all, fmt.Errorf(`unknown field "%s"`, path))
	}
	return out, actual, runtime.NewStrictDecodingError(all)
}

// summary returns the beginning of a body.
func summary(data []byte) string {
	const most = 30
	shown := data[:min(len(data), most)]
	text := hex.EncodeToString(shown)
	switch {
	case len(data) == 0:
		return "<empty>"
	case data[0] == '{':
		text = string(shown)
	}
	if len(data) > most {
		text += " ..."
	}
	return text
}

// DecodeOther decodes a body of a type that is not the request's kind (Scale, Binding, Eviction, TokenRequest).
func DecodeOther[T runtime.Object](r *Request, data []byte, encoding Encoding, validation string, into T, gvk schema.GroupVersionKind) (T, error) {
	return decodeInto(r, data, encoding, validation, into, bareKind(gvk))
}
