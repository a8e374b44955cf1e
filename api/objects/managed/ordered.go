package managed

import (
	"bytes"
	"encoding/json"
	"errors"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/kontiki/kontiki/api/registry"
)

// largeFieldSet is the size in bytes of a set of fields from which its order matters.
const largeFieldSet = 16 << 10

// maxFieldDepth limits the depth of a set of fields; the fields of no type are nested so deeply.
const maxFieldDepth = 100

// orderFields puts the large sets of fields that a client sent into canonical order. Sets are decoded by inserting their elements into a
// sorted slice, which takes quadratic time if they come in another order: seconds for what fits into a request. A set that is not valid is
// replaced by one that is not valid and small.
func orderFields(obj registry.Object) {
	for i, e := range obj.GetManagedFields() {
		if e.FieldsV1 == nil || len(e.FieldsV1.GetRawBytes()) < largeFieldSet {
			continue
		}
		ordered, err := orderedFields(e.FieldsV1.GetRawBytes())
		if err != nil {
			ordered = []byte("!")
		}
		entries := slices.Clone(obj.GetManagedFields())
		entries[i].FieldsV1 = new(metav1.FieldsV1)
		entries[i].FieldsV1.SetRawBytes(ordered)
		obj.SetManagedFields(entries)
	}
}

func orderedFields(raw []byte) ([]byte, error) {
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if token, err := decoder.Token(); err != nil || token != json.Delim('{') {
		return nil, errors.Join(err, errors.New("not a set of fields"))
	}
	var out bytes.Buffer
	err := orderObject(decoder, &out, 0)
	return out.Bytes(), err
}

// orderObject writes the object whose beginning has been read.
func orderObject(decoder *json.Decoder, out *bytes.Buffer, depth int) error {
	if depth > maxFieldDepth {
		return errors.New("a set of fields is nested too deeply")
	}
	type member struct {
		self     bool // ".", which stands for the object itself
		element  fieldpath.PathElement
		key      string
		from, to int // where its value is in values
	}
	var members []member
	var values bytes.Buffer
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return err
		}
		m := member{key: token.(string), from: values.Len()} // a JSON object's keys are strings
		if token, err = decoder.Token(); err != nil {
			return err
		}
		if token != json.Delim('{') {
			return errors.New("a member of a set of fields is not an object")
		}
		if err := orderObject(decoder, &values, depth+1); err != nil {
			return err
		}
		m.to = values.Len()
		if m.self = m.key == "."; !m.self {
			m.element, err = fieldpath.DeserializePathElement(m.key)
			if errors.Is(err, fieldpath.ErrUnknownPathElementType) {
				continue // as in upstream: a later version may know it
			}
			if err != nil {
				return err
			}
		}
		members = append(members, m)
	}
	if _, err := decoder.Token(); err != nil { // the end of the object
		return err
	}
	slices.SortStableFunc(members, func(a, b member) int {
		switch {
		case a.self || b.self:
			return boolToInt(b.self) - boolToInt(a.self)
		}
		return a.element.Compare(b.element)
	})
	out.WriteByte('{')
	for i, m := range members {
		if i > 0 {
			out.WriteByte(',')
		}
		key, err := json.Marshal(m.key)
		if err != nil {
			return err
		}
		out.Write(key)
		out.WriteByte(':')
		out.Write(values.Bytes()[m.from:m.to])
	}
	out.WriteByte('}')
	return nil
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}
