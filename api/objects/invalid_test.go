package objects_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/test/harness"
)

func TestAnInvalidObjectIsDescribedByItsFirstProblems(t *testing.T) {
	var problems field.ErrorList
	for i := range 300_000 {
		problems = append(problems, field.Required(field.NewPath("spec", "containers").Index(i).Child("name"), ""))
	}
	err := objects.Invalid(schema.GroupKind{Kind: "Pod"}, "a", problems)
	if n := len(err.ErrStatus.Details.Causes); n != 101 {
		t.Errorf("%d causes, want 101", n)
	}
	if text := "spec.containers[100].name: Too many: 300000: errors, of which 299900 more are not shown"; !strings.Contains(err.Error(), text) {
		t.Errorf("the message does not end with %q: %.200s", text, err)
	}
	big := field.Invalid(field.NewPath("spec"), strings.Repeat("x", 1<<20), "is large")
	if err := objects.Invalid(schema.GroupKind{Kind: "Pod"}, "a", field.ErrorList{big, big, big}); len(err.ErrStatus.Details.Causes) != 2 {
		t.Errorf("%d causes of three that have a megabyte each, want 2", len(err.ErrStatus.Details.Causes))
	}
	if err := objects.Invalid(schema.GroupKind{Kind: "Pod"}, "a", problems[:2]); len(err.ErrStatus.Details.Causes) != 2 {
		t.Errorf("two problems have %d causes", len(err.ErrStatus.Details.Causes))
	}
}

func TestAnObjectThatIsFarTooLargeIsRefusedBeforeValidation(t *testing.T) {
	h := harness.New(t)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "a", Image: "a"}}}}
	created := create(t, h, "pods", pod.DeepCopy())
	pod.Name, pod.Spec.Containers = "b", make([]corev1.Container, 200_000)
	if _, err := h.Objects.Create(t.Context(), request(h, "pods", "default", ""), pod); !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("create: %.200v", err)
	}
	created = created.DeepCopy()
	created.Spec.Containers = make([]corev1.Container, 200_000)
	if _, _, err := h.Objects.Update(t.Context(), request(h, "pods", "default", "a"), created); !apierrors.IsRequestEntityTooLargeError(err) {
		t.Errorf("update: %.200v", err)
	}
}

// TestManyOwnersCostLittle: duplicates are dropped with a warning, whatever their number.
func TestManyOwnersCostLittle(t *testing.T) {
	h := harness.New(t)
	yes := true
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default"}}
	for i := range 10_000 {
		cm.OwnerReferences = append(cm.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: fmt.Sprint("n", i), UID: types.UID(fmt.Sprint("u", i))})
	}
	cm.OwnerReferences = append(cm.OwnerReferences, cm.OwnerReferences[7], metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: "n7", UID: "u7", BlockOwnerDeletion: &yes})
	r := request(h, "configmaps", "default", "")
	var warnings []string
	r.Warn = func(text string) { warnings = append(warnings, text) }
	created, err := h.Objects.Create(t.Context(), r, cm)
	if err != nil {
		t.Fatal(err)
	}
	if n := len(created.GetOwnerReferences()); n != 10_001 {
		t.Errorf("%d owners are left", n)
	}
	if len(warnings) != 1 || !strings.HasSuffix(warnings[0], "duplicate UID(s) observed: u7") {
		t.Errorf("warnings: %q", warnings)
	}
}
