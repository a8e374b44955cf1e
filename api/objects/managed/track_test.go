package managed

import (
	"bytes"
	"math/rand"
	"reflect"
	"slices"
	"strings"
	"testing"

	extensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/fuzzer"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	apitesting "k8s.io/kubernetes/pkg/api/testing"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/api/registry/builtin"
)

// upstreamManager is a field manager as the upstream API server creates it.
func upstreamManager(t *testing.T, kind *registry.Kind, subresource string, converter managedfields.TypeConverter) *managedfields.FieldManager {
	t.Helper()
	reset := map[fieldpath.APIVersion]fieldpath.Filter{}
	if strategy, _ := kind.StrategyFor(subresource); len(strategy.ResetFields) > 0 {
		set := fieldpath.NewSet()
		for _, path := range strategy.ResetFields {
			set.Insert(fieldpath.MakePathOrDie(parts(path)...))
		}
		reset[fieldpath.APIVersion(kind.GroupVersion().String())] = fieldpath.NewExcludeSetFilter(set)
	}
	fm, err := managedfields.NewDefaultFieldManager(converter, registry.Scheme, registry.Scheme, registry.Scheme,
		kind.GVK(), kind.GroupVersion(), subresource, reset)
	if err != nil {
		t.Fatal(err)
	}
	return fm
}

// timeless returns the part of managed fields that must be equal. Their order depends on their times, and the two that are compared
// may have been written in different seconds.
func timeless(t *testing.T, entries []metav1.ManagedFieldsEntry) []metav1.ManagedFieldsEntry {
	var out []metav1.ManagedFieldsEntry
	for _, e := range entries {
		if e.Time == nil {
			t.Error("an entry has no time")
		}
		e.Time = nil
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b metav1.ManagedFieldsEntry) int {
		return strings.Compare(a.Manager+" "+string(a.Operation)+" "+a.Subresource, b.Manager+" "+string(b.Operation)+" "+b.Subresource)
	})
	return out
}

// mix takes over some of the fields of another object, down to those of items of lists.
func mix(random *rand.Rand, to, from reflect.Value) {
	switch {
	case random.Intn(3) == 0 && to.CanSet():
		to.Set(from)
	case to.Kind() == reflect.Struct:
		for i := range to.NumField() {
			if to.Type().Field(i).IsExported() {
				mix(random, to.Field(i), from.Field(i))
			}
		}
	case to.Kind() == reflect.Pointer && !to.IsNil() && !from.IsNil():
		mix(random, to.Elem(), from.Elem())
	case to.Kind() == reflect.Slice:
		for i := range min(to.Len(), from.Len()) {
			mix(random, to.Index(i), from.Index(i))
		}
	}
}

