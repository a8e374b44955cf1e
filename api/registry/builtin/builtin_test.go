package builtin

import (
	"math/rand"
	"reflect"
	"testing"

	extensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/fuzzer"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/diff"
	apitesting "k8s.io/kubernetes/pkg/api/testing"

	"github.com/kontiki/kontiki/api/registry"
)

// each runs a test for every row.
func each(t *testing.T, test func(t *testing.T, k *registry.Kind)) {
	for _, k := range Kinds().Kinds() {
		t.Run(k.GVK().String(), func(t *testing.T) { test(t, k) })
	}
}

func emptyInternal(t *testing.T, k *registry.Kind) runtime.Object {
	t.Helper()
	internal, err := k.ToInternal(k.New())
	if err != nil {
		t.Fatal(err)
	}
	return internal
}

func TestNamesAgreeWithTheScheme(t *testing.T) {
	each(t, func(t *testing.T, k *registry.Kind) {
		objects := map[runtime.Object]schema.GroupVersionKind{
			k.New(): k.GVK(), emptyInternal(t, k): {Group: "", Version: runtime.APIVersionInternal, Kind: k.Kind},
		}
		if k.Serves("list") {
			objects[k.NewList()] = k.GroupVersion().WithKind(k.Kind + "List")
			if _, err := meta.ListAccessor(k.NewList()); err != nil {
				t.Error(err)
			}
		}
		for object, want := range objects {
			kinds, _, err := registry.Scheme.ObjectKinds(object)
			if err != nil {
				t.Fatal(err)
			}
			if want.Version == runtime.APIVersionInternal {
				want.Group = kinds[0].Group // events of events.k8s.io are core's inside
			}
			found := false
			for _, kind := range kinds {
				found = found || kind == want
			}
			if !found {
				t.Errorf("%T is %v in the scheme, want %v", object, kinds, want)
			}
		}
		plural, _ := meta.UnsafeGuessKindToResource(k.GVK())
		if k.Resource != plural.Resource && k.Kind != "Endpoints" && k.Group != "metrics.k8s.io" { // whose resources are named like what they are about
			t.Errorf("resource %s of %s, want %s", k.Resource, k.Kind, plural.Resource)
		}
	})
}

func TestEveryFieldNameIsSelectable(t *testing.T) {
	each(t, func(t *testing.T, k *registry.Kind) {
		obj := k.New()
		set := k.SelectableFields(obj)
		for _, name := range append([]string{"metadata.name"}, k.FieldNames...) {
			if err := k.CheckFieldSelector(fields.OneTermEqualSelector(name, "x")); err != nil {
				t.Error(err)
			}
			if _, ok := set[name]; !ok && name != "status.podIPs" { // offered and always empty upstream too
				t.Errorf("%s is offered and never set", name)
			}
		}
		if len(set) < len(k.FieldNames) {
			t.Errorf("fields %v, offered %v", set, k.FieldNames)
		}
		if err := k.CheckFieldSelector(fields.OneTermEqualSelector("data.colour", "x")); err == nil {
			t.Error("an unknown field can be selected on")
		}
	})
}

func TestSubresourcesHaveStrategies(t *testing.T) {
	each(t, func(t *testing.T, k *registry.Kind) {
		if _, ok := k.StrategyFor(""); !ok {
			t.Error("no way to write the object itself")
		}
		if _, ok := k.StrategyFor("status"); ok != (k.Status != nil) {
			t.Error("status")
		}
		if _, ok := k.StrategyFor("colour"); ok {
			t.Error("an unknown subresource has a strategy")
		}
		if k.Scale != nil {
			obj := k.New()
			k.Scale.Set(obj, 7)
			if replicas, _, _ := k.Scale.Get(obj); replicas != 7 {
				t.Errorf("scale is %d after it was set to 7", replicas)
			}
		}
	})
}

