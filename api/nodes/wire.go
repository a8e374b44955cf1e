package nodes

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"k8s.io/apimachinery/pkg/runtime"
)

// checkWire computes, before anything is decoded, how much memory an object takes when it is, and refuses it if that is more than
// most bytes. An empty message is two bytes on the wire, and up to a kilobyte when decoded.
func checkWire(data []byte, into runtime.Object, most int) error {
	raw, err := unwrap(data)
	if err != nil {
		return err
	}
	left := most
	if err := measure(raw, reflect.TypeOf(into).Elem(), &left, 0); err != nil {
		if errors.Is(err, errTooLarge) {
			return fmt.Errorf("the object has too many parts: decoded it takes more than %d bytes", most)
		}
		return err
	}
	return nil
}

var (
	envelope    = []byte("k8s\x00")
	errTooLarge = errors.New("too large")
)

const (
	envelopeRaw  = 2   // the field of a runtime.Unknown that has the object
	maxWireDepth = 100 // of messages in messages
	// mapEntry is what an entry of a map takes in addition to its key and value; a quantity is parsed into several small parts.
	mapEntry = 128
)

// unwrap returns the object in the envelope of Kubernetes' protobuf format.
func unwrap(data []byte) (raw []byte, err error) {
	rest, ok := bytes.CutPrefix(data, envelope)
	if !ok {
		return nil, errors.New("it is not in Kubernetes' protobuf format")
	}
	found := false
	err = eachField(rest, func(number protowire.Number, kind protowire.Type, value []byte) error {
		if number != envelopeRaw || kind != protowire.BytesType {
			return nil
		}
		if found {
			return errors.New("the envelope has several objects")
		}
		raw, found = value, true
		return nil
	})
	return raw, err
}

// eachField calls visit with each field of a message; value is nil if the field is not length-delimited.
func eachField(message []byte, visit func(number protowire.Number, kind protowire.Type, value []byte) error) error {
	for len(message) > 0 {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		var value []byte
		if kind == protowire.BytesType {
			value, n = protowire.ConsumeBytes(message)
		} else {
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			return protowire.ParseError(n)
		}
		message = message[n:]
		if err := visit(number, kind, value); err != nil {
			return err
		}
	}
	return nil
}

// measure subtracts from left what a message of the type takes when decoded.
func measure(message []byte, t reflect.Type, left *int, depth int) error {
	take := func(n int) error {
		if *left -= n; *left < 0 {
			return errTooLarge
		}
		return nil
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if depth > maxWireDepth {
		return errors.New("messages are nested too deeply")
	}
	if err := take(int(t.Size())); err != nil {
		return err
	}
	if t.Kind() != reflect.Struct {
		return take(len(message))
	}
	fields := fieldsOf(t)
	return eachField(message, func(number protowire.Number, kind protowire.Type, value []byte) error {
		field := fields[number]
		if field == nil {
			return take(len(value))
		}
		switch field.Kind() {
		case reflect.Slice:
			element := field.Elem()
			if element.Kind() == reflect.Uint8 {
				return take(len(value))
			}
			if kind == protowire.BytesType && element.Kind() != reflect.Struct && element.Kind() != reflect.String && element.Kind() != reflect.Slice {
				return take(len(value) * int(element.Size())) // packed numbers
			}
			return measure(value, element, left, depth+1)
		case reflect.Map:
			if err := take(mapEntry + int(field.Key().Size()+field.Elem().Size())); err != nil {
				return err
			}
			return eachField(value, func(number protowire.Number, _ protowire.Type, value []byte) error {
				if number == 2 {
					return measure(value, field.Elem(), left, depth+1)
				}
				return take(len(value))
			})
		case reflect.Pointer, reflect.Struct:
			return measure(value, field, left, depth+1)
		}
		return take(len(value))
	})
}

var typesFields sync.Map // reflect.Type -> map[protowire.Number]reflect.Type

// fieldsOf returns the types of a message's fields by their numbers.
func fieldsOf(t reflect.Type) map[protowire.Number]reflect.Type {
	if known, ok := typesFields.Load(t); ok {
		return known.(map[protowire.Number]reflect.Type)
	}
	fields := map[protowire.Number]reflect.Type{}
	for i := range t.NumField() {
		f := t.Field(i)
		if parts := strings.Split(f.Tag.Get("protobuf"), ","); len(parts) > 1 {
			if number, err := strconv.Atoi(parts[1]); err == nil {
				fields[protowire.Number(number)] = f.Type
			}
		}
	}
	typesFields.Store(t, fields)
	return fields
}
