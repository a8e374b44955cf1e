package journal

import (
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"sync"
)

// changedFields is changedPaths for two objects of the same Go type, pointers to structs. It converts to JSON only what differs.
func changedFields(before, after any) (found []string, more bool, err error) {
	p := &paths{}
	err = p.structs("", reflect.ValueOf(before).Elem(), reflect.ValueOf(after).Elem())
	slices.Sort(p.found)
	return p.found, p.more, err
}

// field is a field of a struct in its JSON.
type field struct {
	index     int
	name      string // "" if the fields of the field are those of the struct
	omitEmpty bool
	whole     bool // it is compared as JSON, not field by field
}

// fieldsOf has the fields of types of structs that were compared before, in the order of their names.
var fieldsOf sync.Map // from reflect.Type to []field

var marshaler = reflect.TypeFor[json.Marshaler]()

func fields(t reflect.Type) []field {
	if known, ok := fieldsOf.Load(t); ok {
		return known.([]field)
	}
	var out []field
	for i := range t.NumField() {
		f := t.Field(i)
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if name == "-" || !f.IsExported() {
			continue
		}
		if name == "" && !f.Anonymous && options != "inline" {
			name = f.Name
		}
		inner := f.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		out = append(out, field{
			index: i, name: name, omitEmpty: strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero"),
			whole: inner.Kind() != reflect.Struct || inner.Implements(marshaler) || reflect.PointerTo(inner).Implements(marshaler),
		})
	}
	slices.SortStableFunc(out, func(a, b field) int { return strings.Compare(a.name, b.name) })
	fieldsOf.Store(t, out)
	return out
}

// structs compares the fields of two structs of one type.
func (p *paths) structs(path string, before, after reflect.Value) error {
	for _, f := range fields(after.Type()) {
		below := path
		switch {
		case f.name == "":
		case path == "":
			below = f.name
		default:
			below = path + "." + f.name
		}
		if p.more || ignored[below] {
			continue
		}
		b, a := before.Field(f.index), after.Field(f.index)
		if !f.whole && a.Kind() == reflect.Pointer && !a.IsNil() && !b.IsNil() {
			b, a = b.Elem(), a.Elem()
		}
		if !f.whole && a.Kind() == reflect.Struct {
			if err := p.structs(below, b, a); err != nil {
				return err
			}
			continue
		}
		if equal(b, a) {
			continue
		}
		was, err := f.document(b)
		if err != nil {
			return err
		}
		is, err := f.document(a)
		if err != nil {
			return err
		}
		p.values(below, was, is)
	}
	return nil
}

// equal is reflect.DeepEqual, without allocations for what most fields are: nothing, or a simple value.
func equal(a, b reflect.Value) bool {
	switch a.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Interface:
		if a.IsNil() || b.IsNil() {
			return a.IsNil() && b.IsNil()
		}
	case reflect.Bool, reflect.Int, reflect.Int32, reflect.Int64, reflect.String:
		return a.Equal(b)
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

// document returns a value as its JSON's maps and lists, nil if the JSON does not have it.
func (f field) document(v reflect.Value) (out any, err error) {
	if f.omitEmpty && (v.IsZero() || (v.Kind() == reflect.Map || v.Kind() == reflect.Slice) && v.Len() == 0) {
		return nil, nil
	}
	b, err := json.Marshal(v.Interface())
	if err != nil {
		return nil, err
	}
	return out, json.Unmarshal(b, &out)
}
