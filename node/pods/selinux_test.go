package pods

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/selinux"
)

// TestSELinuxOptionsReachTheRuntime also looks which mounts are to be relabelled: those that are the pod's, not the host's.
func TestSELinuxOptionsReachTheRuntime(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.stop()
		n.rt.SetFeatures(runtime.Features{SELinux: true, SELinuxLabels: true, Handlers: []runtime.HandlerFeatures{{}}})
		n.paths = map[string]string{"own": "/data/own", "host": "/srv"}
		n.start()
		p := pod("a", corev1.RestartPolicyAlways, trap, trap)
		p.Spec.SecurityContext = &corev1.PodSecurityContext{SELinuxOptions: &corev1.SELinuxOptions{Type: "web_t", Level: "s0:c1,c2"}}
		p.Spec.Containers[1].SecurityContext = &corev1.SecurityContext{SELinuxOptions: &corev1.SELinuxOptions{Type: "db_t"}}
		p.Spec.Volumes = []corev1.Volume{
			{Name: "own", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "host", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/srv"}}},
		}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "own", MountPath: "/own"}, {Name: "host", MountPath: "/host"}}
		n.m.Update(p)
		pass(time.Minute)
		first := n.rt.Config(n.running(p, p.Spec.Containers[0].Name).ID)
		if want := (selinux.Options{Type: "web_t", Level: "s0:c1,c2"}); first.Sandbox.SELinux == nil || *first.Sandbox.SELinux != want || first.Security.SELinux != nil {
			t.Errorf("the pod's options: %+v, the container's own: %+v", first.Sandbox.SELinux, first.Security.SELinux)
		}
		if second := n.rt.Config(n.running(p, p.Spec.Containers[1].Name).ID); second.Security.SELinux == nil || *second.Security.SELinux != (selinux.Options{Type: "db_t"}) {
			t.Errorf("the second container's options: %+v", second.Security.SELinux)
		}
		for _, m := range first.Mounts {
			if m.Relabel != (m.ContainerPath != "/host") {
				t.Errorf("%s: relabelled is %t", m.ContainerPath, m.Relabel)
			}
		}
	})
}
