package registry

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const podWithCPU = `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","annotations":{"a":"1e99999"}},"spec":{"containers":[{"name":"c","image":"i",
"env":[{"name":"E","value":"1e99999"}],"resources":{"limits":{CPU}}}]}}`

func TestQuantitiesAreBoundedBeforeTheyAreParsed(t *testing.T) {
	for cpu, bad := range map[string]bool{
		`"cpu":"1"`: false, `"cpu":"1e3"`: false, `"cpu":"1e999"`: false, `"cpu":"1e0000003"`: false, `"cpu":1e3`: false,
		`"cpu":"1e1000"`: true, `"cpu":"1e-2000000000"`: true, `"cpu":"5E+99999"`: true, `"cpu":1e-99999`: true, `"cpu":" 1e-99999 "`: true,
		`"cpu":"1e-99999","cpu":"1"`: true,
	} {
		body := strings.Replace(podWithCPU, "CPU", cpu, 1)
		if err := CheckQuantities([]byte(body), &corev1.Pod{}); (err != nil) != bad {
			t.Errorf("%s: %v", cpu, err)
		}
	}
	yaml := "kind: Pod\nspec:\n  containers:\n  - resources:\n      requests:\n        memory: 1e-99999k\n"
	if err := CheckQuantities([]byte(yaml), &corev1.Pod{}); err != nil {
		t.Errorf("what is no number is left to parsing: %v", err)
	}
	if err := CheckQuantities([]byte(strings.Replace(yaml, "1e-99999k", `"1e-99999"`, 1)), &corev1.Pod{}); err == nil {
		t.Error("a quantity in YAML passed")
	}
	if err := CheckQuantities([]byte(`{"data":{"cpu":"1e99999"}}`), &corev1.ConfigMap{}); err != nil {
		t.Errorf("a ConfigMap has no quantities: %v", err)
	}
	if err := CheckQuantities([]byte("{"+strings.Repeat(`"spec":{`, 100000)+`"a":"1e99999"`), &corev1.Pod{}); err != nil {
		t.Errorf("what is nested too deeply is left to decoding: %v", err)
	}
}

func TestQuantitiesInProtobufAreBounded(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "x"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c",
		Env: []corev1.EnvVar{{Name: "E", Value: "1e99999"}}, Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{"cpu": resource.MustParse("123456789")}}}}}}
	raw, err := pod.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	body := append([]byte("k8s\x00"), raw...)
	if err := CheckQuantities(body, &corev1.Pod{}); err != nil {
		t.Fatal(err)
	}
	bad := []byte(strings.Replace(string(body), "\x0a\x09123456789", "\x0a\x091e-200000", 1))
	if string(bad) == string(body) {
		t.Fatal("the quantity was not found")
	}
	if err := CheckQuantities(bad, &corev1.Pod{}); err == nil {
		t.Error("a quantity in protobuf passed")
	}
}
