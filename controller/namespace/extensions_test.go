package namespace_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/namespace"
	"github.com/kontiki/kontiki/internal/broadcast"
	"github.com/kontiki/kontiki/test/harness"
)

// elsewhere are the resources of extension API servers: flunders, whose collections can be deleted, and fischers, of which each is deleted.
type elsewhere struct {
	client *fake.FakeMetadataClient

	mu      sync.Mutex
	unknown map[schema.GroupVersion]error
	changed broadcast.Signal
}

var flunders = schema.GroupVersionResource{Group: "wardle.example.com", Version: "v1alpha1", Resource: "flunders"}
var fischers = flunders.GroupVersion().WithResource("fischers")

func newElsewhere(t *testing.T) *elsewhere {
	t.Helper()
	scheme := fake.NewTestScheme()
	if err := metav1.AddMetaToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	object := func(kind, namespace, name string, finalizers ...string) runtime.Object {
		return &metav1.PartialObjectMetadata{TypeMeta: metav1.TypeMeta{APIVersion: flunders.GroupVersion().String(), Kind: kind},
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Finalizers: finalizers}}
	}
	return &elsewhere{client: fake.NewSimpleMetadataClient(scheme,
		object("Flunder", "doomed", "a"), object("Flunder", "doomed", "b", "example.com/hold"), object("Flunder", "default", "a"),
		object("Fischer", "doomed", "a"), object("Fischer", "doomed", "b"), object("Fischer", "default", "a"))}
}

func (e *elsewhere) extensions() *namespace.Extensions {
	return &namespace.Extensions{
		Resources: func() ([]metav1.APIResource, map[schema.GroupVersion]error) {
			e.mu.Lock()
			defer e.mu.Unlock()
			resource := func(r schema.GroupVersionResource, verbs ...string) metav1.APIResource {
				return metav1.APIResource{Group: r.Group, Version: r.Version, Name: r.Resource, Namespaced: true, Verbs: verbs}
			}
			return []metav1.APIResource{resource(flunders, "list", "delete", "deletecollection"), resource(fischers, "list", "delete")}, e.unknown
		},
		Changed:  e.changed.Next,
		Metadata: func() (metadata.Interface, error) { return e.client, nil },
	}
}

func (e *elsewhere) setUnknown(unknown map[schema.GroupVersion]error) {
	e.mu.Lock()
	e.unknown = unknown
	e.mu.Unlock()
	e.changed.Tell()
}

// names returns the objects of a resource in a namespace.
func (e *elsewhere) names(t *testing.T, r schema.GroupVersionResource, namespace string) (names []string) {
	t.Helper()
	list, err := e.client.Resource(r).Namespace(namespace).List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, item := range list.Items {
		names = append(names, item.Name)
	}
	slices.Sort(names)
	return names
}

func remove(t *testing.T, h *harness.Harness, name string) {
	t.Helper()
	controllertest.Create(t, h.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	controllertest.Create(t, h.Client, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "s"}})
	if err := h.Client.Delete(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}); err != nil {
		t.Fatal(err)
	}
}

// TestWhatExtensionsKeepIsDeleted with its namespace, and in no other; what does not go holds the namespace, and is reported.
func TestWhatExtensionsKeepIsDeleted(t *testing.T) {
	h := harness.New(t)
	e := newElsewhere(t)
	released := make(chan struct{})
	e.client.PrependReactor("delete-collection", "flunders", func(action clienttesting.Action) (bool, runtime.Object, error) {
		tracker := e.client.Tracker()
		names := []string{"a", "b"}
		select {
		case <-released:
		default:
			names = names[:1] // b has a finalizer
		}
		for _, name := range names {
			tracker.Delete(flunders, action.GetNamespace(), name) // it may be gone
		}
		return true, nil, nil
	})
	controllertest.Run(t, h.Client, namespace.New(h.Client, e.extensions()))
	remove(t, h, "doomed")
	controllertest.Await(t, h.Client, "", "doomed", "the object with a finalizer to be reported", func(ns *corev1.Namespace) bool {
		return conditionIs(ns, corev1.NamespaceContentRemaining, corev1.ConditionTrue, "Some resources are remaining: flunders.wardle.example.com has 1 resource instances") &&
			conditionIs(ns, corev1.NamespaceFinalizersRemaining, corev1.ConditionTrue, "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances") &&
			conditionIs(ns, corev1.NamespaceDeletionDiscoveryFailure, corev1.ConditionFalse, "All resources successfully discovered")
	})
	close(released)
	e.changed.Tell()
	controllertest.AwaitGone[*corev1.Namespace](t, h.Client, "", "doomed")
	for _, r := range []schema.GroupVersionResource{flunders, fischers} {
		if left, others := e.names(t, r, "doomed"), e.names(t, r, "default"); len(left) > 0 || !slices.Equal(others, []string{"a"}) {
			t.Errorf("%s: %q left, elsewhere %q", r.Resource, left, others)
		}
	}
}

