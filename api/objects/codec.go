package objects

import (
	"bytes"
	"encoding/binary"
	stdjson "encoding/json"
	"fmt"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

// The forms of a version.
const (
	formObject kv.FormSlot = iota
	formJSON
	formProto
)

var (
	protoSerializer = protobuf.NewSerializer(registry.Scheme, registry.Scheme)
	jsonSerializer  = json.NewSerializerWithOptions(json.DefaultMetaFactory, registry.Scheme, registry.Scheme, json.SerializerOptions{})
	protoPrefix     = []byte("k8s\x00")
)

// Sealer encrypts values before they are proposed. The storage key is associated data of the encryption, so a sealed value cannot
// be moved to another name.
type Sealer interface {
	Seal(key string, plain []byte) ([]byte, error)
	Open(key string, sealed []byte) ([]byte, error)
	// Stale says whether a value is encrypted with another key than Seal uses now.
	Stale(sealed []byte) bool
}

// protoMessage is implemented by every built-in type.
type protoMessage interface {
	Size() int
	MarshalToSizedBuffer([]byte) (int, error)
	Unmarshal([]byte) error
}

// encode returns the bytes to store: the object in Kubernetes protobuf without a resourceVersion (the store's revision is
// authoritative), encrypted if the kind requires it.
func (s *Service) encode(kind *registry.Kind, key string, obj registry.Object) ([]byte, error) {
	value, err := plain(kind, obj)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", key, err)
	}
	return s.seal(kind, key, value)
}

// plain encodes an object as it is stored, except for encryption.
func plain(kind *registry.Kind, obj registry.Object) ([]byte, error) {
	if stored := kind.StoredAs; stored != nil {
		internal, err := kind.ToInternal(obj.DeepCopyObject())
		if err != nil {
			return nil, err
		}
		if obj, err = stored.FromInternal(internal); err != nil {
			return nil, err
		}
		kind = stored
	}
	version := obj.GetResourceVersion()
	obj.SetResourceVersion("")
	raw, err := marshal(obj)
	obj.SetResourceVersion(version)
	if err != nil {
		return nil, err
	}
	return envelope(kind, raw), nil
}

func (s *Service) seal(kind *registry.Kind, key string, value []byte) ([]byte, error) {
	if !kind.Sealed {
		return value, nil
	}
	sealed, err := s.sealer.Seal(key, value)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", key, err)
	}
	return sealed, nil
}

// open returns a version's value, decrypted if it is sealed.
func (s *Service) open(kind *registry.Kind, v *kv.Version) ([]byte, error) {
	if !kind.Sealed {
		return v.Value, nil
	}
	value, err := s.sealer.Open(v.Key, v.Value)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", v.Key, err)
	}
	return value, nil
}

