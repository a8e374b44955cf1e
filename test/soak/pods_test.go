package soak_test

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

const image = "kontiki/tools:1"

func pod(name string, change func(*corev1.Pod)) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": "soak"}}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64(2)),
		Containers:                    []corev1.Container{{Name: "c", Image: image, Command: []string{"tools", "sleep"}}},
	}}
	change(p)
	return p
}

func shell(name, script string) corev1.Container {
	return corev1.Container{Name: name, Image: image, Command: []string{"sh", "-c", script}}
}

func script(command string) *corev1.ExecAction {
	return &corev1.ExecAction{Command: []string{"sh", "-c", command}}
}

// kinds are the kinds of pods that are created.
var kinds = []func(*corev1.Pod){
	func(*corev1.Pod) {},
	// crashes
	func(p *corev1.Pod) { p.Spec.Containers[0] = shell("c", "exit 1") },
	// ends
	func(p *corev1.Pod) {
		p.Spec.RestartPolicy, p.Spec.Containers[0] = corev1.RestartPolicyNever, shell("c", "echo done")
	},
	// ignores the signal to end, and leaves children
	func(p *corev1.Pod) {
		p.Spec.Containers[0] = shell("c", "trap '' TERM; (while :; do sleep 1; done) & while :; do sleep 1; done")
	},
	// init, sidecar, and volumes of many kinds
	func(p *corev1.Pod) {
		sidecar := shell("sidecar", "while :; do sleep 1; done")
		sidecar.RestartPolicy = new(corev1.ContainerRestartPolicyAlways)
		p.Spec.InitContainers = []corev1.Container{shell("init", "echo x > /empty/x"), sidecar}
		p.Spec.Volumes = []corev1.Volume{
			{Name: "empty", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "memory", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory, SizeLimit: new(resource.MustParse("1Mi"))}}},
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "soak"}}}},
			{Name: "secret", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "soak"}}},
			{Name: "down", VolumeSource: corev1.VolumeSource{DownwardAPI: &corev1.DownwardAPIVolumeSource{Items: []corev1.DownwardAPIVolumeFile{
				{Path: "labels", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}},
			{Name: "image", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "docker.io/library/busybox:latest", PullPolicy: corev1.PullIfNotPresent}}},
		}
		var mounts []corev1.VolumeMount
		for _, v := range p.Spec.Volumes {
			mounts = append(mounts, corev1.VolumeMount{Name: v.Name, MountPath: "/" + v.Name})
		}
		mounts = append(mounts, corev1.VolumeMount{Name: "empty", MountPath: "/sub", SubPath: "x"})
		p.Spec.InitContainers[0].VolumeMounts = mounts[:1]
		p.Spec.Containers[0].VolumeMounts = mounts
		p.Spec.SecurityContext = &corev1.PodSecurityContext{FSGroup: new(int64(3000))}
	},
	// a claim of its own, from local-path
	func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "data", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
			Spec: corev1.PersistentVolumeClaimSpec{AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Mi")}}}}}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "data", MountPath: "/data"}}
	},
	// probes that fail, and hooks
	func(p *corev1.Pod) {
		c := &p.Spec.Containers[0]
		c.LivenessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: script("exit 1")}, PeriodSeconds: 1, FailureThreshold: 2}
		c.ReadinessProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: intstr.FromInt32(1)}}, PeriodSeconds: 1}
		c.Lifecycle = &corev1.Lifecycle{PostStart: &corev1.LifecycleHandler{Exec: script("sleep 0.2")}, PreStop: &corev1.LifecycleHandler{Exec: script("sleep 1")}}
	},
	// a port of the host, and limits
	func(p *corev1.Pod) {
		c := &p.Spec.Containers[0]
		c.Ports = []corev1.ContainerPort{{ContainerPort: 80, HostPort: 31080}}
		c.Resources.Limits = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("32Mi")}
	},
	// processes and network of the host and of each other
	func(p *corev1.Pod) {
		p.Spec.HostNetwork, p.Spec.ShareProcessNamespace = true, new(true)
		p.Spec.Containers = append(p.Spec.Containers, shell("other", "while :; do sleep 1; done"))
	},
	// an image that cannot be had, and a volume that does not exist
	func(p *corev1.Pod) { p.Spec.Containers[0].Image = "127.0.0.1:1/nothing:1" },
	func(p *corev1.Pod) {
		p.Spec.Volumes = []corev1.Volume{{Name: "none", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: "none"}}}}}
	},
}
