package custom

import (
	"bytes"
	"strconv"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// settles says whether an object that has been pruned and given its defaults stays as it is when it is loaded. It would not if its status, which
// creations remove, had a default.
func (v *versionOf) settles(schemas *compiled) bool {
	if schemas.structural == nil {
		return true
	}
	status, ok := schemas.structural.Properties["status"]
	return !ok || status.Default.Object == nil
}

// settle makes an object that is about to be stored what loading it would make of it: admission may have changed it since it was decoded.
func (c *codec) settle(u *unstructured.Unstructured) error {
	v, schemas, err := c.version(u)
	if err != nil || !v.settles(schemas) {
		return err
	}
	if err := c.pruneValues(u); err != nil {
		return err
	}
	schemas.setDefaults(u)
	return nil
}

// FreshJSON implements registry.Fresh.
func (c *codec) FreshJSON(value []byte, gvk schema.GroupVersionKind, resourceVersion string) ([]byte, bool) {
	v := c.storage
	if gvk != v.gvk {
		return nil, false
	}
	schemas, err := v.compiled.get()
	if err != nil || !v.settles(schemas) {
		return nil, false
	}
	return withResourceVersion(value, resourceVersion)
}

// withResourceVersion returns the JSON of an object, as json.Marshal encodes maps (without spaces, keys in order), with a resourceVersion in its
// metadata. It returns false if it is not of this form.
func withResourceVersion(value []byte, resourceVersion string) ([]byte, bool) {
	at, ok := member(value, 0, `"metadata"`)
	if !ok || at >= len(value) || value[at] != '{' {
		return nil, false
	}
	const name = `"resourceVersion"`
	out := make([]byte, 0, len(value)+len(name)+len(resourceVersion)+4)
	for i := at + 1; i < len(value); {
		key, after := str(value, i)
		if after >= len(value) || value[after] != ':' || bytes.Equal(key, []byte(name)) {
			return nil, false
		}
		if string(key) > name { // before this member
			out = append(append(out, value[:i]...), name...)
			out = append(strconv.AppendQuote(append(out, ':'), resourceVersion), ',')
			return append(out, value[i:]...), true
		}
		i = skip(value, after+1)
		if i >= len(value) {
			return nil, false
		}
		if value[i] == '}' { // after the last member
			out = append(append(append(out, value[:i]...), ','), name...)
			out = strconv.AppendQuote(append(out, ':'), resourceVersion)
			return append(out, value[i:]...), true
		}
		i++ // the comma
	}
	return nil, false
}

// member returns where the value of a member of the object at i begins. The key is given with its quotes.
func member(value []byte, i int, wanted string) (int, bool) {
	if i >= len(value) || value[i] != '{' {
		return 0, false
	}
	for i++; i < len(value) && value[i] == '"'; i++ {
		key, after := str(value, i)
		if after >= len(value) || value[after] != ':' {
			return 0, false
		}
		if string(key) == wanted {
			return after + 1, true
		}
		i = skip(value, after+1)
		if i >= len(value) || value[i] != ',' {
			return 0, false
		}
	}
	return 0, false
}

// str returns the string at i with its quotes, and the position after it: len(value) or more if there is none.
func str(value []byte, i int) ([]byte, int) {
	if i >= len(value) || value[i] != '"' {
		return nil, len(value)
	}
	for j := i + 1; j < len(value); j++ {
		switch value[j] {
		case '\\':
			j++
		case '"':
			return value[i : j+1], j + 1
		}
	}
	return nil, len(value)
}

// skip returns the position after the value at i.
func skip(value []byte, i int) int {
	depth := 0
	for i < len(value) {
		switch value[i] {
		case '"':
			_, i = str(value, i)
			if depth == 0 {
				return i
			}
			continue
		case '{', '[':
			depth++
		case '}', ']':
			if depth == 0 {
				return i // the end of what a number, true, false or null stands in
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return i
}
