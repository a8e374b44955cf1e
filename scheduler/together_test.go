package scheduler_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/devicetainteviction"
	"github.com/kontiki/kontiki/controller/ephemeral"
	"github.com/kontiki/kontiki/controller/garbage"
	"github.com/kontiki/kontiki/controller/resourceclaim"
)

// together runs beside the scheduler the controllers of what pods need, and a kubelet that runs the pods which the scheduler binds. A pod with
// the label "ends" ends.
func together(t *testing.T) *bed {
	t.Helper()
	b := start(t)
	recorder := controllertest.NewRecorder()
	controllers := append(resourceclaim.New(b.Client, recorder), ephemeral.New(b.Client, recorder), garbage.New(b.Client, recorder))
	controllers = append(controllers, devicetainteviction.New(devicetainteviction.Config{Client: b.Client, Recorder: recorder})...)
	controllertest.Run(t, b.Client, controllers...)
	controllertest.StartKubelet(t, b.Client, controllertest.OnNode(func(*corev1.Pod) string { return "" }),
		controllertest.End(func(p *corev1.Pod) (int32, bool) { return 0, p.Labels["ends"] != "" }))
	return b
}

func (b *bed) runs(name string) *corev1.Pod {
	b.t.Helper()
	return b.await(name, "running", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
}

// TestDevicesGoFromPodToPod: from a template to a claim, its allocation and the pod's binding; when the pod ends, the next one gets the
// device; and when the device is tainted, its pod is evicted, and nobody gets it until it is well again.
func TestDevicesGoFromPodToPod(t *testing.T) {
	b := together(t)
	b.deviceClass("gpu", "true")
	b.node("n1", "8")
	slice := b.slice("n1", device("0"))
	create(b, &resourcev1.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "t"},
		Spec: resourcev1.ResourceClaimTemplateSpec{Spec: resourcev1.ResourceClaimSpec{Devices: requests(want("r", 1))}}})
	templated := func(p *corev1.Pod) {
		p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "card", ResourceClaimTemplateName: new("t")}}
	}
	b.pod("first", "10m", templated)
	first := b.runs("first")
	claim := *first.Status.ResourceClaimStatuses[0].ResourceClaimName
	if b.got(claim) != "r=n1/0" {
		t.Errorf("it has %s", b.got(claim))
	}
	b.pod("second", "10m", templated)
	b.refused("second", "0/1 nodes are available: 1 "+noDevices+".")
	controllertest.Change(t, b.Client, "default", "first", func(p *corev1.Pod) { p.Labels["ends"] = "now" })
	b.await("first", "done", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodSucceeded })
	b.runs("second")
	controllertest.AwaitGone[*resourcev1.ResourceClaim](t, b.Client, "default", claim)

	controllertest.Change(t, b.Client, "", slice.Name, func(s *resourcev1.ResourceSlice) {
		s.Spec.Devices[0].Taints = []resourcev1.DeviceTaint{{Key: "example.com/broken", Effect: resourcev1.DeviceTaintEffectNoExecute}}
	})
	controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", "second")
	b.pod("third", "10m", templated)
	b.refused("third", "0/1 nodes are available: 1 "+noDevices+".")
	controllertest.Change(t, b.Client, "", slice.Name, func(s *resourcev1.ResourceSlice) { s.Spec.Devices[0].Taints = nil })
	b.runs("third")
	// A rule does the same for all devices of a driver.
	rule := create(b, &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: resourcev1.DeviceTaintRuleSpec{
		DeviceSelector: &resourcev1.DeviceTaintSelector{Driver: new(driver)}, Taint: resourcev1.DeviceTaint{Key: "example.com/drain", Effect: resourcev1.DeviceTaintEffectNoExecute}}})
	controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", "third")
	b.pod("fourth", "10m", templated)
	b.refused("fourth", "0/1 nodes are available: 1 "+noDevices+".")
	if err := b.Client.Delete(t.Context(), rule); err != nil {
		t.Fatal(err)
	}
	b.runs("fourth")
}

// TestExtendedResourcesGoFromPodToPod is the same for devices that pods request as extended resources.
func TestExtendedResourcesGoFromPodToPod(t *testing.T) {
	b := together(t)
	b.deviceClass("gpu", "true", func(c *resourcev1.DeviceClass) { c.Spec.ExtendedResourceName = new("example.com/card") })
	b.node("n1", "8")
	b.slice("n1", device("0"))
	b.pod("first", "10m", asking("example.com/card", "1"))
	claim := b.runs("first").Status.ExtendedResourceClaimStatus.ResourceClaimName
	b.pod("second", "10m", asking("example.com/card", "1"))
	b.refused("second", "0/1 nodes are available: 1 "+noDevices+".")
	controllertest.Change(t, b.Client, "default", "first", func(p *corev1.Pod) { p.Labels["ends"] = "now" })
	b.runs("second")
	controllertest.AwaitGone[*resourcev1.ResourceClaim](t, b.Client, "default", claim)
}

// TestAnEphemeralVolumeComesAndGoesWithItsPod: its claim is made, provisioned for the node that is chosen, and deleted with the pod.
func TestAnEphemeralVolumeComesAndGoesWithItsPod(t *testing.T) {
	b := together(t)
	b.controlVolumes()
	b.class("dynamic", "p.example.com", storagev1.VolumeBindingWaitForFirstConsumer)
	b.node("small", "500m")
	b.node("large", "8")
	class := "dynamic"
	b.pod("p", "1", func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
			Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: &class,
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}}}}}
	})
	if at := b.runs("p").Spec.NodeName; at != "large" {
		t.Errorf("it is on %s", at)
	}
	claim, ok := client.Get[*corev1.PersistentVolumeClaim](b.Client.View(), "default", "p-scratch")
	if !ok || claim.Spec.VolumeName != "for-p-scratch" || !metav1.IsControlledBy(claim, b.now("p")) {
		t.Errorf("the claim is %+v", claim)
	}
	// Nobody protects claims that are in use here.
	controllertest.Change(t, b.Client, "default", "p-scratch", func(c *corev1.PersistentVolumeClaim) { c.Finalizers = nil })
	b.kill("p")
	controllertest.AwaitGone[*corev1.PersistentVolumeClaim](t, b.Client, "default", "p-scratch")
}
