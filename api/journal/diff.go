package journal

import (
	"maps"
	"reflect"
	"slices"
	"sort"
	"strconv"
)

// ignored are fields that every write changes.
var ignored = map[string]bool{"metadata.managedFields": true, "metadata.resourceVersion": true, "metadata.generation": true, "apiVersion": true, "kind": true}

// paths collects the paths of what differs between two JSON documents. It keeps no value, except the name or type of a list's item.
type paths struct {
	found []string
	more  bool
}

// changedPaths returns the paths of what differs between two objects, sorted, at most MaxFields, and whether there are more. The objects are not changed.
func changedPaths(before, after map[string]any) (found []string, more bool) {
	p := &paths{}
	p.maps("", before, after)
	sort.Strings(p.found)
	return p.found, p.more
}

func (p *paths) add(path string) {
	if len(p.found) == MaxFields {
		p.more = true
		return
	}
	p.found = append(p.found, cut(path, maxPath))
}

func (p *paths) values(path string, before, after any) {
	if p.more || ignored[path] {
		return
	}
	switch a := after.(type) {
	case map[string]any:
		if b, ok := before.(map[string]any); ok {
			p.maps(path, b, a)
			return
		}
		if before == nil && len(a) > 0 { // the first annotation, for example
			p.keys(path, a)
			return
		}
	case nil:
		if b, ok := before.(map[string]any); ok && len(b) > 0 {
			p.keys(path, b)
			return
		}
	case []any:
		if b, ok := before.([]any); ok {
			p.lists(path, b, a)
			return
		}
	}
	if !reflect.DeepEqual(before, after) {
		p.add(path)
	}
}

func (p *paths) maps(path string, before, after map[string]any) {
	keys := make([]string, 0, len(after))
	for key := range after {
		keys = append(keys, key)
	}
	for key := range before {
		if _, both := after[key]; !both {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys) // so that which paths are left out does not depend on chance
	for _, key := range keys {
		below := key
		if path != "" {
			below = path + "." + key
		}
		p.values(below, before[key], after[key])
	}
}

// keys adds the paths of what is in a map that is new, or gone.
func (p *paths) keys(path string, in map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(in)) {
		p.add(path + "." + key)
	}
}

// lists compares items by their name or type if all have one of their own, otherwise by their place.
func (p *paths) lists(path string, before, after []any) {
	if len(before) == 0 || len(after) == 0 {
		if len(before) != len(after) {
			p.add(path)
		}
		return
	}
	for _, key := range []string{"name", "type"} {
		b, order, ok := byKey(before, key)
		if !ok {
			continue
		}
		a, further, ok := byKey(after, key)
		if !ok {
			continue
		}
		for _, name := range order {
			if _, both := a[name]; both {
				p.values(path+"["+name+"]", b[name], a[name])
			} else {
				p.add(path + "[" + name + "]")
			}
		}
		for _, name := range further {
			if _, both := b[name]; !both {
				p.add(path + "[" + name + "]")
			}
		}
		return
	}
	if len(before) != len(after) {
		p.add(path)
		return
	}
	for i := range after {
		p.values(path+"["+strconv.Itoa(i)+"]", before[i], after[i])
	}
}

// byKey returns the items by the text that they have under a key, and these texts in order; false if an item has none, or not one of its own.
func byKey(items []any, key string) (by map[string]any, order []string, ok bool) {
	by = make(map[string]any, len(items))
	for _, item := range items {
		object, _ := item.(map[string]any)
		name, _ := object[key].(string)
		if _, twice := by[name]; name == "" || twice {
			return nil, nil, false
		}
		by[name] = item
		order = append(order, name)
	}
	return by, order, true
}
