package objects

import (
	"bytes"
	"fmt"
	"strconv"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/sealed"
)

// form is a form of a version, in one of the kinds as which it is served.
type form uint32

const (
	formObject form = iota
	formMetadata
	formJSON
	formProto
	formPrintable
	numForms = iota
)

var (
	protoSerializer = protobuf.NewSerializer(registry.Scheme, registry.Scheme)
	jsonSerializer  = json.NewSerializerWithOptions(json.DefaultMetaFactory, registry.Scheme, registry.Scheme, json.SerializerOptions{})
)

// Sealer encrypts values before they are proposed. The storage key is associated data of the encryption, so a sealed value cannot
// be moved to another name.
type Sealer interface {
	Seal(key string, plain []byte) ([]byte, error)
	Open(key string, sealed []byte) ([]byte, error)
	// Stale says whether a value is encrypted with another key than Seal uses now.
	Stale(sealed []byte) bool
	// Changed returns a channel that is closed when the key that Seal uses has changed.
	Changed() <-chan struct{}
}

// encode returns the bytes to store: those of the kind's codec, encrypted if the kind requires it.
func (s *Service) encode(kind *registry.Kind, key string, obj registry.Object) ([]byte, error) {
	value, err := kind.Store(obj)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", key, err)
	}
	return s.seal(kind, key, value)
}

func (s *Service) seal(kind *registry.Kind, key string, value []byte) ([]byte, error) {
	if !kind.Sealed {
		return value, nil
	}
	out, err := s.sealer.Seal(key, value)
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", key, err)
	}
	return out, nil
}

// guarded appends the condition under which a value may be put: that the key which encrypted it is still in use.
func guarded(ops []kv.Op, value []byte) []kv.Op {
	if guard, ok := sealed.Guard(value); ok {
		return append(ops, guard)
	}
	return ops
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

// slot returns the slot of a form of the kind. Kinds that share stored objects have slots of their own.
func slot(kind *registry.Kind, f form) kv.FormSlot {
	s := kv.FormSlot(kind.Form)*numForms + kv.FormSlot(f)
	if kind.Life != nil {
		s |= kv.FormSlot(kind.Life.Generation) << 32
	}
	return s
}

// Decode returns the object of a version, with its resourceVersion and type set. It is shared: read-only.
func (s *Service) Decode(kind *registry.Kind, v *kv.Version) (registry.Object, error) {
	built, err := v.Form(slot(kind, formObject), func(v *kv.Version) (any, int, error) {
		obj, err := s.decodeFresh(kind, v)
		return obj, 4 * len(v.Value), err
	})
	if err != nil {
		return nil, err
	}
	return built.(registry.Object), nil
}

// Preload decodes those of the versions that have to be converted for that, together: each conversion may call a webhook. If that fails,
// each is decoded, and fails, where it is needed.
func (s *Service) Preload(kind *registry.Kind, items []*kv.Version) {
	batch, ok := kind.Codec.(registry.Batch)
	if !ok {
		return
	}
	var apart []*kv.Version
	var values [][]byte
	for _, v := range items {
		if !v.Has(slot(kind, formObject)) && batch.Apart(v.Value, kind.GVK()) {
			apart, values = append(apart, v), append(values, v.Value)
		}
	}
	if len(apart) < 2 {
		return
	}
	objects, err := batch.LoadAll(values, kind.GVK())
	if err != nil {
		return
	}
	for i, v := range apart {
		objects[i].SetResourceVersion(FormatRevision(v.ModRevision))
		_, _ = v.Form(slot(kind, formObject), func(v *kv.Version) (any, int, error) { return objects[i], 4 * len(v.Value), nil })
	}
}

// decodeFresh returns a new object that the caller owns.
func (s *Service) decodeFresh(kind *registry.Kind, v *kv.Version) (registry.Object, error) {
	value, err := s.open(kind, v)
	if err != nil {
		return nil, err
	}
	obj, err := kind.Load(value)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", v.Key, err)
	}
	obj.SetResourceVersion(FormatRevision(v.ModRevision))
	return obj, nil
}

// Metadata returns the metadata of a version, with its resourceVersion and type set. It is shared: read-only. It costs much less than
// the whole object, and knows no Go type.
func (s *Service) Metadata(kind *registry.Kind, v *kv.Version) (*metav1.PartialObjectMetadata, error) {
	built, err := v.Form(slot(kind, formMetadata), func(v *kv.Version) (any, int, error) {
		m, err := s.FreshMetadata(kind, v)
		if err != nil {
			return nil, 0, err
		}
		return m, 3 * m.ObjectMeta.Size(), nil
	})
	if err != nil {
		return nil, err
	}
	return built.(*metav1.PartialObjectMetadata), nil
}

