package objects

import (
	"bytes"
	stdjson "encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

// WriteJSONList passes a list of stored versions to write as JSON, part by part, from their shared encodings: whatever the length of
// the list, little of it is in memory. If an object cannot be encoded, it has passed what precedes it. The parts are read-only.
func (s *Service) WriteJSONList(kind *registry.Kind, items []*kv.Version, meta *metav1.ListMeta, write func([]byte) error) error {
	head, err := stdjson.Marshal(meta)
	if err != nil {
		return err
	}
	if err := write(fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, kind.ListKind, kind.GroupVersion(), head)); err != nil {
		return err
	}
	skip := skippedInItems(kind)
	separator := []byte("{")
	for _, v := range items {
		item, err := s.JSON(kind, v)
		if err != nil {
			return err
		}
		if err := write(separator); err != nil {
			return err
		}
		if err := write(item[skip:]); err != nil {
			return err
		}
		separator = []byte(",{")
	}
	return write([]byte("]}"))
}

// skippedInItems is the length of what every encoding of the kind begins with but items of a list do not have: kind and apiVersion.
//
// Items of kinds without a Go type have them, as upstream's do: only the brace is skipped.
func skippedInItems(kind *registry.Kind) int {
	if !kind.Codec.Protobuf() {
		return 1
	}
	return len(fmt.Sprintf(`{"kind":%q,"apiVersion":%q,`, kind.Kind, kind.GroupVersion()))
}

// JSONItem returns the JSON of an item of a list. Read-only.
func (s *Service) JSONItem(kind *registry.Kind, v *kv.Version) ([]byte, error) {
	item, err := s.JSON(kind, v)
	if err != nil {
		return nil, err
	}
	return append([]byte{'{'}, item[skippedInItems(kind):]...), nil
}

// JSONList returns what WriteJSONList writes.
func (s *Service) JSONList(kind *registry.Kind, items []*kv.Version, meta *metav1.ListMeta) ([]byte, error) {
	var body bytes.Buffer
	err := s.WriteJSONList(kind, items, meta, func(part []byte) error {
		body.Write(part)
		return nil
	})
	return body.Bytes(), err
}

// WriteProtoList is WriteJSONList for protobuf. The sizes of all items come first. Stored objects that clients get in the version in which
// they are stored are not decoded for that; others, and encrypted ones, are encoded twice, unless their encodings are still shared.
func (s *Service) WriteProtoList(kind *registry.Kind, items []*kv.Version, meta *metav1.ListMeta, write func([]byte) error) error {
	return writeProtoList(kind.GVK(), items, meta, write, func(v *kv.Version) (registry.Spliced, bool) { return s.splice(kind, v) },
		func(v *kv.Version) ([]byte, error) { return s.Proto(kind, v) })
}

// WriteProtoMetadata is WriteProtoList for a list of PartialObjectMetadata in a version of meta.k8s.io.
func (s *Service) WriteProtoMetadata(kind *registry.Kind, version schema.GroupVersion, items []*kv.Version, meta *metav1.ListMeta, write func([]byte) error) error {
	return writeProtoList(version.WithKind("PartialObjectMetadata"), items, meta, write,
		func(v *kv.Version) (registry.Spliced, bool) {
			spliced, ok := s.splice(kind, v)
			return spliced.Metadata(), ok
		},
		func(v *kv.Version) ([]byte, error) {
			m, err := s.FreshMetadata(kind, v)
			if err != nil {
				return nil, err
			}
			return m.Marshal()
		})
}

// writeProtoList passes a list of a kind to write, with items that are spliced or, where that is not possible, encoded.
func writeProtoList(gvk schema.GroupVersionKind, items []*kv.Version, meta *metav1.ListMeta, write func([]byte) error,
	splice func(*kv.Version) (registry.Spliced, bool), encode func(*kv.Version) ([]byte, error)) error {
	head, err := meta.Marshal()
	if err != nil {
		return err
	}
	size := 0
	for _, v := range items {
		spliced, ok := splice(v)
		if ok {
			size += registry.ItemSize(spliced.Size())
			continue
		}
		item, err := encode(v)
		if err != nil {
			return err
		}
		size += registry.ItemSize(len(item))
	}
	if err := write(registry.ListHead(gvk, head, size)); err != nil {
		return err
	}
	var buf []byte
	for _, v := range items {
		spliced, ok := splice(v)
		if !ok {
			item, err := encode(v)
			if err != nil {
				return err
			}
			if size -= registry.ItemSize(len(item)); size < 0 {
				return fmt.Errorf("%s has another size than before", v.Key)
			}
			if err := write(append(registry.AppendItem(buf[:0], len(item)), item...)); err != nil {
				return err
			}
			continue
		}
		size -= registry.ItemSize(spliced.Size())
		buf = spliced.Append(registry.AppendItem(buf[:0], spliced.Size()))
		if err := write(buf); err != nil {
			return err
		}
	}
	return write(registry.ListTail)
}

// splice returns a version's protobuf in parts; ok is false if it has to be decoded for that.
func (s *Service) splice(kind *registry.Kind, v *kv.Version) (registry.Spliced, bool) {
	if kind.Sealed {
		return registry.Spliced{}, false
	}
	return kind.Splice(v.Value, FormatRevision(v.ModRevision))
}
