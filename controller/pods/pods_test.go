package pods_test

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/controller/pods"
)

func TestAvailability(t *testing.T) {
	now := time.Now()
	pod := func(status corev1.ConditionStatus, since time.Time) *corev1.Pod {
		return &corev1.Pod{Status: corev1.PodStatus{Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}, {Type: corev1.PodReady, Status: status, LastTransitionTime: metav1.NewTime(since)}}}}
	}
	for _, c := range []struct {
		name      string
		pod       *corev1.Pod
		minReady  int32
		available bool
		after     time.Duration
	}{
		{"no condition", &corev1.Pod{}, 0, false, 0},
		{"not ready", pod(corev1.ConditionFalse, now.Add(-time.Hour)), 0, false, 0},
		{"at once", pod(corev1.ConditionTrue, now), 0, true, 0},
		{"not yet", pod(corev1.ConditionTrue, now.Add(-4*time.Second)), 10, false, 6 * time.Second},
		{"just now", pod(corev1.ConditionTrue, now.Add(-10*time.Second)), 10, true, 0},
		{"no time", pod(corev1.ConditionTrue, time.Time{}), 10, false, 0},
	} {
		if available, after := pods.Available(c.pod, c.minReady, now); available != c.available || after != c.after {
			t.Errorf("%s: %v after %v", c.name, available, after)
		}
	}
}

func TestActive(t *testing.T) {
	deleted := metav1.Now()
	for phase, want := range map[corev1.PodPhase]bool{corev1.PodPending: true, corev1.PodRunning: true, corev1.PodUnknown: true, corev1.PodSucceeded: false, corev1.PodFailed: false} {
		p := &corev1.Pod{Status: corev1.PodStatus{Phase: phase}}
		if pods.Active(p) != want {
			t.Errorf("%s: %v", phase, !want)
		}
		p.DeletionTimestamp = &deleted
		if pods.Active(p) {
			t.Errorf("%s and deleted: active", phase)
		}
	}
}

func TestFromTemplateSharesNothing(t *testing.T) {
	owner := &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a.b", UID: "u"}}
	template := &corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}, Finalizers: []string{"example.com/f"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	p := pods.FromTemplate(template, owner, appsv1.SchemeGroupVersion.WithKind("ReplicaSet"))
	if p.Namespace != "ns" || p.GenerateName != "a.b-" || p.Labels["a"] != "b" || p.Annotations["c"] != "d" || len(p.Finalizers) != 1 || !pods.ControlledBy(p, owner) {
		t.Errorf("pod %+v", p.ObjectMeta)
	}
	p.Labels["a"], p.Spec.Containers[0].Name = "changed", "changed"
	if template.Labels["a"] != "b" || template.Spec.Containers[0].Name != "c" {
		t.Error("the template was changed through the pod")
	}
}
