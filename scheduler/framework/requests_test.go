package framework

import (
	"math/rand"
	"reflect"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kontiki/kontiki/internal/amount"
)

// TestPlainRequestsAreUpstreams: what is summed up directly is what upstream's helper says.
func TestPlainRequestsAreUpstreams(t *testing.T) {
	r := rand.New(rand.NewSource(1))
	amounts := map[corev1.ResourceName][]string{
		corev1.ResourceCPU: {"100m", "1", "0", "1500m", "0.0005", "2.5", "100u"}, corev1.ResourceMemory: {"1Gi", "0", "1000", "1.5Gi", "100m", "0.5", "1e3"},
		corev1.ResourceEphemeralStorage: {"1Gi", "7"}, "example.com/gpu": {"1", "0", "3"}, "hugepages-2Mi": {"4Mi"},
	}
	plain := 0
	for range 3000 {
		pod := &corev1.Pod{}
		for range r.Intn(4) {
			c := corev1.Container{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{}}}
			for name, texts := range amounts {
				if r.Intn(2) == 0 {
					c.Resources.Requests[name] = resource.MustParse(texts[r.Intn(len(texts))])
				}
			}
			pod.Spec.Containers = append(pod.Spec.Containers, c)
		}
		switch r.Intn(20) {
		case 0:
			pod.Spec.Overhead = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}
		case 1:
			pod.Spec.InitContainers = []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("9")}}}}
		case 2:
			pod.Spec.Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("9")}}
		case 3:
			pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodResizePending, Reason: corev1.PodReasonInfeasible, Status: corev1.ConditionTrue}}
		}
		if _, _, ok := plainRequests(pod); ok {
			plain++
		}
		requests, scored := requestsOf(pod)
		wantRequests, wantScored := helperRequests(pod)
		if !requests.equal(&wantRequests) || !scored.equal(&wantScored) {
			t.Fatalf("%+v\nrequests %+v, want %+v; for scoring %+v, want %+v", pod.Spec, requests, wantRequests, scored, wantScored)
		}
	}
	if plain < 500 {
		t.Errorf("only %d pods were plain", plain)
	}
}

// TestRequestsBeyondAllBoundsAreNotSmall: quantities have no bounds, and as plain numbers some of them, or their sums, are zero or negative.
func TestRequestsBeyondAllBoundsAreNotSmall(t *testing.T) {
	for _, text := range []string{"18446744073709551616", "9223372036854775807", "1e30"} {
		list := corev1.ResourceList{}
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, "example.com/gpu"} {
			list[name] = resource.MustParse(text)
		}
		container := corev1.Container{Resources: corev1.ResourceRequirements{Requests: list}}
		for _, containers := range [][]corev1.Container{{container}, {container, container}} {
			requests, scored := requestsOf(&corev1.Pod{Spec: corev1.PodSpec{Containers: containers}})
			want := Amounts{MilliCPU: amount.Most, Memory: amount.Most, Storage: amount.Most, Scalar: map[corev1.ResourceName]int64{"example.com/gpu": amount.Most}}
			if !requests.equal(&want) || scored.MilliCPU != amount.Most || scored.Memory != amount.Most {
				t.Errorf("%d containers with %s: %+v, for scoring %+v", len(containers), text, requests, scored)
			}
		}
	}
}

// TestABindingIsNoChange: the values of a pod that was bound are kept, and those of one that was resized are not.
func TestABindingIsNoChange(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1")}}}}}}
	pod.Generation = 1
	p := NewPodInfo(pod)
	bound := pod.DeepCopy()
	bound.Spec.NodeName, bound.Generation = "n", 2
	now, changed := p.With(bound)
	if changed || now.Pod != bound || !reflect.DeepEqual(now.Requests, p.Requests) {
		t.Errorf("after the binding: changed %v, %+v", changed, now)
	}
	resized := bound.DeepCopy()
	resized.Generation = 3
	resized.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("2")
	if now, changed := now.With(resized); !changed || now.Requests.MilliCPU != 2000 {
		t.Errorf("after the resize: changed %v, %+v", changed, now.Requests)
	}
	if now, changed := p.With(resized); !changed || now.Requests.MilliCPU != 2000 {
		t.Errorf("after both: changed %v, %+v", changed, now.Requests)
	}
	running := bound.DeepCopy()
	running.Status.ContainerStatuses = []corev1.ContainerStatus{{Resources: &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("3")}}}}
	if now, changed := now.With(running); !changed || now.Requests.MilliCPU != 3000 {
		t.Errorf("when the node says that it still has more: changed %v, %+v", changed, now.Requests)
	}
}
