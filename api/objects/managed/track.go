package managed

import (
	"crypto/sha256"
	"encoding/json"
	"maps"
	"reflect"
	"slices"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/recent"
)

// Managed fields are the most expensive part of a write. There are three optimizations, all of which give exactly the field
// manager's result for the whole objects (the tests compare them on random objects):
//
//   - What a kind of write ignores (the spec, when a status is written) is removed from both objects before they are compared: the
//     field manager compares it and then drops the result.
//   - Which fields a new object has depends neither on its name nor on the values of its labels and annotations. Objects created from
//     one template, as replicas are, share the result.
//   - An update of an object compares only the parts that differ, and decodes and encodes only sets of fields that have not been seen
//     before (owned.go). It does not fail, as the field manager does, if an item in a part that stays the same lacks the key by which
//     it is known.

// Track records in obj's managed fields what its writer changed compared with old (an empty object for a creation), which is only
// read.
func (f *Fields) Track(w Write, obj, old registry.Object) (registry.Object, error) {
	fm, err := f.of(w.Kind, w.Subresource)
	if err != nil {
		return nil, err
	}
	orderFields(obj)
	created := old.GetUID() == "" && obj.GetManagedFields() == nil
	var key templateKey
	if created {
		var ok bool
		if key, ok = templateOf(w, obj); !ok {
			created = false
		} else if fields, ok := f.templates.Get(key); ok {
			obj.SetManagedFields(entriesNow(fields, w.manager()))
			return obj, nil
		}
	}
	if entries, ok := fm.updated(w, obj, old); ok {
		obj.SetManagedFields(entries)
		return obj, nil
	}
	newPart, oldPart := prune(w, obj), prune(w, old)
	tracked := fm.UpdateNoErrors(oldPart, newPart, w.manager()).(registry.Object)
	obj.SetManagedFields(tracked.GetManagedFields())
	if created {
		f.templates.Put(key, slices.Clone(obj.GetManagedFields()), 1)
	}
	return obj, nil
}

// prune returns a shallow copy of the object without the parts that this kind of write ignores.
func prune(w Write, obj registry.Object) registry.Object {
	copied := shallow(obj)
	strategy, ok := w.Kind.StrategyFor(w.Subresource)
	if !ok {
		return copied
	}
	if u, ok := copied.(*unstructured.Unstructured); ok {
		for _, path := range strategy.ResetFields {
			if path != "metadata" {
				delete(u.Object, path)
			}
		}
		return copied
	}
	value := reflect.ValueOf(copied).Elem()
	for path, field := range map[string]string{"spec": "Spec", "status": "Status"} {
		if part := value.FieldByName(field); part.IsValid() && slices.Contains(strategy.ResetFields, path) {
			part.SetZero()
		}
	}
	return copied
}

// shallow returns a copy that shares all but the fields and the metadata.
func shallow(obj registry.Object) registry.Object {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		copied := &unstructured.Unstructured{Object: maps.Clone(u.Object)}
		if metadata, ok := u.Object["metadata"].(map[string]any); ok {
			copied.Object["metadata"] = maps.Clone(metadata)
		}
		return copied
	}
	from := reflect.ValueOf(obj).Elem()
	to := reflect.New(from.Type())
	to.Elem().Set(from)
	return to.Interface().(registry.Object)
}

// templateKey identifies all objects of a kind that have the same fields.
type templateKey struct {
	kind        *registry.Kind
	subresource string
	sum         [sha256.Size]byte
}

// templateOf returns the key of a new object: a digest of it without the fields that are never in managed fields (name, UID, ...)
// and without the values of its labels and annotations.
func templateOf(w Write, obj registry.Object) (templateKey, bool) {
	bare := prune(w, obj)
	bare.SetName("")
	bare.SetNamespace("")
	bare.SetUID("")
	bare.SetResourceVersion("")
	bare.SetGeneration(0)
	bare.SetSelfLink("")
	bare.SetCreationTimestamp(metav1.Time{})
	bare.SetManagedFields(nil)
	bare.SetLabels(keysOf(obj.GetLabels()))
	bare.SetAnnotations(keysOf(obj.GetAnnotations()))
	data, err := encode(bare)
	if err != nil {
		return templateKey{}, false
	}
	return templateKey{w.Kind, w.Subresource, sha256.Sum256(data)}, true
}

func encode(obj registry.Object) ([]byte, error) {
	if u, ok := obj.(*unstructured.Unstructured); ok {
		return json.Marshal(u.Object)
	}
	return registry.MarshalProto(obj)
}

func keysOf(m map[string]string) map[string]string {
	if len(m) == 0 {
		return m
	}
	keys := make(map[string]string, len(m))
	for key := range m {
		keys[key] = ""
	}
	return keys
}

// entriesNow returns remembered entries with a manager and the present time. Their fields are shared and must not be written to.
func entriesNow(fields []metav1.ManagedFieldsEntry, manager string) []metav1.ManagedFieldsEntry {
	now := metav1.Now()
	now.Time = now.UTC()
	out := slices.Clone(fields)
	for i := range out {
		out[i].Manager, out[i].Time = manager, &now
	}
	return out
}

// templates caches the fields of new objects by template.
type templates = recent.Cache[templateKey, []metav1.ManagedFieldsEntry]

// maxTemplates limits the entries of a generation of the cache.
const maxTemplates = 1024
