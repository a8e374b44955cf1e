package objects

import (
	"bytes"
	stdjson "encoding/json"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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
	if err := write(fmt.Appendf(nil, `{"kind":%q,"apiVersion":%q,"metadata":%s,"items":[`, kind.Kind+"List", kind.GroupVersion(), head)); err != nil {
		return err
	}
	// Items of a typed list have no kind and apiVersion: skip the bytes that every encoding of the kind begins with.
	skip := len(fmt.Sprintf(`{"kind":%q,"apiVersion":%q,`, kind.Kind, kind.GroupVersion()))
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

// JSONList returns what WriteJSONList writes.
func (s *Service) JSONList(kind *registry.Kind, items []*kv.Version, meta *metav1.ListMeta) ([]byte, error) {
	var body bytes.Buffer
	err := s.WriteJSONList(kind, items, meta, func(part []byte) error {
		body.Write(part)
		return nil
	})
	return body.Bytes(), err
}

// WriteProtoList is WriteJSONList for protobuf. Stored objects that clients get in the version in which they are stored are not decoded;
// of others, and of encrypted ones, all encodings are made before the first one is written, because their sizes come first.
func (s *Service) WriteProtoList(kind *registry.Kind, items []*kv.Version, meta *metav1.ListMeta, write func([]byte) error) error {
	head, err := meta.Marshal()
	if err != nil {
		return err
	}
	size := 0
	encoded := map[int][]byte{} // the encodings of items that cannot be spliced
	for i, v := range items {
		spliced, ok := s.splice(kind, v)
		if ok {
			size += registry.ItemSize(spliced.Size())
			continue
		}
		if encoded[i], err = s.Proto(kind, v); err != nil {
			return err
		}
		size += registry.ItemSize(len(encoded[i]))
	}
	if err := write(registry.ListHead(kind.GVK(), head, size)); err != nil {
		return err
	}
	var buf []byte
	for i, v := range items {
		if item, ok := encoded[i]; ok {
			if err := write(registry.AppendItem(buf[:0], len(item))); err != nil {
				return err
			}
			if err := write(item); err != nil {
				return err
			}
			continue
		}
		spliced, _ := s.splice(kind, v)
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
