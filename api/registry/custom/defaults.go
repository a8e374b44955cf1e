package custom

import (
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// maxDefaults is how much defaults may add to an object: those of lists' items and of maps' values multiply, and what a small request asks for
// would not fit into memory. An object that can be stored has less.
const maxDefaults = 16 << 20

// setDefaults gives an object the defaults of its schema, unless that is too much.
func (c *compiled) setDefaults(u *unstructured.Unstructured) {
	if !c.overflows(u) {
		defaulting.Default(u.Object, c.structural)
	}
}

// validateDefaults refuses an object that setDefaults has left alone.
func (c *compiled) validateDefaults(u *unstructured.Unstructured) field.ErrorList {
	if !c.overflows(u) {
		return nil
	}
	return field.ErrorList{field.TooLong(nil, "", maxDefaults)}
}

func (c *compiled) overflows(u *unstructured.Unstructured) bool {
	if c.defaults == 0 || containers(u.Object)*c.defaults <= maxDefaults {
		return false
	}
	left := maxDefaults
	spend(u.Object, c.structural, &left)
	return left < 0
}

// defaultsOf returns the size of all defaults of a schema, with the defaults within each. A map or list of an object gets each of them at most once,
// so most objects are known to be small without looking at what they get.
func defaultsOf(s *structuralschema.Structural) (size int) {
	if s == nil {
		return 0
	}
	if s.Default.Object != nil {
		left := maxDefaults
		spendCopy(s.Default.Object, s, &left)
		size = maxDefaults - left
	}
	size += defaultsOf(s.Items)
	if s.AdditionalProperties != nil {
		size += defaultsOf(s.AdditionalProperties.Structural)
	}
	for name := range s.Properties {
		property := s.Properties[name]
		size += len(name) + defaultsOf(&property)
	}
	return size
}

// containers returns how many places for defaults a value has: its maps, and the items of its lists and maps.
func containers(value any) (n int) {
	switch value := value.(type) {
	case map[string]any:
		n = 1
		for _, field := range value {
			n += 1 + containers(field)
		}
	case []any:
		n = 1
		for _, item := range value {
			n += 1 + containers(item)
		}
	}
	return n
}

// spend takes from what is left what the defaults would add to a value, as defaulting.Default gives them; it ends when nothing is left.
func spend(value any, s *structuralschema.Structural, left *int) {
	if s == nil || *left < 0 {
		return
	}
	switch value := value.(type) {
	case map[string]any:
		for name := range s.Properties {
			property := s.Properties[name]
			if _, found := value[name]; property.Default.Object == nil || found && !lacks(value[name], &property) {
				continue
			}
			*left -= len(name)
			spendCopy(property.Default.Object, &property, left)
		}
		for name, field := range value {
			property, found := s.Properties[name]
			switch {
			case found:
				spend(field, &property, left)
			case s.AdditionalProperties != nil && lacks(field, s.AdditionalProperties.Structural):
				spendCopy(s.AdditionalProperties.Structural.Default.Object, s.AdditionalProperties.Structural, left)
			case s.AdditionalProperties != nil:
				spend(field, s.AdditionalProperties.Structural, left)
			}
		}
	case []any:
		for _, item := range value {
			if lacks(item, s.Items) {
				spendCopy(s.Items.Default.Object, s.Items, left)
			} else {
				spend(item, s.Items, left)
			}
		}
	}
}

// lacks says whether a null stands for a default.
func lacks(value any, s *structuralschema.Structural) bool {
	return value == nil && s != nil && !s.Nullable
}

// spendCopy takes a copy of a default, with the defaults within.
func spendCopy(value any, s *structuralschema.Structural, left *int) {
	spendSize(value, left)
	spend(value, s, left)
}

func spendSize(value any, left *int) {
	if *left -= 8; *left < 0 {
		return
	}
	switch value := value.(type) {
	case string:
		*left -= len(value)
	case map[string]any:
		for name, field := range value {
			*left -= len(name)
			spendSize(field, left)
		}
	case []any:
		for _, item := range value {
			spendSize(item, left)
		}
	}
}