// TestTrackingEqualsUpstreams: random writes by several managers result in the same managed fields as those of the upstream field
// manager, which compares the whole objects.
func TestTrackingEqualsUpstreams(t *testing.T) {
	funcs := fuzzer.MergeFuzzerFuncs(apitesting.FuzzerFuncs, extensions.Funcs)
	compared, nonEmpty := 0, 0
	for _, kind := range builtin.Kinds().Kinds() {
		t.Run(kind.GVK().String(), func(t *testing.T) {
			f := New()
			random := rand.New(rand.NewSource(7))
			filler := fuzzer.FuzzerFor(funcs, random, registry.Codecs)
			// next returns a random object of one identity. It takes parts from another object, so that there are small changes, too.
			next := func(like registry.Object) registry.Object {
				internal, err := kind.ToInternal(kind.New())
				if err != nil {
					t.Fatal(err)
				}
				filler.Fill(internal)
				obj, err := kind.FromInternal(internal)
				if err != nil {
					t.Fatal(err)
				}
				if like != nil {
					mix(random, reflect.ValueOf(obj).Elem(), reflect.ValueOf(like.DeepCopyObject()).Elem())
				}
				obj.SetName("a")
				obj.SetUID("")
				obj.SetManagedFields(nil)
				obj.GetObjectKind().SetGroupVersionKind(kind.GVK())
				// Decoded, as all objects are: quantities and empty lists have one form then.
				value, err := kind.Store(obj)
				if err != nil {
					t.Fatal(err)
				}
				if obj, err = kind.Load(value); err != nil {
					t.Fatal(err)
				}
				return obj
			}
			subresources := []string{""}
			if kind.Status != nil {
				subresources = append(subresources, "status")
			}
			for range 12 {
				live := Empty(kind)
				for step := range 6 {
					w := Write{Kind: kind, Manager: []string{"one", "two", "three"}[random.Intn(3)]}
					like := live
					if step == 0 {
						like = nil
					} else {
						w.Subresource = subresources[random.Intn(len(subresources))]
					}
					obj := next(like)
					if step > 0 && random.Intn(2) == 0 {
						obj.SetManagedFields(live.GetManagedFields()) // as clients that send back what they read do
					}
					result, err := upstreamManager(t, kind, w.Subresource, kind.Codec.Fields()).Update(live.DeepCopyObject(), obj.DeepCopyObject(), w.Manager)
					if err != nil {
						continue // an item of a list lacks the key by which it is known: upstream records nothing then
					}
					want := result.(registry.Object)
					before, _ := registry.MarshalProto(live)
					for range 2 { // the second time a creation is remembered
						got, err := f.Track(w, obj.DeepCopyObject().(registry.Object), live)
						if err != nil {
							t.Fatal(err)
						}
						if a, b := timeless(t, got.GetManagedFields()), timeless(t, want.GetManagedFields()); !reflect.DeepEqual(a, b) {
							t.Fatalf("step %d, %q by %s:\n%v\nupstream:\n%v", step, w.Subresource, w.Manager, a, b)
						}
						compared++
						nonEmpty += len(got.GetManagedFields())
					}
					if after, _ := registry.MarshalProto(live); !bytes.Equal(before, after) {
						t.Fatal("the stored object was written to")
					}
					live = want
					live.SetUID(types.UID("u"))
				}
			}
		})
	}
	t.Logf("%d writes, %d entries", compared, nonEmpty)
	if nonEmpty < compared {
		t.Errorf("%d writes left only %d entries: this compares nothing", compared, nonEmpty)
	}
}

// TestTemplatesShareFieldsNotValues: names and values of labels make no difference, everything else does.
func TestTemplatesShareFieldsNotValues(t *testing.T) {
	kind, _ := builtin.Kinds().ByResource("", "v1", "configmaps")
	w := Write{Kind: kind}
	key := func(change func(registry.Object)) templateKey {
		obj := kind.New()
		obj.SetName("a")
		obj.SetLabels(map[string]string{"l": "1"})
		change(obj)
		k, ok := templateOf(w, obj)
		if !ok {
			t.Fatal("no key")
		}
		return k
	}
	base := key(func(registry.Object) {})
	for name, change := range map[string]func(registry.Object){
		"name": func(o registry.Object) { o.SetName("b") }, "uid": func(o registry.Object) { o.SetUID("u") },
		"a label's value": func(o registry.Object) { o.SetLabels(map[string]string{"l": "2"}) },
	} {
		if key(change) != base {
			t.Errorf("%s makes a template of its own", name)
		}
	}
	for name, change := range map[string]func(registry.Object){
		"a label":       func(o registry.Object) { o.SetLabels(map[string]string{"m": "1"}) },
		"an annotation": func(o registry.Object) { o.SetAnnotations(map[string]string{"m": "1"}) },
		"a finalizer":   func(o registry.Object) { o.SetFinalizers([]string{"x/y"}) },
		"an owner":      func(o registry.Object) { o.SetOwnerReferences([]metav1.OwnerReference{{UID: "1"}}) },
		"generateName":  func(o registry.Object) { o.SetGenerateName("g-") },
	} {
		if key(change) == base {
			t.Errorf("%s makes no difference", name)
		}
	}
}