// TestUnknownExtensionsHoldTheNamespace: it has upstream's condition until they are known, and everything else is deleted meanwhile.
func TestUnknownExtensionsHoldTheNamespace(t *testing.T) {
	h := harness.New(t)
	e := newElsewhere(t)
	e.client.PrependReactor("delete-collection", "flunders", func(action clienttesting.Action) (bool, runtime.Object, error) {
		for _, name := range []string{"a", "b"} {
			e.client.Tracker().Delete(flunders, action.GetNamespace(), name)
		}
		return true, nil, nil
	})
	gone := schema.GroupVersion{Group: "gone.example.com", Version: "v1"}
	e.setUnknown(map[schema.GroupVersion]error{gone: errors.New("stale GroupVersion discovery: gone.example.com/v1")})
	controllertest.Run(t, h.Client, namespace.New(h.Client, e.extensions()))
	remove(t, h, "doomed")
	controllertest.Await(t, h.Client, "", "doomed", "the failure of discovery to be reported", func(ns *corev1.Namespace) bool {
		return conditionIs(ns, corev1.NamespaceDeletionDiscoveryFailure, corev1.ConditionTrue,
			"Discovery failed for some groups, 1 failing: unable to retrieve the complete list of server APIs: gone.example.com/v1: stale GroupVersion discovery: gone.example.com/v1") &&
			conditionIs(ns, corev1.NamespaceDeletionContentFailure, corev1.ConditionFalse, "All content successfully deleted, may be waiting on finalization") &&
			conditionIs(ns, corev1.NamespaceContentRemaining, corev1.ConditionFalse, "All content successfully removed")
	})
	controllertest.AwaitGone[*corev1.Secret](t, h.Client, "doomed", "s")
	if left := e.names(t, flunders, "doomed"); len(left) > 0 {
		t.Errorf("%q left", left)
	}
	e.setUnknown(nil)
	controllertest.AwaitGone[*corev1.Namespace](t, h.Client, "", "doomed")
}

// TestAFailingExtensionHoldsTheNamespace, with its error, until it does not fail any more.
func TestAFailingExtensionHoldsTheNamespace(t *testing.T) {
	h := harness.New(t)
	e := newElsewhere(t)
	var mu sync.Mutex
	fails := true
	e.client.PrependReactor("list", "fischers", func(clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		return fails, nil, errors.New("out of order")
	})
	e.client.PrependReactor("delete-collection", "flunders", func(action clienttesting.Action) (bool, runtime.Object, error) {
		for _, name := range []string{"a", "b"} {
			e.client.Tracker().Delete(flunders, action.GetNamespace(), name)
		}
		return true, nil, nil
	})
	controllertest.Run(t, h.Client, namespace.New(h.Client, e.extensions()))
	remove(t, h, "doomed")
	controllertest.Await(t, h.Client, "", "doomed", "the error to be reported", func(ns *corev1.Namespace) bool {
		return conditionIs(ns, corev1.NamespaceDeletionContentFailure, corev1.ConditionTrue,
			"Failed to delete all resource types, 1 remaining: delete the fischers.wardle.example.com of namespace doomed: out of order")
	})
	mu.Lock()
	fails = false
	mu.Unlock()
	controllertest.AwaitGone[*corev1.Namespace](t, h.Client, "", "doomed")
	if left := e.names(t, fischers, "doomed"); len(left) > 0 {
		t.Errorf("%q left", left)
	}
}
