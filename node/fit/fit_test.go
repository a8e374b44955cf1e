package fit

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kontiki/kontiki/node/resources"
)

// TestRequestsBeyondAllBoundsDoNotFit: quantities have no bounds, and as plain numbers some of them, or their sums, are zero or negative.
func TestRequestsBeyondAllBoundsDoNotFit(t *testing.T) {
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, "example.com/gpu"} {
		has := corev1.ResourceList{name: resource.MustParse("64")}
		for _, text := range []string{"65", "9223372036854775807", "18446744073709551616", "18446744073709551617", "1e30"} {
			one := corev1.Container{Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{name: resource.MustParse(text)}, Limits: corev1.ResourceList{name: resource.MustParse(text)}}}
			for _, containers := range [][]corev1.Container{{one}, {one, one}} {
				pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: containers}}
				if r := checkResources(pod, nil, has); r == nil || r.Reason != "OutOf"+string(name) {
					t.Errorf("%d containers with %s of %s: %+v", len(containers), text, name, r)
				}
				if limits := resources.ForPod(pod); name == corev1.ResourceMemory && limits.MemoryLimit <= 0 || name == corev1.ResourceCPU && limits.CPUQuota <= resources.MinQuota {
					t.Errorf("%d containers with %s of %s are limited to %+v", len(containers), text, name, limits)
				}
			}
		}
	}
}