func marshal(obj registry.Object) ([]byte, error) {
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

// envelope wraps protobuf bytes as runtime.Unknown after the "k8s\0" prefix (k8s.io/apimachinery/pkg/runtime/generated.proto:
// typeMeta = 1 {apiVersion = 1, kind = 2}, raw = 2, contentEncoding = 3, contentType = 4).
func envelope(kind *registry.Kind, raw []byte) []byte {
	apiVersion := kind.GroupVersion().String()
	meta := make([]byte, 0, len(apiVersion)+len(kind.Kind)+4)
	meta = appendField(meta, 1, []byte(apiVersion))
	meta = appendField(meta, 2, []byte(kind.Kind))
	out := make([]byte, 0, len(protoPrefix)+len(meta)+len(raw)+20)
	out = append(out, protoPrefix...)
	out = appendField(out, 1, meta)
	out = appendField(out, 2, raw)
	out = appendField(out, 3, nil)
	return appendField(out, 4, nil)
}

// appendField appends a length-delimited protobuf field.
func appendField(b []byte, number int, value []byte) []byte {
	b = append(b, byte(number<<3|2))
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// Decode returns the object of a version, with its resourceVersion and type set. It is shared: read-only.
func (s *Service) Decode(kind *registry.Kind, v *kv.Version) (registry.Object, error) {
	if kind.StoredAs != nil {
		// The shared forms are those of the API version that is stored; objects in other API versions are rare and decoded each
		// time.
		return s.decodeFresh(kind, v)
	}
	form, err := v.Form(formObject, func(v *kv.Version) (any, int, error) {
		obj, err := s.decodeFresh(kind, v)
		return obj, 4 * len(v.Value), err
	})
	if err != nil {
		return nil, err
	}
	return form.(registry.Object), nil
}

// decodeFresh returns a new object that the caller owns.
func (s *Service) decodeFresh(kind *registry.Kind, v *kv.Version) (registry.Object, error) {
	if stored := kind.StoredAs; stored != nil {
		obj, err := s.decodeFresh(stored, v)
		if err != nil {
			return nil, err
		}
		internal, err := stored.ToInternal(obj)
		if err != nil {
			return nil, fmt.Errorf("decode %s: %w", v.Key, err)
		}
		return kind.FromInternal(internal)
	}
	value, err := s.open(kind, v)
	if err != nil {
		return nil, err
	}
	raw, err := Unwrap(value)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", v.Key, err)
	}
	obj := kind.New()
	if err := obj.(protoMessage).Unmarshal(raw); err != nil {
		return nil, fmt.Errorf("decode %s: %w", v.Key, err)
	}
	obj.SetResourceVersion(FormatRevision(v.ModRevision))
	obj.GetObjectKind().SetGroupVersionKind(kind.GVK())
	return obj, nil
}

// Unwrap returns the raw field of an envelope without copying it.
func Unwrap(value []byte) ([]byte, error) {
	if !bytes.HasPrefix(value, protoPrefix) {
		return nil, fmt.Errorf("not in Kubernetes protobuf")
	}
	var unknown apiruntime.Unknown
	rest := value[len(protoPrefix):]
	for len(rest) > 0 {
		tag := rest[0]
		length, n := binary.Uvarint(rest[1:])
		if tag&7 != 2 || n <= 0 || uint64(len(rest)-1-n) < length {
			return nil, fmt.Errorf("damaged Kubernetes protobuf envelope")
		}
		field := rest[1+n : 1+n+int(length)]
		if tag>>3 == 2 {
			unknown.Raw = field
		}
		rest = rest[1+n+int(length):]
	}
	return unknown.Raw, nil
}

// formOf returns a version's cached form in a slot, or a newly built one for a kind that is stored as another.
func formOf(kind *registry.Kind, v *kv.Version, slot kv.FormSlot, build kv.BuildForm) (any, error) {
	if kind.StoredAs == nil {
		return v.Form(slot, build)
	}
	form, _, err := build(v)
	return form, err
}

// JSON returns the version's JSON, beginning with its kind and apiVersion, without a trailing newline. Read-only.
func (s *Service) JSON(kind *registry.Kind, v *kv.Version) ([]byte, error) {
	build := func(v *kv.Version) (any, int, error) {
		obj, err := s.Decode(kind, v)
		if err != nil {
			return nil, 0, err
		}
		var buf bytes.Buffer
		if err := jsonSerializer.Encode(obj, &buf); err != nil {
			return nil, 0, fmt.Errorf("encode %s: %w", v.Key, err)
		}
		encoded := bytes.TrimRight(buf.Bytes(), "\n")
		return encoded, len(encoded), nil
	}
	form, err := formOf(kind, v, formJSON, build)
	if err != nil {
		return nil, err
	}
	return form.([]byte), nil
}

// Proto returns the version's protobuf with its resourceVersion, without the envelope. Read-only.
func (s *Service) Proto(kind *registry.Kind, v *kv.Version) ([]byte, error) {
	form, err := formOf(kind, v, formProto, func(v *kv.Version) (any, int, error) {
		obj, err := s.Decode(kind, v)
		if err != nil {
			return nil, 0, err
		}
		raw, err := marshal(obj)
		return raw, len(raw), err
	})
	if err != nil {
		return nil, err
	}
	return form.([]byte), nil
}

// Envelope wraps protobuf bytes of a kind for clients.
func Envelope(kind *registry.Kind, raw []byte) []byte { return envelope(kind, raw) }

// FormatRevision formats a revision as a resourceVersion.
func FormatRevision(revision uint64) string { return strconv.FormatUint(revision, 10) }

// ParseRevision parses a resourceVersion; "" and "0" are 0.
func ParseRevision(resourceVersion string) (uint64, error) {
	if resourceVersion == "" {
		return 0, nil
	}
	revision, err := strconv.ParseUint(resourceVersion, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("invalid resourceVersion %q: it must be a non-negative number from an earlier response", resourceVersion)
	}
	return revision, nil
}

// JSONList returns a list of stored versions as JSON, assembled from their shared encodings.
func (s *Service) JSONList(kind *registry.Kind, items []*kv.Version, meta *metav1.ListMeta) ([]byte, error) {
	head, err := stdjson.Marshal(meta)
	if err != nil {
		return nil, err
	}
	// Items of a typed list have no kind and apiVersion: skip the bytes that every encoding of the kind begins with.
	skip := len(fmt.Sprintf(`{"kind":%q,"apiVersion":%q,`, kind.Kind, kind.GroupVersion()))
	encoded := make([][]byte, len(items))
	size := 0
	for i, v := range items {
		if encoded[i], err = s.JSON(kind, v); err != nil {
			return nil, err
		}
		size += len(encoded[i])
	}
	body := make([]byte, 0, size+len(head)+128)
	body = fmt.Appendf(body, `{"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, kind.Kind+"List", kind.GroupVersion(), head)
	for i, item := range encoded {
		if i > 0 {
			body = append(body, ',')
		}
		body = append(body, '{')
		body = append(body, item[skip:]...)
	}
	return append(body, "]}"...), nil
}
