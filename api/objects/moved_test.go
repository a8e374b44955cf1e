package objects_test

import (
	"context"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/client-go/applyconfigurations"
	"k8s.io/kubernetes/pkg/apis/core"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
)

// owned returns a manager's fields.
func owned(obj metav1.Object, manager string) string {
	for _, e := range obj.GetManagedFields() {
		if e.Manager == manager {
			return e.FieldsV1.GetRawString()
		}
	}
	return ""
}

func secret(stringData map[string]string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "s"}, StringData: stringData}
}

// TestManagersOwnWhatConversionsLeave: fields that a kind's conversions move belong to managers where they have been moved to.
func TestManagersOwnWhatConversionsLeave(t *testing.T) {
	l, ctx := newLab(t), context.Background()
	meta := metav1.ObjectMeta{Namespace: "default", Name: "s"}
	labels := map[string]string{"app": "x"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
		ServiceAccountName: "default", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	for want, obj := range map[string]registry.Object{
		`"f:data":{".":{},"f:a":{}}`:                      secret(map[string]string{"a": "b"}),
		`"f:serviceAccount":{}`:                           &appsv1.Deployment{ObjectMeta: meta, Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template}},
		`"f:deprecated.daemonset.template.generation":{}`: &appsv1.DaemonSet{ObjectMeta: meta, Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template}},
	} {
		created, err := l.Objects.Create(ctx, l.request(obj), obj)
		if err != nil {
			t.Fatalf("%T: %v", obj, err)
		}
		if got := owned(created, "tester"); !strings.Contains(got, want) || strings.Contains(got, "f:stringData") {
			t.Errorf("%T: the fields are %s, without %s", obj, got, want)
		}
	}

	r := l.request(secret(nil))
	other := *r
	other.FieldManager = "other"
	apply := func(data string) (registry.Object, error) {
		obj, _, err := l.Objects.Patch(ctx, &other, objects.Patch{Type: types.ApplyYAMLPatchType,
			Data: []byte(`{"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},` + data + `}`)})
		return obj, err
	}
	if _, err := apply(`"data":{"a":"eA=="}`); !apierrors.IsConflict(err) || !strings.Contains(err.Error(), ".data.a") {
		t.Errorf("an apply takes over another manager's data: %v", err)
	}
	updated, _, err := l.Objects.Update(ctx, r, secret(map[string]string{"b": "c"}))
	if err != nil {
		t.Fatal(err)
	}
	if got := owned(updated, "tester"); !strings.Contains(got, `"f:data":{".":{},"f:b":{}}`) || strings.Contains(got, "f:stringData") {
		t.Errorf("after an update the fields are %s", got)
	}
	patched, _, err := l.Objects.Patch(ctx, r, objects.Patch{Type: types.MergePatchType, Data: []byte(`{"stringData":{"c":"d"}}`)})
	if err != nil {
		t.Fatal(err)
	}
	if got := owned(patched, "tester"); !strings.Contains(got, `"f:data":{".":{},"f:b":{},"f:c":{}}`) || strings.Contains(got, "f:stringData") {
		t.Errorf("after a patch the fields are %s", got)
	}

	// Whoever applies owns the fields as applied, upstream too.
	const config = `"stringData":{"d":"e"}`
	applied, err := apply(config)
	if err != nil {
		t.Fatal(err)
	}
	upstream, err := managedfields.NewDefaultFieldManager(applyconfigurations.NewTypeConverter(registry.Scheme), registry.Scheme, registry.Scheme, registry.Scheme,
		r.Kind.GVK(), schema.GroupVersion{Version: runtime.APIVersionInternal}, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	document := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "metadata": map[string]any{"name": "s"},
		"stringData": map[string]any{"d": "e"}}}
	want, err := upstream.Apply(&core.Secret{}, document, "other", false)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := owned(applied, "other"), owned(want.(metav1.Object), "other"); got != want {
		t.Errorf("after an apply of stringData the fields are %s, upstream's %s", got, want)
	}
	if got := applied.(*corev1.Secret); string(got.Data["d"]) != "e" || len(got.StringData) != 0 || owned(got, "tester") != owned(patched, "tester") {
		t.Errorf("applied: %+v", got)
	}
}