// FreshMetadata is Metadata for a reader that shares it with nobody, such as a large list: the caller owns it, and it is not kept.
func (s *Service) FreshMetadata(kind *registry.Kind, v *kv.Version) (*metav1.PartialObjectMetadata, error) {
	value, err := s.open(kind, v)
	if err != nil {
		return nil, err
	}
	m, err := kind.Meta(value)
	if err != nil {
		return nil, fmt.Errorf("decode %s: %w", v.Key, err)
	}
	m.SetResourceVersion(FormatRevision(v.ModRevision))
	return m, nil
}

// Printable is an object with the internal form that upstream's printers read. Both are read-only; they share memory.
type Printable struct {
	Object   registry.Object
	Internal runtime.Object
}

// PrintableOf returns a Printable of an object, which must not be used otherwise: a conversion may write to what it converts.
func PrintableOf(kind *registry.Kind, obj registry.Object) (*Printable, error) {
	internal, err := kind.ToInternal(obj)
	if err != nil {
		return nil, err
	}
	return &Printable{obj, internal}, nil
}

// Printable returns the Printable of a version. It is converted once for all who print it.
func (s *Service) Printable(kind *registry.Kind, v *kv.Version) (*Printable, error) {
	built, err := v.Form(slot(kind, formPrintable), func(v *kv.Version) (any, int, error) {
		p, err := s.FreshPrintable(kind, v)
		return p, 5 * len(v.Value), err
	})
	if err != nil {
		return nil, err
	}
	return built.(*Printable), nil
}

// FreshPrintable is Printable for a reader that shares it with nobody, such as a large list: it is not kept.
func (s *Service) FreshPrintable(kind *registry.Kind, v *kv.Version) (*Printable, error) {
	obj, err := s.decodeFresh(kind, v)
	if err != nil {
		return nil, err
	}
	return PrintableOf(kind, obj)
}

// JSON returns the version's JSON, beginning with its kind and apiVersion, without a trailing newline. Read-only.
func (s *Service) JSON(kind *registry.Kind, v *kv.Version) ([]byte, error) {
	built, err := v.Form(slot(kind, formJSON), func(v *kv.Version) (any, int, error) {
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
	})
	if err != nil {
		return nil, err
	}
	return built.([]byte), nil
}

// protoForm is a version's protobuf: the object's message, and the envelope around it.
type protoForm struct{ whole, raw []byte }

// Proto returns the version's protobuf with its resourceVersion, without the envelope. Read-only.
func (s *Service) Proto(kind *registry.Kind, v *kv.Version) ([]byte, error) {
	form, err := s.proto(kind, v)
	if err != nil {
		return nil, err
	}
	return form.raw, nil
}

// Enveloped is Proto with the envelope that clients get. Read-only.
func (s *Service) Enveloped(kind *registry.Kind, v *kv.Version) ([]byte, error) {
	form, err := s.proto(kind, v)
	if err != nil {
		return nil, err
	}
	return form.whole, nil
}

func (s *Service) proto(kind *registry.Kind, v *kv.Version) (*protoForm, error) {
	built, err := v.Form(slot(kind, formProto), func(v *kv.Version) (any, int, error) {
		form := new(protoForm)
		if spliced, ok := s.splice(kind, v); ok {
			form.whole, form.raw = spliced.Enveloped(kind.GVK())
			return form, len(form.whole), nil
		}
		obj, err := s.Decode(kind, v)
		if err != nil {
			return nil, 0, err
		}
		form.whole, form.raw, err = registry.MarshalEnveloped(obj, kind.GVK())
		return form, len(form.whole), err
	})
	if err != nil {
		return nil, err
	}
	return built.(*protoForm), nil
}

// Written returns the stored version that a write has returned as obj, if it is still the newest here. An answer to the client is made from
// it: its encodings are shared with whoever watches and reads, and what is stored may differ from obj (it has no empty lists, for example).
func (s *Service) Written(kind *registry.Kind, obj registry.Object) (*kv.Version, bool) {
	revision, err := ParseRevision(obj.GetResourceVersion())
	if err != nil || revision == 0 || obj.GetObjectKind().GroupVersionKind() != kind.GVK() {
		return nil, false
	}
	v, ok := s.store.View().Get(kind.Key(obj.GetNamespace(), obj.GetName()))
	if !ok || v.ModRevision != revision {
		return nil, false
	}
	return v, true
}

// keepJSON keeps the JSON of a version that a write has returned as obj, if it can be had of the stored bytes: the client, watchers and readers
// get it, and none of them decodes what has just been encoded. Kinds whose schema has changed meanwhile have forms of their own.
func (s *Service) keepJSON(kind *registry.Kind, obj registry.Object) {
	fresh, ok := kind.Codec.(registry.Fresh)
	if !ok || kind.Sealed {
		return
	}
	v, ok := s.Written(kind, obj)
	if !ok || v.Has(slot(kind, formJSON)) {
		return
	}
	if encoded, ok := fresh.FreshJSON(v.Value, kind.GVK(), FormatRevision(v.ModRevision)); ok {
		_, _ = v.Form(slot(kind, formJSON), func(*kv.Version) (any, int, error) { return encoded, len(encoded), nil })
	}
}

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
