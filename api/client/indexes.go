package client

import corev1 "k8s.io/api/core/v1"

// PodsByNode finds pods by the name of the node that they are assigned to.
var PodsByNode = NewIndex(func(pod *corev1.Pod, add func(string)) {
	if pod.Spec.NodeName != "" {
		add(pod.Spec.NodeName)
	}
})
