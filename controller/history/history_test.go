package history_test

import (
	"context"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/history"
	"github.com/kontiki/kontiki/controller/owned"
	"github.com/kontiki/kontiki/test/harness"
)

var app = map[string]string{"app": "x"}

type bed struct {
	*harness.Harness
	t     testing.TB
	owner owned.Owner
}

func start(t testing.TB) *bed {
	b := &bed{Harness: harness.New(t), t: t}
	set := controllertest.Create(t, b.Client, &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", Annotations: map[string]string{"kubernetes.io/change-cause": "why"}},
		Spec: appsv1.StatefulSetSpec{Selector: &metav1.LabelSelector{MatchLabels: app}, Template: *template("v1")}})
	b.owner = owned.Owner{Object: set, Kind: appsv1.SchemeGroupVersion.WithKind("StatefulSet"), Selector: labels.SelectorFromSet(app)}
	return b
}

func template(image string) *corev1.PodTemplateSpec {
	return &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: image}}}}
}

func (b *bed) claim() []*appsv1.ControllerRevision {
	b.t.Helper()
	revisions, err := history.Claim(context.Background(), b.Client, b.Client.View(), b.owner)
	if err != nil {
		b.t.Fatal(err)
	}
	return revisions
}

func (b *bed) ensure(image string, collisions int32) (*appsv1.ControllerRevision, int32) {
	b.t.Helper()
	revision, n, err := history.Ensure(context.Background(), b.Client, b.claim(), history.Wanted{
		Owner: b.owner, HashLabel: "hash", Template: template(image), Collisions: collisions,
		Restored: func(t *corev1.PodTemplateSpec) {
			if t.Spec.RestartPolicy == "Default" { // what an earlier program wrote
				t.Spec.RestartPolicy = ""
			}
		},
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return revision, n
}

func TestRevisions(t *testing.T) {
	b := start(t)
	first, _ := b.ensure("v1", 0)
	if again, _ := b.ensure("v1", 0); again.Name != first.Name || again.Revision != 1 || len(b.claim()) != 1 {
		t.Errorf("the same template made %+v", again)
	}
	ref := metav1.GetControllerOf(first)
	if ref == nil || ref.UID != b.owner.GetUID() || first.Annotations["kubernetes.io/change-cause"] != "why" || first.Name != "web-"+first.Labels["hash"] || first.Labels["app"] != "x" {
		t.Errorf("%+v", first.ObjectMeta)
	}
	restored, err := history.Template(first)
	if err != nil || restored.Spec.Containers[0].Image != "v1" {
		t.Errorf("%+v, %v", restored, err)
	}
	second, _ := b.ensure("v2", 0)
	if second.Revision != 2 || second.Name == first.Name {
		t.Errorf("%+v", second)
	}
	if back, _ := b.ensure("v1", 0); back.Name != first.Name || back.Revision != 3 {
		t.Errorf("going back made %s with number %d", back.Name, back.Revision)
	}
	if all := b.claim(); len(all) != 2 || all[0].Name != second.Name {
		t.Errorf("%d revisions", len(all))
	}
}

// TestNamesCollide: with the revision of another content, the name of which was taken.
func TestNamesCollide(t *testing.T) {
	b := start(t)
	patch, err := history.Patch(template("v1"))
	if err != nil {
		t.Fatal(err)
	}
	for i := range int32(2) {
		controllertest.Create(t, b.Client, &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web-" + history.Hash(patch, i)},
			Data: runtime.RawExtension{Raw: []byte(`{"spec":{}}`)}, Revision: 7})
	}
	got, collisions := b.ensure("v1", 0)
	if collisions != 2 || got.Name != "web-"+history.Hash(patch, 2) {
		t.Errorf("%s after %d collisions", got.Name, collisions)
	}
	// The name is taken by the same content: that is the revision, as after a lost answer.
	if again, _ := b.ensure("v1", 2); again.Name != got.Name {
		t.Errorf("%s", again.Name)
	}
}

// TestAnotherEncodingIsTheSameTemplate: a program whose defaults differ from those of the one before does not begin a roll-out.
func TestAnotherEncodingIsTheSameTemplate(t *testing.T) {
	b := start(t)
	stored := template("v1")
	stored.Spec.RestartPolicy = "Default"
	patch, err := history.Patch(stored)
	if err != nil {
		t.Fatal(err)
	}
	old := controllertest.Create(t, b.Client, &appsv1.ControllerRevision{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "old", Labels: app}, Data: runtime.RawExtension{Raw: patch}, Revision: 4})
	if got, _ := b.ensure("v1", 0); got.Name != old.Name || !metav1.IsControlledBy(got, b.owner) {
		t.Errorf("%+v", got)
	}
	if got, _ := b.ensure("v2", 0); got.Revision != 5 {
		t.Errorf("%+v", got)
	}
}

func TestTruncation(t *testing.T) {
	b := start(t)
	for _, image := range []string{"v1", "v2", "v3", "v4"} {
		b.ensure(image, 0)
	}
	all := b.claim()
	used := map[string]bool{all[0].Name: true, all[3].Name: true}
	if err := history.Truncate(context.Background(), b.Client, all, 1, func(r *appsv1.ControllerRevision) bool { return used[r.Name] }); err != nil {
		t.Fatal(err)
	}
	var left []int64
	for _, r := range client.List[*appsv1.ControllerRevision](b.Client.View(), "default", nil) {
		left = append(left, r.Revision)
	}
	if len(left) != 3 {
		t.Errorf("%v are left", left)
	}
	if _, ok := client.Get[*appsv1.ControllerRevision](b.Client.View(), "default", all[1].Name); ok {
		t.Error("the oldest unused revision is left")
	}
}
