package followed

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// template takes variables and files from ConfigMaps and Secrets, in every way there is.
func template() *corev1.PodTemplateSpec {
	yes := true
	named := func(name string) corev1.LocalObjectReference { return corev1.LocalObjectReference{Name: name} }
	return &corev1.PodTemplateSpec{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{EnvFrom: []corev1.EnvFromSource{
			{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: named("a")}},
			{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: named("a"), Optional: &yes}},
		}}},
		Containers: []corev1.Container{{Env: []corev1.EnvVar{
			{Name: "plain", Value: "x"}, {Name: "field", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
			{Name: "map", ValueFrom: &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: named("b"), Optional: &yes}}},
			{Name: "secret", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: named("b")}}},
		}}},
		Volumes: []corev1.Volume{
			{VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: named("b")}}}, // required here
			{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "c", Optional: &yes}}},
			{VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
				{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: named("d"), Optional: &yes}}, {Secret: &corev1.SecretProjection{LocalObjectReference: named("d")}}, {},
			}}}},
		},
	}}
}

func TestReferences(t *testing.T) {
	for annotation, want := range map[string]string{
		"":     "",
		"*":    "configmap/a configmap/b configmap/d? secret/a? secret/b secret/c? secret/d",
		" * ":  "configmap/a configmap/b configmap/d? secret/a? secret/b secret/c? secret/d",
		"none": "",
		"secret/x, ConfigMap/a,secret/c,configmap/a": "configmap/a secret/c? secret/x", // each once, in order
		"pod/a, secret/, /a, secret":                 "",
	} {
		got := ""
		for i, r := range References(&metav1.ObjectMeta{Annotations: map[string]string{Annotation: annotation}}, template()) {
			if i > 0 {
				got += " "
			}
			got += r.String()
			if r.Optional {
				got += "?"
			}
		}
		if got != want {
			t.Errorf("%q: %s, want %s", annotation, got, want)
		}
	}
	if refs := References(&metav1.ObjectMeta{Annotations: map[string]string{Annotation: "*"}}, &corev1.PodTemplateSpec{}); len(refs) != 0 {
		t.Error(fmt.Sprint("a template without references: ", refs))
	}
}
