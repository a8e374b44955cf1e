package fit

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// asking returns a pod that requests CPU and memory, "" for none, and is Guaranteed if its limits are the same.
func asking(name, cpu, memory string, guaranteed bool) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}, Spec: corev1.PodSpec{Containers: make([]corev1.Container, 1)}}
	list := corev1.ResourceList{}
	if cpu != "" {
		list[corev1.ResourceCPU] = resource.MustParse(cpu)
	}
	if memory != "" {
		list[corev1.ResourceMemory] = resource.MustParse(memory)
	}
	p.Spec.Containers[0].Resources.Requests = list
	if guaranteed {
		p.Spec.Containers[0].Resources.Limits = list
	}
	return p
}

func TestVictims(t *testing.T) {
	best, small, medium, large, sure := asking("best", "", "", false), asking("small", "100m", "10Mi", false), asking("medium", "500m", "100Mi", false),
		asking("large", "1", "1Gi", false), asking("sure", "2", "2Gi", true)
	all := []*corev1.Pod{best, small, medium, large, sure}
	for _, c := range []struct {
		lacking Lack
		want    string
	}{
		{Lack{corev1.ResourceCPU: 50}, "small"},
		{Lack{corev1.ResourceCPU: 400}, "medium"},
		{Lack{corev1.ResourceCPU: 1100}, "large small"},
		{Lack{corev1.ResourceCPU: 1700}, "sure"}, // Guaranteed, as the others do not suffice
		{Lack{corev1.ResourceMemory: 1 << 29, corev1.ResourceCPU: 100}, "large"},
		{Lack{corev1.ResourcePods: 1}, "best"},
		{Lack{corev1.ResourceCPU: 100, corev1.ResourcePods: 2}, "best small"},
		{Lack{corev1.ResourceCPU: 4000}, ""},
		{Lack{"example.com/gpu": 1}, ""},
	} {
		var got []string
		for _, p := range Victims(all, c.lacking) {
			got = append(got, p.Name)
		}
		slices.Sort(got)
		if strings.Join(got, " ") != c.want {
			t.Errorf("%v: %q, want %q", c.lacking, strings.Join(got, " "), c.want)
		}
	}
}
