package customresources_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagemigrationv1 "k8s.io/api/storagemigration/v1"
	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/customresources"
	"github.com/kontiki/kontiki/controller/garbage"
	"github.com/kontiki/kontiki/controller/migration"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/harness"
)

func collecting(t *testing.T) (*harness.Harness, dynamic.ResourceInterface) {
	h := harness.New(t)
	controllertest.Run(t, h.Client, customresources.New(h.Client))
	controllertest.Run(t, h.Client, garbage.New(h.Client, record.NewFakeRecorder(100)))
	controllertest.Create(t, h.Client, definition("widgets", "Widget"))
	return h, objects(t, h, "widgets").Namespace("default")
}

func create(t *testing.T, res dynamic.ResourceInterface, u *unstructured.Unstructured) *unstructured.Unstructured {
	t.Helper()
	u, err := res.Create(ctx, u, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func remove(t *testing.T, res dynamic.ResourceInterface, name string, policy metav1.DeletionPropagation) {
	t.Helper()
	if err := res.Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &policy}); err != nil {
		t.Fatal(err)
	}
}

func exists(t *testing.T, res dynamic.ResourceInterface, name string) bool {
	t.Helper()
	_, err := res.Get(ctx, name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	return err == nil
}

// owned is a widget that belongs to another one, with a finalizer of a third party.
func owned(name string, owner *unstructured.Unstructured, blocks bool) *unstructured.Unstructured {
	return widget(name, func(u *unstructured.Unstructured) {
		u.SetFinalizers([]string{"example.com/hold"})
		u.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "Widget", Name: owner.GetName(), UID: owner.GetUID(), BlockOwnerDeletion: &blocks}})
	})
}

// TestCustomOwnersWaitInTheForeground: a custom resource that is deleted in the foreground stays until the custom resources that block it are gone,
// and does not wait for those that do not.
func TestCustomOwnersWaitInTheForeground(t *testing.T) {
	_, res := collecting(t)
	owner := create(t, res, widget("owner", nil))
	create(t, res, owned("blocking", owner, true))
	create(t, res, owned("loose", owner, false))
	remove(t, res, "owner", metav1.DeletePropagationForeground)
	for _, name := range []string{"blocking", "loose"} {
		awaitTrue(t, name+" to be deleted", func() bool {
			u, err := res.Get(ctx, name, metav1.GetOptions{})
			return err == nil && u.GetDeletionTimestamp() != nil
		})
	}
	if u, err := res.Get(ctx, "owner", metav1.GetOptions{}); err != nil || !slices.Contains(u.GetFinalizers(), metav1.FinalizerDeleteDependents) {
		t.Fatalf("the owner does not wait: %v, %v", u, err)
	}
	release := func(name string) {
		t.Helper()
		if _, err := res.Patch(ctx, name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		awaitTrue(t, name+" to be gone", func() bool { return !exists(t, res, name) })
	}
	release("blocking")
	awaitTrue(t, "the owner to be gone", func() bool { return !exists(t, res, "owner") })
	if !exists(t, res, "loose") {
		t.Error("what does not block its owner went with it, in spite of its finalizer")
	}
	release("loose")
}

// TestCustomOwnersLeaveOrphans: what a custom resource owned, custom or built in, stays without a reference to it.
func TestCustomOwnersLeaveOrphans(t *testing.T) {
	h, res := collecting(t)
	owner := create(t, res, widget("owner", nil))
	create(t, res, owned("custom", owner, true))
	controllertest.Create(t, h.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "builtin",
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "example.com/v1", Kind: "Widget", Name: "owner", UID: owner.GetUID()}}}})
	remove(t, res, "owner", metav1.DeletePropagationOrphan)
	awaitTrue(t, "the owner to be gone", func() bool { return !exists(t, res, "owner") })
	u, err := res.Get(ctx, "custom", metav1.GetOptions{})
	if err != nil || len(u.GetOwnerReferences()) > 0 || u.GetDeletionTimestamp() != nil {
		t.Errorf("the custom orphan: %v, %v", u, err)
	}
	cm, ok := client.Get[*corev1.ConfigMap](h.Client.View(), "default", "builtin")
	if !ok || len(cm.OwnerReferences) > 0 || cm.DeletionTimestamp != nil {
		t.Errorf("the orphan of a built-in kind: %+v", cm)
	}
}

// TestBuiltInOwnersOfCustomResources: a custom resource goes with the object of a built-in kind that owns it.
func TestBuiltInOwnersOfCustomResources(t *testing.T) {
	h, res := collecting(t)
	cm := controllertest.Create(t, h.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "owner"}})
	create(t, res, widget("owned", func(u *unstructured.Unstructured) {
		u.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: cm.UID}})
	}))
	if err := h.Client.Delete(ctx, cm); err != nil {
		t.Fatal(err)
	}
	awaitTrue(t, "the custom resource to be gone", func() bool { return !exists(t, res, "owned") })
}

