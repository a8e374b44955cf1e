package ephemeral_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/ephemeral"
	"github.com/kontiki/kontiki/test/harness"
)

func spec() corev1.PersistentVolumeClaimSpec {
	return corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To("fast"),
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}
}

func pod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}},
		Volumes: []corev1.Volume{
			{Name: "plain", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}}, Spec: spec()}}}}}}}
}

func TestClaimsAreMadeForPods(t *testing.T) {
	h := harness.New(t)
	controllertest.Create(t, h.Client, pod("before"))
	recorder := controllertest.NewRecorder()
	controllertest.Run(t, h.Client, ephemeral.New(h.Client, recorder))
	after := controllertest.Create(t, h.Client, pod("after"))
	any := func(*corev1.PersistentVolumeClaim) bool { return true }
	controllertest.Await(t, h.Client, "default", "before-scratch", "made", any)
	claim := controllertest.Await(t, h.Client, "default", "after-scratch", "made", any)
	ref := metav1.GetControllerOf(claim)
	if ref == nil || ref.UID != after.UID || ref.Kind != "Pod" || ref.APIVersion != "v1" || ref.BlockOwnerDeletion == nil || !*ref.BlockOwnerDeletion ||
		claim.Labels["a"] != "b" || claim.Annotations["c"] != "d" || *claim.Spec.StorageClassName != "fast" || claim.Spec.Resources.Requests.Storage().String() != "1Gi" {
		t.Errorf("claim %+v", claim)
	}
	// One that is lost is made again.
	controllertest.Change(t, h.Client, "default", "after-scratch", func(c *corev1.PersistentVolumeClaim) { c.Finalizers = nil })
	if err := h.Client.Delete(context.Background(), claim); err != nil {
		t.Fatal(err)
	}
	controllertest.Await(t, h.Client, "default", "after-scratch", "made again", func(c *corev1.PersistentVolumeClaim) bool { return c.UID != claim.UID })
}

// The claim of somebody else is not used.
func TestAForeignClaimIsRefused(t *testing.T) {
	h := harness.New(t)
	recorder := controllertest.NewRecorder()
	controllertest.Run(t, h.Client, ephemeral.New(h.Client, recorder))
	foreign := controllertest.Create(t, h.Client, &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "p-scratch"}, Spec: spec()})
	p := controllertest.Create(t, h.Client, pod("p"))
	recorder.Await(t, `Warning FailedBinding ephemeral volume scratch: PVC default/p-scratch was not created for pod default/p (pod is not owner)`)
	if got, _ := client.Get[*corev1.PersistentVolumeClaim](h.Client.View(), "default", "p-scratch"); got.UID != foreign.UID || metav1.IsControlledBy(got, p) {
		t.Errorf("claim %+v", got)
	}
}
