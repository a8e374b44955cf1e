package devicetainteviction_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/devicetainteviction"
	"github.com/kontiki/kontiki/test/harness"
)

type bed struct {
	*harness.Harness
	t        testing.TB
	recorder *controllertest.Recorder
}

func start(t testing.TB) *bed {
	t.Helper()
	b := &bed{harness.New(t), t, controllertest.NewRecorder()}
	controllertest.Create(t, b.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	controllertest.Run(t, b.Client, devicetainteviction.New(devicetainteviction.Config{Client: b.Client, Recorder: b.recorder, StatusPeriod: time.Nanosecond})...)
	controllertest.StartKubelet(t, b.Client)
	return b
}

// pod creates a pod with a claim of its name, for which a device of the pool n1 is allocated and which tolerates what is given.
func (b *bed) pod(name, device string, tolerations ...resourcev1.DeviceToleration) *corev1.Pod {
	b.t.Helper()
	controllertest.Create(b.t, b.Client, &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: resourcev1.ResourceClaimSpec{
		Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{{Name: "gpu", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpus"}}}}}})
	pod := controllertest.Create(b.t, b.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.PodSpec{
		ResourceClaims: []corev1.PodResourceClaim{{Name: "card", ResourceClaimName: new(name)}}, Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
	controllertest.ChangeStatus(b.t, b.Client, "default", name, func(c *resourcev1.ResourceClaim) {
		c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
			{Request: "gpu", Driver: "gpu.example.com", Pool: "n1", Device: device, Tolerations: tolerations}}}}
		c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: name, UID: pod.UID}}
	})
	return controllertest.Await(b.t, b.Client, "default", name, "runs", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
}

func taint(effect resourcev1.DeviceTaintEffect) resourcev1.DeviceTaint {
	now := metav1.Now()
	return resourcev1.DeviceTaint{Key: "example.com/broken", Value: "yes", Effect: effect, TimeAdded: &now}
}

func (b *bed) slice(name string, generation int64, taints map[string][]resourcev1.DeviceTaint) {
	b.t.Helper()
	slice := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceSliceSpec{
		Driver: "gpu.example.com", NodeName: new("n1"), Pool: resourcev1.ResourcePool{Name: "n1", Generation: generation, ResourceSliceCount: 1}}}
	for _, device := range []string{"0", "1"} {
		slice.Spec.Devices = append(slice.Spec.Devices, resourcev1.Device{Name: "gpu-" + device, Taints: taints["gpu-"+device]})
	}
	controllertest.Create(b.t, b.Client, slice)
}

// watch remembers the reasons for which pods were disrupted, which are complete when stop has returned.
func (b *bed) watch() (reasons map[string]string, stop func()) {
	reasons = map[string]string{}
	stop = controllertest.Follow(b.t, b.Client, []client.Object{&corev1.Pod{}}, func(client.View) {}, func(events []client.Event) {
		for _, e := range events {
			for _, c := range e.Object().(*corev1.Pod).Status.Conditions {
				if c.Type == corev1.DisruptionTarget {
					reasons[e.Object().GetName()] = c.Reason + ": " + c.Message
				}
			}
		}
	})
	return reasons, stop
}

func (b *bed) stays(name string) {
	b.t.Helper()
	if p, ok := client.Get[*corev1.Pod](b.Client.View(), "default", name); !ok || p.DeletionTimestamp != nil {
		b.t.Errorf("pod %s is deleted", name)
	}
}

func TestADriverTaintsADevice(t *testing.T) {
	b := start(t)
	hour := int64(3600)
	b.pod("victim", "gpu-0")
	b.pod("other", "gpu-1")
	b.pod("tolerant", "gpu-0", resourcev1.DeviceToleration{Key: "example.com/broken", Operator: resourcev1.DeviceTolerationOpExists, Effect: resourcev1.DeviceTaintEffectNoExecute})
	b.pod("patient", "gpu-0", resourcev1.DeviceToleration{Operator: resourcev1.DeviceTolerationOpExists, Effect: resourcev1.DeviceTaintEffectNoExecute, TolerationSeconds: &hour})
	b.pod("wrong", "gpu-0", resourcev1.DeviceToleration{Key: "example.com/broken", Operator: resourcev1.DeviceTolerationOpEqual, Value: "no", Effect: resourcev1.DeviceTaintEffectNoExecute})
	reasons, stop := b.watch()
	b.slice("first", 1, map[string][]resourcev1.DeviceTaint{"gpu-0": {taint(resourcev1.DeviceTaintEffectNoExecute)}, "gpu-1": {taint(resourcev1.DeviceTaintEffectNoSchedule)}})
	controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", "victim")
	controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", "wrong")
	b.recorder.AwaitN(t, "Normal DeviceTaintManagerEviction Marking for deletion", 2)
	// The newest generation counts: in it the device is well, and the one that waited is left alone.
	b.slice("second", 2, nil)
	b.recorder.Await(t, "Normal DeviceTaintManagerEviction Cancelling deletion")
	for _, name := range []string{"other", "tolerant", "patient"} {
		b.stays(name)
	}
	stop()
	if got := reasons["victim"]; got != "DeletionByDeviceTaintManager: Device Taint manager: deleting due to NoExecute taint" {
		t.Errorf("the reason is %q", got)
	}
}

func TestARuleTaintsDevices(t *testing.T) {
	b := start(t)
	b.slice("s", 1, nil)
	b.pod("victim", "gpu-0")
	b.pod("other", "gpu-1")
	rule := func(name string, effect resourcev1.DeviceTaintEffect) {
		controllertest.Create(t, b.Client, &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.DeviceTaintRuleSpec{
			DeviceSelector: &resourcev1.DeviceTaintSelector{Driver: new("gpu.example.com"), Pool: new("n1"), Device: new("gpu-0")},
			Taint:          resourcev1.DeviceTaint{Key: "example.com/broken", Effect: effect}}})
	}
	says := func(name, reason, message string) {
		t.Helper()
		controllertest.Await(t, b.Client, "", name, fmt.Sprintf("says %s: %s", reason, message), func(r *resourcev1.DeviceTaintRule) bool {
			for _, c := range r.Status.Conditions {
				if c.Type == "EvictionInProgress" && c.Status == metav1.ConditionFalse && c.Reason == reason && c.Message == message && c.ObservedGeneration == r.Generation {
					return true
				}
			}
			return false
		})
	}
	rule("try", resourcev1.DeviceTaintEffectNone)
	says("try", "NoEffect", "1 published device selected. 1 allocated device selected. 1 pod would be evicted in 1 namespace if the effect was NoExecute. This information will not be updated again. Recreate the DeviceTaintRule to trigger an update.")
	rule("keep-away", resourcev1.DeviceTaintEffectNoSchedule)
	says("keep-away", "OtherEffect", "Eviction only happens for the NoExecute effect.")
	b.stays("victim")
	rule("evict", resourcev1.DeviceTaintEffectNoExecute)
	controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", "victim")
	says("evict", "Completed", "1 pod evicted since starting the controller.")
	b.stays("other")
}