// TestConversionRoundTrip: every field of an object survives the conversion to the internal form and back, and to the stored bytes
// and back.
func TestConversionRoundTrip(t *testing.T) {
	funcs := fuzzer.MergeFuzzerFuncs(apitesting.FuzzerFuncs, extensions.Funcs)
	each(t, func(t *testing.T, k *registry.Kind) {
		filler := fuzzer.FuzzerFor(funcs, rand.NewSource(1), registry.Codecs)
		for range 50 {
			internal := emptyInternal(t, k)
			filler.Fill(internal)
			obj, err := k.FromInternal(internal.DeepCopyObject())
			if err != nil {
				t.Fatal(err)
			}
			if obj.GetObjectKind().GroupVersionKind() != k.GVK() {
				t.Fatalf("its type is %s", obj.GetObjectKind().GroupVersionKind())
			}
			back, err := k.ToInternal(obj.DeepCopyObject())
			if err != nil {
				t.Fatal(err)
			}
			again, err := k.FromInternal(back)
			if err != nil {
				t.Fatal(err)
			}
			if !apiequality.Semantic.DeepEqual(obj, again) {
				t.Fatalf("converted and converted back, it differs: %s", diff.Diff(obj, again))
			}
			value, err := k.Store(obj)
			if err != nil {
				t.Fatal(err)
			}
			decoded, err := k.Load(value)
			if err != nil {
				t.Fatal(err)
			}
			decoded.SetResourceVersion(obj.GetResourceVersion())
			if !apiequality.Semantic.DeepEqual(obj, decoded) {
				t.Fatalf("stored and loaded, it differs: %s", diff.Diff(obj, decoded))
			}
		}
	})
}

// TestMetadataAlone: the metadata that is read from stored bytes alone is that of the whole object.
func TestMetadataAlone(t *testing.T) {
	each(t, func(t *testing.T, k *registry.Kind) {
		obj := k.New()
		obj.SetName("a")
		obj.SetUID("u")
		obj.SetResourceVersion("7")
		obj.SetLabels(map[string]string{"x": "y"})
		obj.SetFinalizers([]string{"f"})
		obj.GetObjectKind().SetGroupVersionKind(k.GVK())
		value, err := k.Store(obj)
		if err != nil {
			t.Fatal(err)
		}
		if obj.GetResourceVersion() != "7" {
			t.Error("storing changed the object")
		}
		loaded, err := k.Load(value)
		if err != nil {
			t.Fatal(err)
		}
		m, err := k.Meta(value)
		if err != nil {
			t.Fatal(err)
		}
		if m.GetResourceVersion() != "" || m.GroupVersionKind() != k.GVK() || loaded.GetObjectKind().GroupVersionKind() != k.GVK() {
			t.Errorf("metadata %+v, object %+v", m, loaded)
		}
		if m.Name != loaded.GetName() || m.UID != loaded.GetUID() || !reflect.DeepEqual(m.Labels, loaded.GetLabels()) || !reflect.DeepEqual(m.Finalizers, loaded.GetFinalizers()) {
			t.Errorf("metadata %+v, object %+v", m, loaded)
		}
		for n := range value {
			k.Meta(value[:n]) // no panic
		}
	})
}

// TestWhatIsOnlyStoredIsWarnedOf: a kind on which nothing acts says so.
func TestWhatIsOnlyStoredIsWarnedOf(t *testing.T) {
	k, _ := Kinds().ByGroupResource("networking.k8s.io", "networkpolicies")
	internal := emptyInternal(t, k)
	for what, texts := range map[string][]string{"create": k.WarnCreate(t.Context(), internal), "update": k.WarnUpdate(t.Context(), internal, internal)} {
		if len(texts) == 0 || texts[0] != "networkpolicies: stored, but not enforced yet: all traffic passes" {
			t.Errorf("%s: %q", what, texts)
		}
	}
}

// TestStatusOfNewObjects: what upstream sets in the status of new objects, some of it when it reads them from the store.
func TestStatusOfNewObjects(t *testing.T) {
	for resource, want := range map[string]string{"pods": "Pending", "namespaces": "Active", "persistentvolumes": "Pending", "persistentvolumeclaims": "Pending"} {
		k, _ := Kinds().ByGroupResource("", resource)
		internal := emptyInternal(t, k)
		k.PrepareCreate(t.Context(), internal)
		obj, err := k.FromInternal(internal)
		if err != nil {
			t.Fatal(err)
		}
		fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(obj)
		if err != nil {
			t.Fatal(err)
		}
		if got := fields["status"].(map[string]any)["phase"]; got != want {
			t.Errorf("a new one of %s is %v, want %s", resource, got, want)
		}
	}
}
