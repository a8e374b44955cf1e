package podspec

import (
	"reflect"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestEveryListOfContainersIsYielded fills each list of containers in the spec, found by reflection, so that a list of a later API
// version is noticed.
func TestEveryListOfContainersIsYielded(t *testing.T) {
	pod := &corev1.Pod{}
	want := 0
	spec := reflect.ValueOf(&pod.Spec).Elem()
	for i := range spec.NumField() {
		if name := spec.Type().Field(i).Name; strings.HasSuffix(name, "ontainers") && spec.Field(i).Kind() == reflect.Slice {
			l := reflect.MakeSlice(spec.Field(i).Type(), 1, 1)
			l.Index(0).FieldByName("Name").SetString(name)
			spec.Field(i).Set(l)
			want++
		}
	}
	got := 0
	for c, kind := range Containers(pod) {
		if !strings.EqualFold(kind.Field(), c.Name) {
			t.Errorf("%s is yielded as of %s", c.Name, kind.Field())
		}
		if found, k := Container(pod, c.Name); found != c || k != kind {
			t.Errorf("%s is not found again", c.Name)
		}
		c.Image = "changed" // it is the pod's own container, not a copy
		got++
	}
	if got != want || want != 3 {
		t.Errorf("%d containers of %d lists", got, want)
	}
	if pod.Spec.EphemeralContainers[0].Image != "changed" {
		t.Error("an ephemeral container was copied")
	}
	for range Containers(pod) {
		break
	}
	if p := FieldPath(pod, "EphemeralContainers"); p != "spec.ephemeralContainers{EphemeralContainers}" {
		t.Error(p)
	}
}

func TestLimitOfAPod(t *testing.T) {
	limited := func(n string) corev1.Container {
		return corev1.Container{Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(n)}}}
	}
	always := corev1.ContainerRestartPolicyAlways
	sidecar := limited("1Mi")
	sidecar.RestartPolicy = &always
	for _, c := range []struct {
		name string
		spec corev1.PodSpec
		want string // "" for none
	}{
		{"nothing is limited", corev1.PodSpec{Containers: []corev1.Container{{}}}, ""},
		{"all are", corev1.PodSpec{Containers: []corev1.Container{limited("1Mi"), limited("2Mi")}}, "3Mi"},
		{"one is not", corev1.PodSpec{Containers: []corev1.Container{limited("1Mi"), {}}}, ""},
		{"an init container is not", corev1.PodSpec{InitContainers: []corev1.Container{{}}, Containers: []corev1.Container{limited("1Mi")}}, ""},
		{"a sidecar counts", corev1.PodSpec{InitContainers: []corev1.Container{sidecar}, Containers: []corev1.Container{limited("1Mi")}}, "2Mi"},
		{"an ephemeral one does not", corev1.PodSpec{Containers: []corev1.Container{limited("1Mi")}, EphemeralContainers: []corev1.EphemeralContainer{{}}}, "1Mi"},
		{"the pod's own wins", corev1.PodSpec{Containers: []corev1.Container{{}}, Resources: &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("5Mi")}}}, "5Mi"},
	} {
		q, ok := Limit(&corev1.Pod{Spec: c.spec}, corev1.ResourceMemory)
		if ok != (c.want != "") || ok && q.Cmp(resource.MustParse(c.want)) != 0 {
			t.Errorf("%s: %s, %v; want %q", c.name, q.String(), ok, c.want)
		}
	}
}
