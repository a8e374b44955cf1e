package admission_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/admission"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/test/harness"
)

func TestDeletionProtection(t *testing.T) {
	h := harness.New(t)
	h.Serve()
	ctx := context.Background()
	users := h.Clientset()
	protect := map[string]string{admission.DeletionProtection: "true"}
	refuses := func(what string, err error, message string) {
		t.Helper()
		if !apierrors.IsForbidden(err) || err.Error() != message {
			t.Errorf("%s: %v", what, err)
		}
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// An object is protected from everybody.
	cm := create(t, h, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "mine", Annotations: protect}})
	const refused = `configmaps "mine" is forbidden: the annotation kontiki.io/deletion-protection protects it from deletion: remove the annotation first`
	refuses("a user deletes it", users.CoreV1().ConfigMaps("default").Delete(ctx, "mine", metav1.DeleteOptions{}), refused)
	refuses("a controller deletes it", h.Client.Delete(ctx, cm), refused)
	cm = cm.DeepCopy()
	cm.Annotations[admission.DeletionProtection] = "false"
	_, err := client.Update(ctx, h.Client, cm)
	must(err)
	must(users.CoreV1().ConfigMaps("default").Delete(ctx, "mine", metav1.DeleteOptions{}))

	// A namespace is protected with what is in it, but for what controllers delete or would make again.
	create(t, h, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kept", Annotations: protect}})
	refuses("a user deletes the namespace", users.CoreV1().Namespaces().Delete(ctx, "kept", metav1.DeleteOptions{}),
		`namespaces "kept" is forbidden: the annotation kontiki.io/deletion-protection protects it from deletion: remove the annotation first`)
	in := func(name string, owners ...metav1.OwnerReference) *corev1.ConfigMap {
		return create(t, h, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kept", Name: name, OwnerReferences: owners}})
	}
	in("plain")
	refuses("a user deletes what is in it", users.CoreV1().ConfigMaps("kept").Delete(ctx, "plain", metav1.DeleteOptions{}),
		`configmaps "plain" is forbidden: the annotation kontiki.io/deletion-protection of the namespace kept protects it from deletion: remove that annotation first`)
	if err := users.CoreV1().ConfigMaps("kept").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a user deletes all that is in it: %v", err)
	}
	if _, ok := client.Get[*corev1.ConfigMap](h.Client.View(), "kept", "plain"); !ok {
		t.Error("it was deleted")
	}
	must(h.Client.Delete(ctx, in("by-a-controller")))
	in("owned", metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Maker", Name: "m", UID: "u", Controller: new(true)})
	must(users.CoreV1().ConfigMaps("kept").Delete(ctx, "owned", metav1.DeleteOptions{}))

	// A deletion that has begun goes on.
	create(t, h, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "going", Finalizers: []string{"example.com/f"}}})
	must(users.CoreV1().ConfigMaps("default").Delete(ctx, "going", metav1.DeleteOptions{}))
	going, _ := client.Get[*corev1.ConfigMap](h.Client.View(), "default", "going")
	going = going.DeepCopy()
	going.Annotations = protect
	_, err = client.Update(ctx, h.Client, going)
	must(err)
	must(users.CoreV1().ConfigMaps("default").Delete(ctx, "going", metav1.DeleteOptions{}))
}
