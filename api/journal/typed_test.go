package journal

import (
	"math/rand"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/apitesting/fuzzer"
	"k8s.io/apimachinery/pkg/api/resource"
	metafuzzer "k8s.io/apimachinery/pkg/apis/meta/fuzzer"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
)

// asDocuments is changedFields by the objects' whole JSON.
func asDocuments(t *testing.T, before, after any) ([]string, bool) {
	t.Helper()
	was, err := runtime.DefaultUnstructuredConverter.ToUnstructured(before)
	if err != nil {
		t.Fatal(err)
	}
	is, err := runtime.DefaultUnstructuredConverter.ToUnstructured(after)
	if err != nil {
		t.Fatal(err)
	}
	return changedPaths(was, is)
}

func TestFieldsOfStructsAreThoseOfTheirJSON(t *testing.T) {
	pod := func(change func(*corev1.Pod)) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Labels: map[string]string{"x": "1"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
		change(p)
		return p
	}
	same := func(*corev1.Pod) {}
	for _, c := range []struct {
		before, after func(*corev1.Pod)
		want          []string
	}{
		{same, func(p *corev1.Pod) { p.ResourceVersion, p.Kind, p.Generation = "2", "Pod", 3 }, nil},
		{same, func(p *corev1.Pod) { p.Spec.NodeName = "n" }, []string{"spec.nodeName"}},
		{same, func(p *corev1.Pod) { p.Labels["y"] = "2" }, []string{"metadata.labels.y"}},
		{same, func(p *corev1.Pod) { p.Annotations = map[string]string{"k": "v"} }, []string{"metadata.annotations.k"}},
		{same, func(p *corev1.Pod) { p.Annotations = map[string]string{} }, nil},
		{same, func(p *corev1.Pod) { p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: new(int64)} }, []string{"spec.securityContext.runAsUser"}},
		{same, func(p *corev1.Pod) { p.Spec.Containers[0].Image = "j" }, []string{"spec.containers[c].image"}},
		{same, func(p *corev1.Pod) { p.Status.Conditions = []corev1.PodCondition{{Type: "Ready"}} }, []string{"status.conditions"}},
		{
			func(p *corev1.Pod) { p.Spec.Overhead = corev1.ResourceList{"cpu": resource.MustParse("1")} },
			func(p *corev1.Pod) { p.Spec.Overhead = corev1.ResourceList{"cpu": resource.MustParse("1000m")} }, nil,
		},
	} {
		before, after := pod(c.before), pod(c.after)
		got, more, err := changedFields(before, after)
		if err != nil || more || !slices.Equal(got, c.want) {
			t.Errorf("fields %v (more: %t), %v; want %v", got, more, err, c.want)
		}
	}
}

// TestFieldsOfRandomObjects compares with the whole documents.
func TestFieldsOfRandomObjects(t *testing.T) {
	seed := rand.Int63()
	t.Logf("seed %d", seed)
	fill := fuzzer.FuzzerFor(metafuzzer.Funcs, rand.NewSource(seed), serializer.NewCodecFactory(runtime.NewScheme()))
	compare := func(before, after any) {
		t.Helper()
		want, wantMore := asDocuments(t, before, after)
		got, more, err := changedFields(before, after)
		if err != nil {
			t.Fatal(err)
		}
		if more != wantMore || !more && !slices.Equal(got, want) {
			t.Fatalf("fields %q (more: %t), want %q (more: %t)", got, more, want, wantMore)
		}
	}
	for range 100 {
		a, b := &corev1.Pod{}, &corev1.Pod{}
		fill.Fill(a)
		fill.Fill(b)
		compare(a, b)
		mixed := a.DeepCopy()
		mixed.Spec.Tolerations, mixed.Spec.Affinity, mixed.Status, mixed.Labels = b.Spec.Tolerations, b.Spec.Affinity, b.Status, b.Labels
		compare(a, mixed)
		if got, _, err := changedFields(a, a.DeepCopy()); err != nil || len(got) > 0 {
			t.Fatalf("fields of a copy: %v, %v", got, err)
		}
		c, d := &appsv1.Deployment{}, &appsv1.Deployment{}
		fill.Fill(c)
		fill.Fill(d)
		d.Spec.Template.Spec = *c.Spec.Template.Spec.DeepCopy()
		compare(c, d)
	}
}

// BenchmarkBinding measures the change that the scheduler makes to a pod.
func BenchmarkBinding(b *testing.B) {
	before := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{
		Requests: corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi")},
	}}}}}
	after := before.DeepCopy()
	after.Spec.NodeName = "n"
	after.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue}}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := changed(before, after); err != nil {
			b.Fatal(err)
		}
	}
}
