package storageprotection_test

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/storageprotection"
	"github.com/kontiki/kontiki/test/harness"
)

const ns = "default"

var ctx = context.Background()

func newLab(t *testing.T) *harness.Harness {
	h := harness.New(t)
	controllertest.Run(t, h.Client, storageprotection.NewClaims(h.Client), storageprotection.NewVolumes(h.Client), storageprotection.NewClasses(h.Client))
	return h
}

func create[T client.Object](t *testing.T, h *harness.Harness, obj T) T {
	t.Helper()
	made, err := client.Create(ctx, h.Client, obj)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func remove(t *testing.T, h *harness.Harness, obj client.Object, options ...client.DeleteOption) {
	t.Helper()
	if err := h.Client.Delete(ctx, obj, options...); err != nil {
		t.Fatal(err)
	}
}

func storage(size string) corev1.ResourceList {
	return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
}

func claim(name string, class *string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.PersistentVolumeClaimSpec{VolumeAttributesClassName: class,
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, Resources: corev1.VolumeResourceRequirements{Requests: storage("1Gi")}}}
}

func user(name, node, claim string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "x"}},
		Volumes: []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}}}}}
}

// settled waits until the controllers have seen everything before it: a claim that nothing uses comes and goes.
func settled(t *testing.T, h *harness.Harness, name string) {
	t.Helper()
	remove(t, h, create(t, h, claim(name, nil)))
	controllertest.AwaitGone[*corev1.PersistentVolumeClaim](t, h.Client, ns, name)
}

func TestAClaimStaysWhileAScheduledPodUsesIt(t *testing.T) {
	h := newLab(t)
	for _, name := range []string{"used", "waiting"} {
		if made := create(t, h, claim(name, nil)); len(made.Finalizers) != 1 || made.Finalizers[0] != "kubernetes.io/pvc-protection" {
			t.Fatalf("%q", made.Finalizers)
		}
	}
	create(t, h, user("running", "w1", "used"))
	create(t, h, user("pending", "", "waiting"))
	remove(t, h, claim("used", nil))
	remove(t, h, claim("waiting", nil))
	controllertest.AwaitGone[*corev1.PersistentVolumeClaim](t, h.Client, ns, "waiting")
	settled(t, h, "other")
	if c, ok := client.Get[*corev1.PersistentVolumeClaim](h.Client.View(), ns, "used"); !ok || c.DeletionTimestamp == nil {
		t.Fatalf("a claim that is used: %v", c)
	}
	remove(t, h, user("running", "", ""), client.Grace(0))
	controllertest.AwaitGone[*corev1.PersistentVolumeClaim](t, h.Client, ns, "used")
}

func TestAVolumeStaysWhileItIsBound(t *testing.T) {
	h := newLab(t)
	volume := create(t, h, &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "v"}, Spec: corev1.PersistentVolumeSpec{Capacity: storage("1Gi"),
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x"}}}}).DeepCopy()
	volume.Status.Phase = corev1.VolumeBound
	volume, err := client.UpdateStatus(ctx, h.Client, volume)
	if err != nil {
		t.Fatal(err)
	}
	remove(t, h, volume)
	settled(t, h, "other")
	volume, ok := client.Get[*corev1.PersistentVolume](h.Client.View(), "", "v")
	if !ok {
		t.Fatal("a bound volume is gone")
	}
	volume = volume.DeepCopy()
	volume.Status.Phase = corev1.VolumeReleased
	if _, err := client.UpdateStatus(ctx, h.Client, volume); err != nil {
		t.Fatal(err)
	}
	controllertest.AwaitGone[*corev1.PersistentVolume](t, h.Client, "", "v")
}

func TestAClassStaysWhileAClaimNamesIt(t *testing.T) {
	h := newLab(t)
	class := create(t, h, &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: "fast"}, DriverName: "x.y", Parameters: map[string]string{"iops": "9"}})
	create(t, h, claim("c", &class.Name))
	remove(t, h, class)
	settled(t, h, "other")
	if _, ok := client.Get[*storagev1.VolumeAttributesClass](h.Client.View(), "", "fast"); !ok {
		t.Fatal("a class that is used is gone")
	}
	remove(t, h, claim("c", nil))
	controllertest.AwaitGone[*storagev1.VolumeAttributesClass](t, h.Client, "", "fast")
}

// TestABoundClaimSaysSinceWhenItIsUnused: pods count that have not ended, also those that wait for a node.
func TestABoundClaimSaysSinceWhenItIsUnused(t *testing.T) {
	h := newLab(t)
	c := create(t, h, claim("c", nil)).DeepCopy()
	settled(t, h, "other")
	if c, _ := client.Get[*corev1.PersistentVolumeClaim](h.Client.View(), ns, "c"); len(c.Status.Conditions) > 0 {
		t.Fatalf("a claim that is not bound has %+v", c.Status.Conditions)
	}
	c.Status.Phase = corev1.ClaimBound
	c.Status.Conditions = []corev1.PersistentVolumeClaimCondition{{Type: "Other", Status: corev1.ConditionTrue}}
	if _, err := client.UpdateStatus(ctx, h.Client, c); err != nil {
		t.Fatal(err)
	}
	unused := func(want corev1.ConditionStatus, reason, message string) {
		t.Helper()
		controllertest.Await(t, h.Client, ns, "c", "Unused to be "+string(want), func(c *corev1.PersistentVolumeClaim) bool {
			if len(c.Status.Conditions) != 2 || c.Status.Conditions[0].Type != "Other" {
				return false
			}
			u := c.Status.Conditions[1]
			return u.Type == corev1.PersistentVolumeClaimUnused && u.Status == want && u.Reason == reason && u.Message == message && !u.LastTransitionTime.IsZero()
		})
	}
	const none, some = "No pods are currently referencing this PVC", "A pod is currently referencing this PVC"
	unused(corev1.ConditionTrue, "NoPodsUsingPVC", none)
	create(t, h, user("waiting", "", "c"))
	unused(corev1.ConditionFalse, "PodUsingPVC", some)
	running := create(t, h, user("running", "w1", "c"))
	remove(t, h, user("waiting", "", ""), client.Grace(0))
	settled(t, h, "other")
	unused(corev1.ConditionFalse, "PodUsingPVC", some)
	controllertest.ChangeStatus(t, h.Client, ns, running.Name, func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	unused(corev1.ConditionTrue, "NoPodsUsingPVC", none)
}
