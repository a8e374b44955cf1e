package rest_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/kontiki/kontiki/test/harness"
)

// realisticPod returns a pod as a Deployment's template makes it.
func realisticPod(name string) *corev1.Pod {
	probe := func(path string) *corev1.Probe {
		return &corev1.Probe{PeriodSeconds: 5, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(8080)}}}
	}
	container := func(name string) corev1.Container {
		return corev1.Container{
			Name: name, Image: "registry.example.com/shop/" + name + ":4.11.2", Args: []string{"serve", "--port=8080"},
			Ports: []corev1.ContainerPort{{Name: name, ContainerPort: 8080}},
			Env: []corev1.EnvVar{{Name: "DATABASE_HOST", Value: "postgres.shop.svc"},
				{Name: "POD_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}}},
			Resources: corev1.ResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m"), corev1.ResourceMemory: resource.MustParse("256Mi")},
				Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("512Mi")}},
			VolumeMounts:   []corev1.VolumeMount{{Name: "config", MountPath: "/etc/config", ReadOnly: true}, {Name: "cache", MountPath: "/var/cache"}},
			ReadinessProbe: probe("/readyz"), LivenessProbe: probe("/livez"),
		}
	}
	return &corev1.Pod{
		TypeMeta: metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app.kubernetes.io/name": "shop", "app.kubernetes.io/component": "checkout", "pod-template-hash": "6d5f8c7b9d"},
			Annotations: map[string]string{"prometheus.io/scrape": "true"}},
		Spec: corev1.PodSpec{SchedulerName: "none", Containers: []corev1.Container{container("checkout"), container("proxy")}, Volumes: []corev1.Volume{
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "checkout"}}}},
			{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}},
	}
}

// readyStatus returns a status as a node reports it. Each i has another address.
func readyStatus(p *corev1.Pod, i int) corev1.PodStatus {
	s := status(i)
	address := fmt.Sprintf("10.%d.%d.%d", i>>16&255, i>>8&255, i&255)
	s.PodIP, s.PodIPs = address, []corev1.PodIP{{IP: address}}
	s.ContainerStatuses = nil
	for _, c := range p.Spec.Containers {
		s.ContainerStatuses = append(s.ContainerStatuses, corev1.ContainerStatus{Name: c.Name, Image: c.Image, ImageID: "sha256:x", ContainerID: "containerd://y",
			Ready: true, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: *s.StartTime}}})
	}
	return s
}

const (
	typeProtobuf = "application/vnd.kubernetes.protobuf"
	typeJSON     = "application/json"
)

var protobufCodec = protobuf.NewSerializer(scheme.Scheme, scheme.Scheme)

// encodeAs encodes an object as a client with that content type does.
func encodeAs(b testing.TB, contentType string, obj runtime.Object) []byte {
	if contentType == typeJSON {
		return encode(b, obj)
	}
	data, err := runtime.Encode(protobufCodec, obj)
	if err != nil {
		b.Fatal(err)
	}
	return data
}

func decodeAs(b testing.TB, data []byte) *corev1.Pod {
	obj, err := runtime.Decode(scheme.Codecs.UniversalDeserializer(), data)
	if err != nil {
		b.Fatal(err)
	}
	return obj.(*corev1.Pod)
}

// BenchmarkRealisticPod creates, gets, updates the status of (for the first time, and again) and deletes pods of a realistic size.
func BenchmarkRealisticPod(b *testing.B) {
	for _, contentType := range []string{typeJSON, typeProtobuf} {
		b.Run(contentType, func(b *testing.B) {
			h := harness.New(b)
			run := 0
			path := func(i int) string { return fmt.Sprintf("%s/p-%d-%d", podsPath, run, i) }
			// create creates n pods and returns the responses.
			create := func(b *testing.B, n int) (pods []*corev1.Pod) {
				run++
				var bodies, responses [][]byte
				for i := range n {
					bodies = append(bodies, encodeAs(b, contentType, realisticPod(fmt.Sprintf("p-%d-%d", run, i))))
				}
				b.ReportAllocs()
				b.ResetTimer()
				for _, body := range bodies {
					responses = append(responses, do(b, h, "POST", podsPath, contentType, body, contentType).Body.Bytes())
				}
				b.StopTimer()
				for _, response := range responses {
					p := decodeAs(b, response)
					p.TypeMeta = metav1.TypeMeta{Kind: "Pod", APIVersion: "v1"}
					pods = append(pods, p)
				}
				return pods
			}
			update := func(b *testing.B, pods []*corev1.Pod, round int) {
				var bodies [][]byte
				for i, p := range pods {
					p.ResourceVersion = ""
					p.Status = readyStatus(p, i)
					p.Status.ContainerStatuses[0].RestartCount = int32(round)
					bodies = append(bodies, encodeAs(b, contentType, p))
				}
				b.ResetTimer()
				for i, body := range bodies {
					do(b, h, "PUT", path(i)+"/status", contentType, body, contentType)
				}
				b.StopTimer()
			}
			b.Run("create", func(b *testing.B) { create(b, b.N) })
			b.Run("get", func(b *testing.B) {
				create(b, b.N)
				b.ResetTimer()
				b.StartTimer()
				for i := range b.N {
					do(b, h, "GET", path(i), "", nil, contentType)
				}
			})
			b.Run("first status", func(b *testing.B) {
				pods := create(b, b.N)
				b.ResetTimer()
				b.StartTimer()
				update(b, pods, 0)
			})
			b.Run("next status", func(b *testing.B) {
				pods := create(b, b.N)
				update(b, pods, 0)
				b.ResetTimer()
				b.StartTimer()
				update(b, pods, 1)
			})
			b.Run("delete", func(b *testing.B) {
				create(b, b.N)
				b.ResetTimer()
				b.StartTimer()
				for i := range b.N {
					do(b, h, "DELETE", path(i), "", nil, contentType)
				}
			})
		})
	}
}
