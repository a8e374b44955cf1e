package registry

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/internal/aliases"
)

// maxExponentDigits limits the number of digits in the exponents of quantities. apimachinery computes the power of ten when it
// parses or compares a quantity, so the few bytes "1e-2000000000" would cost gigabytes and minutes.
const maxExponentDigits = 3

// maxExpanded limits in bytes by how much YAML may grow when its aliases are replaced.
const maxExpanded = 3 << 20

// maxDepth is the maximum nesting of encoding/json; deeper documents are refused when they are decoded.
const maxDepth = 10000

// CheckQuantities refuses a body, in JSON, YAML or Kubernetes protobuf, with a quantity whose exponent is too long. It must be
// called before the body is decoded into an object of the type, because decoding parses quantities. A body that cannot be decoded
// at all is not an error here.
func CheckQuantities(body []byte, into runtime.Object) error {
	t := reflect.TypeOf(into)
	if !longExponent(body) || !hasQuantity(t) {
		return nil
	}
	if bytes.HasPrefix(body, []byte("k8s\x00")) {
		return checkWireQuantities(body)
	}
	if !bytes.HasPrefix(bytes.TrimSpace(body), []byte("{")) {
		if err := aliases.Check(body, len(body)+maxExpanded); err != nil {
			return err
		}
		converted, err := yaml.YAMLToJSON(body)
		if err != nil {
			return nil
		}
		body = converted
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.UseNumber()
	return walkQuantities(decoder, t, 0)
}

// longExponent says whether the body contains what looks like a number with a long exponent: digit, e, sign, four digits.
func longExponent(body []byte) bool {
	digit := func(i int) bool { return i < len(body) && body[i] >= '0' && body[i] <= '9' }
	for i := 1; i < len(body); i++ {
		if body[i]|0x20 != 'e' || !digit(i-1) && body[i-1] != '.' {
			continue
		}
		next := i + 1
		if next < len(body) && (body[next] == '+' || body[next] == '-') {
			next++
		}
		digits := 0
		for digit(next + digits) {
			digits++
		}
		if digits > maxExponentDigits {
			return true
		}
	}
	return false
}

// checkQuantity refuses a single quantity with a long exponent.
func checkQuantity(text string) error {
	text = strings.TrimSpace(text)
	at := strings.LastIndexAny(text, "eE")
	if at < 0 {
		return nil
	}
	exponent := strings.TrimLeft(strings.TrimLeft(text[at+1:], "+-"), "0")
	if len(exponent) > maxExponentDigits && strings.Trim(exponent, "0123456789") == "" {
		return fmt.Errorf("quantity %.40q: the exponent has more than %d digits", text, maxExponentDigits)
	}
	return nil
}

// walkQuantities reads one JSON value of a type (nil for any) and checks the quantities in it. Duplicate keys are all checked, as
// decoding parses each.
func walkQuantities(decoder *json.Decoder, t reflect.Type, depth int) error {
	token, err := decoder.Token()
	if err != nil || depth > maxDepth {
		return nil
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch token := token.(type) {
	case json.Delim:
		for decoder.More() {
			var element reflect.Type
			if token == '{' {
				key, err := decoder.Token()
				if err != nil {
					return nil
				}
				element = fieldType(t, fmt.Sprint(key))
			} else if t != nil && t.Kind() == reflect.Slice {
				element = t.Elem()
			}
			if err := walkQuantities(decoder, element, depth+1); err != nil {
				return err
			}
		}
		decoder.Token() // the closing token; if it is missing, the next read fails
	case string:
		if t == quantityType {
			return checkQuantity(token)
		}
	case json.Number:
		if t == quantityType {
			return checkQuantity(token.String())
		}
	}
	return nil
}

var quantityType = reflect.TypeFor[resource.Quantity]()

// fieldType returns the type of a field by its JSON name, or of a map's values; nil if there is none.
func fieldType(t reflect.Type, name string) reflect.Type {
	switch {
	case t == nil:
		return nil
	case t.Kind() == reflect.Map:
		return t.Elem()
	case t.Kind() != reflect.Struct:
		return nil
	}
	for i := range t.NumField() {
		f := t.Field(i)
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if tag == name {
			return f.Type
		}
		if f.Anonymous && tag == "" {
			embedded := f.Type
			if embedded.Kind() == reflect.Pointer {
				embedded = embedded.Elem()
			}
			if found := fieldType(embedded, name); found != nil {
				return found
			}
		}
	}
	return nil
}

// checkWireQuantities refuses protobuf with a message whose first field is a string that is a number with a long exponent, because
// the string of a quantity is its first and only field. It does not look at the types of messages, so it also refuses such a key of
// a map, which nothing uses.
func checkWireQuantities(body []byte) error {
	const first = 1<<3 | 2 // field 1, length-delimited
	for i := 0; i+2 < len(body); i++ {
		if body[i] != first {
			continue
		}
		length, n := binary.Uvarint(body[i+1:])
		if n <= 0 || length < 6 || length > uint64(len(body)-i-1-n) {
			continue
		}
		text := body[i+1+n : i+1+n+int(length)]
		if b := text[0]; b > '9' || b < '+' { // most strings are not numbers
			continue
		}
		if len(bytes.Trim(text, "0123456789+-.eE")) == 0 {
			if err := checkQuantity(string(text)); err != nil {
				return err
			}
		}
	}
	return nil
}

var quantityTypes sync.Map // reflect.Type -> bool

// hasQuantity says whether objects of the type can contain quantities.
func hasQuantity(t reflect.Type) bool {
	if known, ok := quantityTypes.Load(t); ok {
		return known.(bool)
	}
	has := findQuantity(t, map[reflect.Type]bool{})
	quantityTypes.Store(t, has)
	return has
}

func findQuantity(t reflect.Type, seen map[reflect.Type]bool) bool {
	if t == quantityType {
		return true
	}
	if seen[t] {
		return false
	}
	seen[t] = true
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Map:
		return findQuantity(t.Elem(), seen)
	case reflect.Struct:
		for i := range t.NumField() {
			if findQuantity(t.Field(i).Type, seen) {
				return true
			}
		}
	}
	return false
}
