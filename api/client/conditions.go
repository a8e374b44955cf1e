package client

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/objects"
)

// SetPodCondition replaces a pod's condition of the same type, and keeps its transition time if the status is unchanged. pod must be
// a copy.
func SetPodCondition(pod *corev1.Pod, condition corev1.PodCondition) {
	objects.SetPodCondition(pod, condition)
}
