package customresources_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/customresources"
	"github.com/kontiki/kontiki/controller/garbage"
	"github.com/kontiki/kontiki/controller/namespace"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/harness"
)

var ctx = context.Background()

func definition(plural, kind string) *apiextensionsv1.CustomResourceDefinition {
	open := true
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: plural + ".example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: plural, Kind: kind},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{
				OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object", XPreserveUnknownFields: &open},
			}}},
		},
	}
}

func objects(t *testing.T, h *harness.Harness, plural string) dynamic.NamespaceableResourceInterface {
	t.Helper()
	return resource(t, h, "v1", plural)
}

// objectsIn returns the widgets of a namespace in a version.
func objectsIn(t *testing.T, h *harness.Harness, version string) dynamic.ResourceInterface {
	t.Helper()
	return resource(t, h, version, "widgets").Namespace("default")
}

func resource(t *testing.T, h *harness.Harness, version, plural string) dynamic.NamespaceableResourceInterface {
	t.Helper()
	c, err := dynamic.NewForConfig(h.Config("admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	return c.Resource(schema.GroupVersionResource{Group: "example.com", Version: version, Resource: plural})
}

func widget(name string, change func(*unstructured.Unstructured)) *unstructured.Unstructured {
	u := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": map[string]any{"name": name}}}
	if change != nil {
		change(u)
	}
	return u
}

func awaitTrue(t *testing.T, what string, holds func() bool) {
	t.Helper()
	await.That(t, what, func() error {
		if !holds() {
			return errors.New("not yet")
		}
		return nil
	})
}

func gone(t *testing.T, h *harness.Harness, name string) {
	t.Helper()
	awaitTrue(t, name+" to be gone", func() bool {
		_, ok := client.Get[*apiextensionsv1.CustomResourceDefinition](h.Client.View(), "", name)
		return !ok
	})
}

// TestADefinitionEndsWithItsObjects: a definition stays until its last object is gone, and none is created meanwhile.
func TestADefinitionEndsWithItsObjects(t *testing.T) {
	h := harness.New(t)
	controllertest.Run(t, h.Client, customresources.New(h.Client))
	crd := controllertest.Create(t, h.Client, definition("widgets", "Widget"))
	res := objects(t, h, "widgets").Namespace("default")
	for i := range 3 {
		if _, err := res.Create(ctx, widget(fmt.Sprint("w", i), nil), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := res.Create(ctx, widget("held", func(u *unstructured.Unstructured) { u.SetFinalizers([]string{"example.com/hold"}) }), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := h.Client.Delete(ctx, crd); err != nil {
		t.Fatal(err)
	}
	controllertest.Await(t, h.Client, "", crd.Name, "the held object to be reported", func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		c := apihelpers.FindCRDCondition(crd, apiextensionsv1.Terminating)
		return c != nil && c.Reason == "InstanceDeletionCheck"
	})
	if _, err := res.Create(ctx, widget("late", nil), metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("creation while the definition is being deleted: %v", err)
	}
	if _, err := res.Patch(ctx, "held", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	gone(t, h, crd.Name)
	if _, err := res.List(ctx, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a resource without definition is served: %v", err)
	}
	if n := h.Store.View().Count("/example.com/", "/example.com0"); n != 0 {
		t.Errorf("%d objects are left in the store", n)
	}
	if n := h.Store.View().Count("/allocated/customresourcenames/", "/allocated/customresourcenames0"); n != 0 {
		t.Errorf("%d keys of groups are left in the store", n)
	}
}

// TestNamesAreHandedOn: a definition gets the names that another one gives up.
func TestNamesAreHandedOn(t *testing.T) {
	h := harness.New(t)
	controllertest.Run(t, h.Client, customresources.New(h.Client))
	first := controllertest.Create(t, h.Client, definition("widgets", "Widget"))
	second := controllertest.Create(t, h.Client, definition("gadgets", "Widget"))
	if apihelpers.IsCRDConditionTrue(second, apiextensionsv1.Established) {
		t.Fatal("two definitions have one kind")
	}
	if err := h.Client.Delete(ctx, first); err != nil {
		t.Fatal(err)
	}
	controllertest.Await(t, h.Client, "", second.Name, "it to be established", func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		return apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) && crd.Status.AcceptedNames.Kind == "Widget"
	})
	if _, err := objects(t, h, "gadgets").Namespace("default").Create(ctx, widget("a", nil), metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
}

// TestAnUnservedDefinitionEnds: the objects of a definition without served versions are deleted too.
func TestAnUnservedDefinitionEnds(t *testing.T) {
	h := harness.New(t)
	controllertest.Run(t, h.Client, customresources.New(h.Client))
	crd := controllertest.Create(t, h.Client, definition("widgets", "Widget"))
	if _, err := objects(t, h, "widgets").Namespace("default").Create(ctx, widget("a", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	crd = crd.DeepCopy()
	crd.Spec.Versions[0].Served = false
	if _, err := client.Update(ctx, h.Client, crd); err != nil {
		t.Fatal(err)
	}
	if _, err := objects(t, h, "widgets").List(ctx, metav1.ListOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a version that is not served: %v", err)
	}
	if err := h.Client.Delete(ctx, crd); err != nil {
		t.Fatal(err)
	}
	gone(t, h, crd.Name)
	if n := h.Store.View().Count("/example.com/", "/example.com0"); n != 0 {
		t.Errorf("%d objects are left in the store", n)
	}
}

// TestOwnersAndNamespaces: custom resources are collected with their owners, collect what they own, and end with their namespace, although
// their definition came after the controllers had started.
func TestOwnersAndNamespaces(t *testing.T) {
	h := harness.New(t)
	controllertest.Run(t, h.Client, customresources.New(h.Client))
	controllertest.Run(t, h.Client, garbage.New(h.Client, record.NewFakeRecorder(100)))
	controllertest.Run(t, h.Client, namespace.New(h.Client, nil))
	controllertest.Create(t, h.Client, definition("widgets", "Widget"))
	controllertest.Create(t, h.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "doomed"}})
	res := objects(t, h, "widgets").Namespace("doomed")
	owner, err := res.Create(ctx, widget("owner", nil), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	ref := metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Widget", Name: "owner", UID: owner.GetUID()}
	if _, err := res.Create(ctx, widget("owned", func(u *unstructured.Unstructured) { u.SetOwnerReferences([]metav1.OwnerReference{ref}) }), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Create(t, h.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "doomed", Name: "owned", OwnerReferences: []metav1.OwnerReference{ref}}})
	if _, err := res.Create(ctx, widget("free", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := res.Delete(ctx, "owner", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitTrue(t, "what it owns to be collected", func() bool {
		_, err := res.Get(ctx, "owned", metav1.GetOptions{})
		_, ok := client.Get[*corev1.ConfigMap](h.Client.View(), "doomed", "owned")
		return apierrors.IsNotFound(err) && !ok
	})
	if err := h.Client.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "doomed"}}); err != nil {
		t.Fatal(err)
	}
	awaitTrue(t, "the namespace to be gone", func() bool {
		_, ok := client.Get[*corev1.Namespace](h.Client.View(), "", "doomed")
		return !ok
	})
	if n := h.Store.View().Count("/example.com/", "/example.com0"); n != 0 {
		t.Errorf("%d objects are left in the store", n)
	}
}