// TestAStorageVersionIsMigrated: after a definition stores another version, a migration writes each object in it and updates the definition's stored
// versions, after which the old version can be dropped.
func TestAStorageVersionIsMigrated(t *testing.T) {
	h, res := collecting(t)
	controllertest.Run(t, h.Client, migration.New(h.Client))
	for _, name := range []string{"a", "b", "c"} {
		create(t, res, widget(name, func(u *unstructured.Unstructured) { u.Object["spec"] = map[string]any{"of": name} }))
	}
	stored := func() (versions []string) {
		h.Store.View().Range("/example.com/", "/example.com0", func(v *kv.Version) bool {
			var obj metav1.TypeMeta
			if err := json.Unmarshal(v.Value, &obj); err != nil {
				t.Error(err)
			}
			versions = append(versions, strings.TrimPrefix(obj.APIVersion, "example.com/"))
			return true
		})
		return versions
	}
	if got := stored(); !slices.Equal(got, []string{"v1", "v1", "v1"}) {
		t.Fatalf("stored in %v", got)
	}
	change := func(edit func(crd *apiextensionsv1.CustomResourceDefinition)) error {
		crd, _ := client.Get[*apiextensionsv1.CustomResourceDefinition](h.Client.View(), "", "widgets.example.com")
		crd = crd.DeepCopy()
		edit(crd)
		_, err := client.Update(ctx, h.Client, crd)
		return err
	}
	if err := change(func(crd *apiextensionsv1.CustomResourceDefinition) {
		second := crd.Spec.Versions[0].DeepCopy()
		second.Name = "v2"
		crd.Spec.Versions[0].Storage = false
		crd.Spec.Versions = append(crd.Spec.Versions, *second)
	}); err != nil {
		t.Fatal(err)
	}
	if err := change(func(crd *apiextensionsv1.CustomResourceDefinition) { crd.Spec.Versions = crd.Spec.Versions[1:] }); !apierrors.IsInvalid(err) {
		t.Fatalf("a version in which objects are stored was dropped: %v", err)
	}
	controllertest.Create(t, h.Client, &storagemigrationv1.StorageVersionMigration{ObjectMeta: metav1.ObjectMeta{Name: "widgets"},
		Spec: storagemigrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Group: "example.com", Resource: "widgets"}}})
	crd := controllertest.Await(t, h.Client, "", "widgets.example.com", "the end of the migration", func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		c := apihelpers.FindCRDCondition(crd, apiextensionsv1.StorageMigrating)
		return c != nil && c.Status == apiextensionsv1.ConditionFalse
	})
	if c := apihelpers.FindCRDCondition(crd, apiextensionsv1.StorageMigrating); c.Reason != "MigrationSucceeded" || c.ObservedGeneration != crd.Generation ||
		c.Message != "The migration has succeeded and the stored versions have been updated" || !slices.Equal(crd.Status.StoredVersions, []string{"v2"}) {
		t.Errorf("%+v, stored versions %v", c, crd.Status.StoredVersions)
	}
	controllertest.Await(t, h.Client, "", "widgets", "the migration", func(m *storagemigrationv1.StorageVersionMigration) bool {
		return meta.IsStatusConditionTrue(m.Status.Conditions, string(storagemigrationv1.MigrationSucceeded)) &&
			meta.IsStatusConditionFalse(m.Status.Conditions, string(storagemigrationv1.MigrationRunning))
	})
	if got := stored(); !slices.Equal(got, []string{"v2", "v2", "v2"}) {
		t.Errorf("after the migration, stored in %v", got)
	}
	if err := change(func(crd *apiextensionsv1.CustomResourceDefinition) { crd.Spec.Versions = crd.Spec.Versions[1:] }); err != nil {
		t.Fatalf("the old version cannot be dropped: %v", err)
	}
	if u, err := objectsIn(t, h, "v2").Get(ctx, "b", metav1.GetOptions{}); err != nil || u.GetAPIVersion() != "example.com/v2" || u.Object["spec"].(map[string]any)["of"] != "b" {
		t.Errorf("%v, %v", u, err)
	}
}

// TestADefinitionThatChangesWhileItIsMigrated: objects may have been stored in another version meanwhile, so its stored versions stay.
func TestADefinitionThatChangesWhileItIsMigrated(t *testing.T) {
	h, res := collecting(t)
	create(t, res, widget("a", nil))
	stop := controllertest.Run(t, h.Client, migration.New(h.Client))
	stop()
	// The leader that began the migration is gone, with the definition changed since.
	crd, _ := client.Get[*apiextensionsv1.CustomResourceDefinition](h.Client.View(), "", "widgets.example.com")
	crd = crd.DeepCopy()
	crd.Status.StoredVersions = []string{"v0", "v1"}
	crd.Status.Conditions = append(crd.Status.Conditions, apiextensionsv1.CustomResourceDefinitionCondition{Type: apiextensionsv1.StorageMigrating,
		Status: apiextensionsv1.ConditionTrue, Reason: "MigrationRunning", ObservedGeneration: crd.Generation - 1})
	if _, err := client.UpdateStatus(ctx, h.Client, crd); err != nil {
		t.Fatal(err)
	}
	m := controllertest.Create(t, h.Client, &storagemigrationv1.StorageVersionMigration{ObjectMeta: metav1.ObjectMeta{Name: "widgets"},
		Spec: storagemigrationv1.StorageVersionMigrationSpec{Resource: metav1.GroupResource{Group: "example.com", Resource: "widgets"}}})
	m = m.DeepCopy()
	meta.SetStatusCondition(&m.Status.Conditions, metav1.Condition{Type: string(storagemigrationv1.MigrationRunning), Status: metav1.ConditionTrue, Reason: "MigrationRunning"})
	if _, err := client.UpdateStatus(ctx, h.Client, m); err != nil {
		t.Fatal(err)
	}
	controllertest.Run(t, h.Client, migration.New(h.Client))
	crd = controllertest.Await(t, h.Client, "", "widgets.example.com", "the end of the migration", func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		c := apihelpers.FindCRDCondition(crd, apiextensionsv1.StorageMigrating)
		return c != nil && c.Status == apiextensionsv1.ConditionFalse
	})
	if c := apihelpers.FindCRDCondition(crd, apiextensionsv1.StorageMigrating); !strings.Contains(c.Message, "generation mismatch") || !slices.Contains(crd.Status.StoredVersions, "v0") {
		t.Errorf("%+v, stored versions %v", c, crd.Status.StoredVersions)
	}
}
