package agent

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/node/pods"
	"github.com/kontiki/kontiki/node/static"
	"github.com/kontiki/kontiki/node/wire"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// sink passes what pods report to the master; static pods report through their mirror pods.
type sink struct{ *Agent }

// PodStatus implements pods.Sink.
func (s sink) PodStatus(pod *corev1.Pod, status corev1.PodStatus, terminated bool) {
	s.metrics.status(pod, &status, terminated)
	if !s.static.Status(pod, status, terminated) {
		s.out.PodStatus(pod, status, terminated)
	}
}

// Event implements pods.Sink. Events of a static pod have its own UID, with which clients look for those of its mirror pod.
func (s sink) Event(e pods.Event) { s.out.Event(e) }

func (a *Agent) reportMirror(mirror *corev1.Pod, status corev1.PodStatus) {
	a.out.PodStatus(mirror, status, false)
}

// mirrors are the mirror pods as the session's master has them.
type mirrors struct{ *Agent }

// List implements static.Mirrors.
func (m mirrors) List() []*corev1.Pod {
	return slices.DeleteFunc(m.store.allPods(), func(p *corev1.Pod) bool { return p.Spec.NodeName != m.c.NodeName || !static.IsMirror(p) })
}

// Create implements static.Mirrors.
func (m mirrors) Create(ctx context.Context, pod *corev1.Pod) error {
	master, err := m.master()
	if err != nil {
		return err
	}
	raw, err := wire.Encode("v1", "Pod", pod)
	if err != nil {
		return err
	}
	_, err = master.CreateMirrorPod(ctx, &nodev1.CreateMirrorPodRequest{Pod: raw})
	return err
}

// Delete implements static.Mirrors.
func (m mirrors) Delete(ctx context.Context, mirror *corev1.Pod) error {
	master, err := m.master()
	if err != nil {
		return err
	}
	_, err = master.DeleteMirrorPod(ctx, &nodev1.DeleteMirrorPodRequest{Namespace: mirror.Namespace, Name: mirror.Name, Uid: string(mirror.UID)})
	return err
}
