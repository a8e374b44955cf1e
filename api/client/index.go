package client

import (
	"context"
	"reflect"
	"slices"
	"sync"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

// Index finds objects of a kind by keys that are computed from each object, such as the UID of its owner, so that the cost of a
// lookup depends on the number of objects found and not on the size of the namespace. An Index is a definition, usually a package
// variable; each Client builds its own data for it on first use.
//
// An index stores only names. At each lookup it reads the changes since the previous one from the store's history, or is built
// again if the history does not reach back far enough.
type Index[T Object] struct {
	keys func(obj T, add func(key string))
}

// NewIndex defines an index. keys calls add with each of an object's keys; it must depend only on the object.
func NewIndex[T Object](keys func(obj T, add func(key string))) *Index[T] { return &Index[T]{keys} }

// Any returns the objects that have at least one of the keys, in order of their names. They are shared and read-only, and all of
// one revision, which is the view's or a later one.
func (x *Index[T]) Any(v View, keys ...string) []T {
	return x.find(v, func(state *indexed) (names []string) {
		for i, key := range keys {
			for name := range state.names[key] {
				if !state.hasAny(name, keys[:i]) {
					names = append(names, name)
				}
			}
		}
		return names
	})
}

// All returns the objects that have all of the keys, of which there must be at least one; otherwise it is like Any.
func (x *Index[T]) All(v View, keys ...string) []T {
	return x.find(v, func(state *indexed) (names []string) {
		rarest := slices.MinFunc(keys, func(a, b string) int { return len(state.names[a]) - len(state.names[b]) })
		for name := range state.names[rarest] {
			if state.hasAll(name, keys) {
				names = append(names, name)
			}
		}
		return names
	})
}

func (x *Index[T]) find(v View, choose func(*indexed) []string) []T {
	kind := v.client.kindOf(reflect.TypeFor[T]())
	loaded, ok := v.client.indexes.Load(x)
	if !ok {
		loaded, _ = v.client.indexes.LoadOrStore(x, &indexed{})
	}
	names, at := loaded.(*indexed).at(v, kind, x.keysOf, choose)
	slices.Sort(names)
	out := make([]T, 0, len(names))
	for _, name := range names {
		if version, ok := at.View.Get(name); ok {
			if obj, ok := decode[T](at, kind, version); ok {
				out = append(out, obj)
			}
		}
	}
	return out
}

// keysOf returns an object's keys, or none if it cannot be decoded.
func (x *Index[T]) keysOf(v View, kind *registry.Kind, version *kv.Version) (keys []string) {
	obj, ok := decode[T](v, kind, version)
	if !ok {
		return nil
	}
	x.keys(obj, func(key string) {
		if !slices.Contains(keys, key) {
			keys = append(keys, key)
		}
	})
	return keys
}

// indexed is one client's data for an index, at a revision.
type indexed struct {
	mu       sync.Mutex
	made     bool
	revision uint64
	names    map[string]map[string]struct{} // from index key to the store's keys of objects
	keys     map[string][]string            // from an object's key in the store to its index keys
}

type keysOf func(View, *registry.Kind, *kv.Version) []string

// at brings the index to the view's revision, unless it is already ahead of it, and returns the objects that choose selects.
func (x *indexed) at(v View, kind *registry.Kind, of keysOf, choose func(*indexed) []string) ([]string, View) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.made && v.Revision() < x.revision {
		v = v.client.View()
	}
	if !x.made || (v.Revision() != x.revision && !x.follow(v, kind, of)) {
		x.make(v, kind, of)
	}
	return choose(x), v
}

func (x *indexed) make(v View, kind *registry.Kind, of keysOf) {
	x.made = false // until it is complete
	x.names, x.keys = map[string]map[string]struct{}{}, map[string][]string{}
	prefix := kind.Prefix()
	v.Range(prefix, kv.PrefixEnd(prefix), func(version *kv.Version) bool {
		x.set(version.Key, of(v, kind, version))
		return true
	})
	x.made, x.revision = true, v.Revision()
}

// follow applies the history up to the view's revision; it returns false if the history does not reach back far enough.
func (x *indexed) follow(v View, kind *registry.Kind, of keysOf) bool {
	watcher, err := v.client.objects.Store().Watch(kind.Prefix(), x.revision)
	if err != nil {
		return false
	}
	defer watcher.Close()
	x.made = false // in case of a panic
	// Everything up to the view's revision is already in the history, so Next need not wait.
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	for progress := x.revision; progress < v.Revision(); {
		var events []*kv.Event
		events, progress, err = watcher.Next(ended)
		if err != nil && ended.Err() != err {
			return false
		}
		for _, event := range events {
			switch {
			case event.Revision > v.Revision():
				progress = event.Revision // the rest is left for the next lookup
			case event.Type == kv.Put:
				x.set(event.Current.Key, of(v, kind, event.Current))
			default:
				x.set(event.Current.Key, nil)
			}
		}
		if err != nil && progress < v.Revision() {
			return false
		}
	}
	x.made, x.revision = true, v.Revision()
	return true
}

// set replaces the index keys of an object.
func (x *indexed) set(name string, keys []string) {
	before := x.keys[name]
	if slices.Equal(before, keys) {
		return
	}
	for _, key := range before {
		if delete(x.names[key], name); len(x.names[key]) == 0 {
			delete(x.names, key)
		}
	}
	if len(keys) == 0 {
		delete(x.keys, name)
		return
	}
	x.keys[name] = keys
	for _, key := range keys {
		if x.names[key] == nil {
			x.names[key] = map[string]struct{}{}
		}
		x.names[key][name] = struct{}{}
	}
}

func (x *indexed) hasAny(name string, keys []string) bool {
	return slices.ContainsFunc(keys, func(key string) bool { _, ok := x.names[key][name]; return ok })
}

func (x *indexed) hasAll(name string, keys []string) bool {
	return !slices.ContainsFunc(keys, func(key string) bool { _, ok := x.names[key][name]; return !ok })
}
