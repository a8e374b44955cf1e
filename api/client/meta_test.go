package client_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/api/registry/builtin"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/harness"
)

// TestWatchAllFollowsTheKinds: events of all kinds have metadata; when a kind with objects goes, it begins again with a new view.
func TestWatchAllFollowsTheKinds(t *testing.T) {
	h := harness.New(t)
	ctx, cancel := context.WithCancel(t.Context())
	started, events, ended := make(chan client.View, 4), make(chan client.Event, 100), make(chan error, 1)
	go func() {
		ended <- h.Client.WatchAll(ctx, func(k *client.Kind) bool { return k.Namespaced },
			func(v client.View) error { started <- v; return nil },
			func(batch []client.Event) error {
				for _, e := range batch {
					if e.Object().GetName() == "watched" {
						events <- e
					}
				}
				return nil
			})
	}()
	<-started
	create := func(kind string, obj client.Object) {
		t.Helper()
		obj.SetName("watched")
		obj.SetNamespace("default")
		obj.SetLabels(map[string]string{"a": "b"})
		var err error
		switch o := obj.(type) {
		case *corev1.ConfigMap:
			_, err = client.Create(ctx, h.Client, o)
		case *corev1.Secret:
			_, err = client.Create(ctx, h.Client, o)
		}
		if err != nil {
			t.Fatal(err)
		}
		e := <-events
		m, ok := e.New.(*client.Metadata)
		if !ok || e.Old != nil || m.Kind != kind || m.Labels["a"] != "b" || m.ResourceVersion == "" {
			t.Fatalf("event %+v", e)
		}
	}
	create("ConfigMap", &corev1.ConfigMap{})
	h.Objects.Catalog().Update(func(t *registry.Table) *registry.Table { return t.With(nil) }) // the same kinds: it goes on
	create("Secret", &corev1.Secret{})
	h.Objects.Catalog().Update(func(t *registry.Table) *registry.Table {
		var rows []*registry.Resource
		for _, kind := range builtin.Kinds().Kinds() {
			if row := kind.Of(); row.Resource != "configmaps" && !slices.Contains(rows, row) {
				rows = append(rows, row)
			}
		}
		return registry.NewTable(rows...)
	})
	<-started
	if err := h.Client.Delete(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "watched"}}); err != nil {
		t.Fatal(err)
	}
	if e := <-events; e.New != nil {
		t.Fatalf("event %+v", e)
	}
	cancel()
	if err := <-ended; err != context.Canceled {
		t.Error(err)
	}
}

// TestReferencesToAnyKind: objects are read, patched and deleted by their kind and name.
func TestReferencesToAnyKind(t *testing.T) {
	h := harness.New(t)
	ctx := t.Context()
	if _, err := client.Create(ctx, h.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "a", Finalizers: []string{"x.io/f"}}}); err != nil {
		t.Fatal(err)
	}
	kind, ok := h.Client.KindNamed(schema.GroupKind{Kind: "ConfigMap"})
	if !ok {
		t.Fatal("no kind")
	}
	if _, ok := h.Client.KindNamed(schema.GroupKind{Group: "events.k8s.io", Kind: "Event"}); ok {
		t.Error("a kind that is stored as another is a kind of its own")
	}
	if err := h.Client.PatchRef(ctx, kind, "default", "a", []byte(`{"metadata":{"resourceVersion":"1","finalizers":null}}`)); !apierrors.IsConflict(err) {
		t.Errorf("a patch of an old version: %v", err)
	}
	if err := h.Client.PatchRef(ctx, kind, "default", "a", []byte(`{"metadata":{"finalizers":null}}`)); err != nil {
		t.Fatal(err)
	}
	if m, ok, err := h.Client.View().Meta(kind, "default", "a"); err != nil || !ok || len(m.Finalizers) != 0 {
		t.Errorf("%+v, %v, %v", m, ok, err)
	}
	if err := h.Client.DeleteRef(ctx, kind, "default", "a", client.IfUID("other")); !apierrors.IsConflict(err) {
		t.Errorf("deletion of another object: %v", err)
	}
	if err := h.Client.DeleteRef(ctx, kind, "default", "a"); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := h.Client.View().Meta(kind, "default", "a"); ok || err != nil {
		t.Error(ok, err)
	}
}

// TestReferencesAreOfTheClusterItself: what they write is not refused to the component's user, who has no roles.
func TestReferencesAreOfTheClusterItself(t *testing.T) {
	h := harness.New(t)
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Rules: []rbacv1.PolicyRule{{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}}}
	if _, err := client.Create(t.Context(), h.Client, role); err != nil {
		t.Fatal(err)
	}
	c := client.New(h.Objects, "system:serviceaccount:kube-system:generic-garbage-collector", "test")
	if err := c.PatchRef(t.Context(), h.Client.KindOf(role), "", "all", []byte(`{"rules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"]},{"verbs":["get"],"nonResourceURLs":["*"]}]}`)); err != nil {
		t.Error(err)
	}
}

// TestWhatCannotBeDecodedIsNamed: it is an error, and not skipped.
func TestWhatCannotBeDecodedIsNamed(t *testing.T) {
	h := harness.New(t)
	if _, err := h.Objects.Store().Propose(t.Context(), &kv.Command{ID: kv.CommandID{1}, Ops: []kv.Op{{Key: "/core/configmaps/default/broken", Value: []byte("garbage")}}}); err != nil {
		t.Fatal(err)
	}
	kind, _ := h.Client.KindNamed(schema.GroupKind{Kind: "ConfigMap"})
	if err := h.Client.View().EachMeta(kind, "", func(*client.Metadata) bool { return true }); err == nil || !strings.Contains(err.Error(), "/core/configmaps/default/broken") {
		t.Error(err)
	}
}
