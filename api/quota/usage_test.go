package quota

import (
	"maps"
	"math"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func list(pairs ...string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[corev1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

// TestPodUsage: a pod uses what it and its containers request, at least what the node has allocated to it while it is resized.
func TestPodUsage(t *testing.T) {
	always := corev1.ContainerRestartPolicyAlways
	container := func(requests corev1.ResourceList) corev1.Container {
		return corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{Requests: requests}}
	}
	for name, c := range map[string]struct {
		pod  corev1.Pod
		want Usage
	}{
		"init containers run one by one, sidecars stay": {
			corev1.Pod{Spec: corev1.PodSpec{
				InitContainers: []corev1.Container{container(list("cpu", "3")), {Name: "s", RestartPolicy: &always, Resources: corev1.ResourceRequirements{Requests: list("cpu", "500m")}}},
				Containers:     []corev1.Container{container(list("cpu", "1")), container(list("cpu", "1"))}, Overhead: list("cpu", "100m")}},
			Usage{"pods": 1000, "count/pods": 1000, "cpu": 3100, "requests.cpu": 3100},
		},
		"the pod's own resources": {
			corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{container(list("cpu", "1"))}, Resources: &corev1.ResourceRequirements{Requests: list("cpu", "2")}}},
			Usage{"pods": 1000, "count/pods": 1000, "cpu": 2000, "requests.cpu": 2000},
		},
		"huge pages, extended resources and limits": {
			corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{
				Requests: list("hugepages-2Mi", "4Mi", "example.com/gpu", "2"), Limits: list("hugepages-2Mi", "4Mi", "example.com/gpu", "2", "cpu", "1500m")}}}}},
			Usage{"pods": 1000, "count/pods": 1000, "hugepages-2Mi": 4 << 20 * 1000, "requests.hugepages-2Mi": 4 << 20 * 1000, "requests.example.com/gpu": 2000, "limits.cpu": 1500},
		},
		"a smaller size that the node has not applied": {
			corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{container(list("cpu", "1"))}},
				Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "c", AllocatedResources: list("cpu", "4"), Resources: &corev1.ResourceRequirements{Requests: list("cpu", "4")}}}}},
			Usage{"pods": 1000, "count/pods": 1000, "cpu": 4000, "requests.cpu": 4000},
		},
		"ended": {
			corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{container(list("cpu", "1"))}}, Status: corev1.PodStatus{Phase: corev1.PodSucceeded}},
			Usage{"count/pods": 1000},
		},
	} {
		got := pods.of(&c.pod)
		for resource, n := range c.want {
			if got[resource] != n {
				t.Errorf("%s: %s is %d, want %d", name, resource, got[resource], n)
			}
			if !pods.matches(resource) {
				t.Errorf("%s is not a resource of pods", resource)
			}
		}
		if len(got) != len(c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
	for _, other := range []corev1.ResourceName{"services", "count/secrets", "nvidia.com/gpu", "requests.storage"} {
		if pods.matches(other) {
			t.Errorf("%s is a resource of pods", other)
		}
	}
}

// TestDeviceClaimUsage: devices count by class; of alternatives the largest number, and "all" as many as a claim can have.
func TestDeviceClaimUsage(t *testing.T) {
	claim := &resourceapi.ResourceClaim{Spec: resourceapi.ResourceClaimSpec{Devices: resourceapi.DeviceClaim{Requests: []resourceapi.DeviceRequest{
		{Exactly: &resourceapi.ExactDeviceRequest{DeviceClassName: "gpu", AllocationMode: resourceapi.DeviceAllocationModeExactCount, Count: 2}},
		{FirstAvailable: []resourceapi.DeviceSubRequest{
			{DeviceClassName: "gpu", AllocationMode: resourceapi.DeviceAllocationModeExactCount, Count: 1},
			{DeviceClassName: "gpu", AllocationMode: resourceapi.DeviceAllocationModeExactCount, Count: 4},
			{DeviceClassName: "nic", AllocationMode: resourceapi.DeviceAllocationModeAll},
		}},
	}}}}
	got := deviceClaims.of(claim)
	want := Usage{"count/resourceclaims.resource.k8s.io": 1000, "gpu.deviceclass.resource.k8s.io/devices": 6000, "nic.deviceclass.resource.k8s.io/devices": 32000}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	for name := range want {
		if !deviceClaims.matches(name) {
			t.Errorf("%s is not a resource of claims", name)
		}
	}
}

func TestQuantities(t *testing.T) {
	for text, want := range map[string]int64{"1": 1000, "1m": 1, "1u": 1, "0": 0, "1Gi": 1 << 30 * 1000, "9223372036854775807": math.MaxInt64, "9P": 9e18, "10P": math.MaxInt64} {
		if got := milli(resource.MustParse(text)); got != want {
			t.Errorf("%s is %d thousandths, want %d", text, got, want)
		}
	}
	q := quantity(1500, resource.DecimalSI)
	if q.String() != "1500m" {
		t.Error(q.String())
	}
	if q = quantity(1<<30*1000, resource.BinarySI); q.String() != "1Gi" {
		t.Error(q.String())
	}
}
