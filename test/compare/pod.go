package main

import (
	"fmt"
	"hash/crc32"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// template is a pod as a Deployment's template makes it: two containers with environment, resources, probes and volumes. It names
// another scheduler, so that the API is measured and not the scheduler, which sees it all the same.
var template = &corev1.Pod{
	ObjectMeta: metav1.ObjectMeta{
		Labels: map[string]string{"app.kubernetes.io/name": "shop", "app.kubernetes.io/instance": "shop-production", "app.kubernetes.io/component": "checkout",
			"app.kubernetes.io/version": "4.11.2", "pod-template-hash": "6d5f8c7b9d"},
		Annotations: map[string]string{"prometheus.io/scrape": "true", "prometheus.io/port": "9090",
			"checksum/config": "1f0c6e8f7bb1c2e5d8a94a3b5c7e9d0f2a4b6c8d0e1f3a5b7c9d1e3f5a7b9c0d"},
	},
	Spec: corev1.PodSpec{
		SchedulerName: "none",
		Containers: []corev1.Container{
			{
				Name: "checkout", Image: "registry.example.com/shop/checkout:4.11.2", Args: []string{"serve", "--port=8080", "--log-format=json"},
				Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "metrics", ContainerPort: 9090}},
				Env: []corev1.EnvVar{
					{Name: "POD_NAME", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
					{Name: "POD_IP", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "status.podIP"}}},
					{Name: "DATABASE_HOST", Value: "postgres.shop.svc.cluster.local"}, {Name: "CACHE_HOST", Value: "redis.shop.svc.cluster.local"},
					{Name: "DATABASE_PASSWORD", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{
						LocalObjectReference: corev1.LocalObjectReference{Name: "checkout"}, Key: "password"}}},
				},
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("250m"), corev1.ResourceMemory: resource.MustParse("256Mi")},
					Limits:   corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("512Mi")},
				},
				VolumeMounts:   []corev1.VolumeMount{{Name: "config", MountPath: "/etc/checkout", ReadOnly: true}, {Name: "cache", MountPath: "/var/cache/checkout"}},
				ReadinessProbe: probe("/readyz", 5), LivenessProbe: probe("/livez", 10),
				SecurityContext: &corev1.SecurityContext{RunAsNonRoot: &yes, ReadOnlyRootFilesystem: &yes, AllowPrivilegeEscalation: new(bool),
					Capabilities: &corev1.Capabilities{Drop: []corev1.Capability{"ALL"}}},
			},
			{
				Name: "proxy", Image: "registry.example.com/mesh/proxy:1.30.1", Args: []string{"proxy", "sidecar"},
				Ports: []corev1.ContainerPort{{Name: "proxy", ContainerPort: 15001}},
				Env:   []corev1.EnvVar{{Name: "MESH_ID", Value: "production"}},
				Resources: corev1.ResourceRequirements{
					Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("50m"), corev1.ResourceMemory: resource.MustParse("64Mi")},
				},
				ReadinessProbe: probe("/healthz", 5),
			},
		},
		Volumes: []corev1.Volume{
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "checkout"}}}},
			{Name: "cache", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		},
		Affinity: &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{
			Weight: 100, PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: corev1.LabelHostname,
				LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app.kubernetes.io/name": "shop"}}},
		}}}},
	},
}

var yes = true

func probe(path string, period int32) *corev1.Probe {
	return &corev1.Probe{PeriodSeconds: period, TimeoutSeconds: 2, ProbeHandler: corev1.ProbeHandler{
		HTTPGet: &corev1.HTTPGetAction{Path: path, Port: intstr.FromInt32(8080)}}}
}

// setStatus sets a status as a node reports it for a pod that has become ready. Each pod has another address.
func setStatus(pod *corev1.Pod) {
	sum := crc32.ChecksumIEEE([]byte(pod.Name))
	address := fmt.Sprintf("10.244.%d.%d", sum>>8&255, sum&255)
	now := metav1.NewTime(time.Now().Truncate(time.Second))
	pod.Status.Phase = corev1.PodRunning
	pod.Status.StartTime = &now
	pod.Status.HostIP, pod.Status.PodIP = "10.0.3.17", address
	pod.Status.HostIPs, pod.Status.PodIPs = []corev1.HostIP{{IP: "10.0.3.17"}}, []corev1.PodIP{{IP: address}}
	pod.Status.Conditions = nil
	for _, kind := range []corev1.PodConditionType{corev1.PodReadyToStartContainers, corev1.PodInitialized, corev1.PodReady, corev1.ContainersReady, corev1.PodScheduled} {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{Type: kind, Status: corev1.ConditionTrue, LastTransitionTime: now})
	}
	pod.Status.ContainerStatuses = nil
	for _, c := range pod.Spec.Containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: c.Name, Image: c.Image, Ready: true, Started: &yes, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
			ImageID:     "registry.example.com/shop@sha256:3f1d5e7c9b0a2d4f6e8c1b3a5d7f9e0c2b4a6d8f1e3c5b7a9d0f2e4c6b8a1d3f",
			ContainerID: "containerd://8c1f3e5d7b9a0c2e4f6d8b1a3c5e7f9d0b2a4c6e8f1d3b5a7c9e0f2d4b6a8c1e",
		})
	}
}
