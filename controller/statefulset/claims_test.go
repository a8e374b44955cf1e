package statefulset_test

import (
	"context"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/garbage"
)

// withClaims gives a set a claim template named data and a retention policy.
func withClaims(whenDeleted, whenScaled appsv1.PersistentVolumeClaimRetentionPolicyType) func(*appsv1.StatefulSet) {
	return func(set *appsv1.StatefulSet) {
		set.Spec.VolumeClaimTemplates = []corev1.PersistentVolumeClaim{{
			ObjectMeta: metav1.ObjectMeta{Name: "data", Labels: map[string]string{"own": "label"}},
			Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}},
		}}
		set.Spec.Template.Spec.Volumes = []corev1.Volume{
			{Name: "data", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "scratch", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		}
		set.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: whenDeleted, WhenScaled: whenScaled}
	}
}

const (
	retain = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	remove = appsv1.DeletePersistentVolumeClaimRetentionPolicyType
)

func (b *bed) claim(name string) *corev1.PersistentVolumeClaim {
	b.t.Helper()
	claim, ok := client.Get[*corev1.PersistentVolumeClaim](b.Client.View(), "default", name)
	if !ok {
		b.t.Fatalf("no claim %s", name)
	}
	return claim
}

func (b *bed) awaitOwner(claim, want string) {
	b.t.Helper()
	controllertest.Await(b.t, b.Client, "default", claim, "owner "+want, func(c *corev1.PersistentVolumeClaim) bool {
		got := ""
		for _, ref := range c.OwnerReferences {
			got += ref.Kind + "/" + ref.Name
		}
		return got == want
	})
}

func TestClaimsOfPods(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, web(2, withClaims(retain, retain)))
	b.complete()
	claim, pod := b.claim("data-web-1"), b.pod("web-1")
	if claim.Labels["app"] != "x" || claim.Labels["own"] != "label" || len(claim.OwnerReferences) != 0 || claim.Spec.Resources.Requests.Storage().String() != "1Gi" {
		t.Errorf("claim %+v", claim)
	}
	if v := pod.Spec.Volumes; len(v) < 2 || v[0].Name != "data" || v[0].PersistentVolumeClaim == nil || v[0].PersistentVolumeClaim.ClaimName != "data-web-1" || v[1].Name != "scratch" {
		t.Errorf("volumes %+v", v)
	}
	if n := b.recorder.Events("Normal SuccessfulCreate Create Claim data-web-0 Pod web-0 in StatefulSet web success"); len(n) != 1 {
		t.Errorf("%d events", len(n))
	}
	// The claim outlives its pod, and the next one uses it.
	b.scale(0)
	b.complete()
	b.scale(2)
	b.complete()
	if b.claim("data-web-1").UID != claim.UID {
		t.Error("the claim was replaced")
	}
	// A policy that changes changes the owners, of pods that run and later ones.
	b.change(func(set *appsv1.StatefulSet) { set.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted = remove })
	b.awaitOwner("data-web-0", "StatefulSet/web")
	b.awaitOwner("data-web-1", "StatefulSet/web")
	b.scale(3)
	b.awaitOwner("data-web-2", "StatefulSet/web")
	b.change(func(set *appsv1.StatefulSet) { set.Spec.PersistentVolumeClaimRetentionPolicy.WhenDeleted = retain })
	b.awaitOwner("data-web-0", "")
}

// TestClaimsOfScaledDownPodsAreDeleted: and a pod that comes back waits for that and has a new claim.
func TestClaimsOfScaledDownPodsAreDeleted(t *testing.T) {
	b := start(t)
	controllertest.Run(t, b.Client, garbage.New(b.Client, b.recorder))
	controllertest.Create(t, b.Client, web(2, withClaims(remove, remove)))
	b.complete()
	b.awaitOwner("data-web-0", "StatefulSet/web")
	old := b.claim("data-web-1").UID
	// Something else holds the claim, as a pod that still uses it does.
	controllertest.Change(t, b.Client, "default", "data-web-1", func(c *corev1.PersistentVolumeClaim) { c.Finalizers = append(c.Finalizers, "example.com/hold") })
	b.scale(1)
	b.complete()
	controllertest.Await(t, b.Client, "default", "data-web-1", "its deletion", func(c *corev1.PersistentVolumeClaim) bool { return c.DeletionTimestamp != nil })
	b.scale(2)
	b.await("one replica", func(set *appsv1.StatefulSet) bool { return set.Status.Replicas == 1 })
	controllertest.Change(t, b.Client, "default", "data-web-1", func(c *corev1.PersistentVolumeClaim) { c.Finalizers = nil })
	b.complete()
	if b.claim("data-web-1").UID == old {
		t.Error("the old claim is used")
	}
	if err := b.Client.Delete(context.Background(), web(0), client.Propagation(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		// The claims' protection is another controller's.
		name := fmt.Sprintf("data-web-%d", i)
		controllertest.AwaitView(t, b.Client, []client.Object{&corev1.PersistentVolumeClaim{}}, func(v client.View) string {
			if c, ok := client.Get[*corev1.PersistentVolumeClaim](v, "default", name); ok && c.DeletionTimestamp == nil {
				return name + " is not being deleted"
			}
			return ""
		})
	}
}

// TestClaimsOfOthersAreLeft: a claim that another controller manages is used, but never deleted with the set.
func TestClaimsOfOthersAreLeft(t *testing.T) {
	b := start(t)
	yes := true
	foreign := metav1.OwnerReference{APIVersion: "example.com/v1", Kind: "Database", Name: "db", UID: types.UID("db"), Controller: &yes}
	set := web(1, withClaims(remove, remove))
	claim := set.Spec.VolumeClaimTemplates[0].DeepCopy()
	claim.Namespace, claim.Name, claim.OwnerReferences = "default", "data-web-0", []metav1.OwnerReference{foreign}
	controllertest.Create(t, b.Client, claim)
	controllertest.Create(t, b.Client, set)
	b.complete()
	b.awaitOwner("data-web-0", "Database/db")
	if n := b.recorder.Events("Warning ConflictingController PersistentVolumeClaim data-web-0 has a conflicting OwnerReference"); len(n) == 0 {
		t.Errorf("no event; there were %q", b.recorder.Events(""))
	}
}
