package registry

import (
	"encoding/binary"

	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Spliced is an object's protobuf message as clients get it, in parts: stored bytes, and the resource version that they lack.
type Spliced struct {
	// before and after are the metadata's fields around the resource version, rest the object's fields after the metadata.
	before, after, rest []byte
	version             string
}

// versionField is the number of resourceVersion in the message of ObjectMeta, whose fields up to there are all texts.
const versionField = 6

// Splice inserts a resource version into stored bytes, without decoding them. It returns false if that is not possible: the object has to
// be decoded and encoded then. The result shares memory with value.
func (k *Kind) Splice(value []byte, resourceVersion string) (s Spliced, ok bool) {
	if _, ok := k.Codec.(schemeCodec); !ok || k.StoredAs != nil {
		return s, false
	}
	raw, err := Unwrap(value)
	if err != nil || len(raw) == 0 {
		return s, false
	}
	number, meta, rest, err := nextField(raw)
	if err != nil || number != metadataField {
		return s, false
	}
	for left := meta; len(left) > 0; {
		number, content, next, err := nextField(left)
		switch {
		case err != nil || number > versionField || number == versionField && len(content) > 0:
			return s, false
		case number == versionField:
			return Spliced{meta[:len(meta)-len(left)], next, rest, resourceVersion}, true
		}
		left = next
	}
	return s, false
}

// Metadata returns the message of the object's PartialObjectMetadata.
func (s Spliced) Metadata() Spliced {
	s.rest = nil
	return s
}

func (s Spliced) metaSize() int {
	return len(s.before) + fieldSize(len(s.version)) + len(s.after)
}

// Size returns the number of bytes of the message.
func (s Spliced) Size() int { return fieldSize(s.metaSize()) + len(s.rest) }

// Append appends the message.
func (s Spliced) Append(b []byte) []byte {
	b = appendTag(b, metadataField, s.metaSize())
	b = append(b, s.before...)
	b = appendTag(b, versionField, len(s.version))
	b = append(b, s.version...)
	b = append(b, s.after...)
	return append(b, s.rest...)
}

// Enveloped returns the message in the envelope of a kind, and the part of it that is the message.
func (s Spliced) Enveloped(gvk schema.GroupVersionKind) (whole, raw []byte) {
	size := s.Size()
	head := appendEnvelope(gvk, size)
	whole = append(s.Append(head), envelopeTail...)
	return whole, whole[len(head) : len(head)+size]
}

// fieldSize returns the size of a length-delimited field with a number below 16.
func fieldSize(length int) int {
	size := 2 + length
	for ; length >= 0x80; length >>= 7 {
		size++
	}
	return size
}

func appendTag(b []byte, number, length int) []byte {
	return binary.AppendUvarint(append(b, byte(number<<3|2)), uint64(length))
}

// ListHead returns the beginning of the message of a list of kinds gvk in its envelope: everything before the items, which have size
// bytes together with their tags (see AppendItem). What follows the items is ListTail.
func ListHead(gvk schema.GroupVersionKind, meta []byte, size int) []byte {
	gvk.Kind += "List"
	apiVersion := gvk.GroupVersion().String()
	head := append([]byte(nil), protoPrefix...)
	head = appendTag(head, 1, fieldSize(len(apiVersion))+fieldSize(len(gvk.Kind)))
	head = appendField(head, 1, []byte(apiVersion))
	head = appendField(head, 2, []byte(gvk.Kind))
	head = appendTag(head, 2, fieldSize(len(meta))+size)
	return appendField(head, 1, meta)
}

// envelopeTail is the end of an envelope.
var envelopeTail = appendField(appendField(nil, 3, nil), 4, nil)

// ListTail is the end of a list's envelope.
var ListTail = envelopeTail

// ItemSize returns the size of an item of a list with its tag.
func ItemSize(size int) int { return fieldSize(size) }

// AppendItem appends the tag of a list's item of that size; the item follows.
func AppendItem(b []byte, size int) []byte { return appendTag(b, 2, size) }
