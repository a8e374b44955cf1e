package statefulset

import (
	"maps"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/controller/pods"
)

// ordinalOf returns the name of a pod's set and the pod's ordinal, by the pod's name; the ordinal is -1 if the name has none.
func ordinalOf(pod *corev1.Pod) (set string, ordinal int) {
	parts := ordinalSuffix.FindStringSubmatch(pod.Name)
	if parts == nil {
		return "", -1
	}
	n, err := strconv.ParseUint(parts[2], 10, 32) // start and replicas are below 2^31 each, their sum is below 2^32
	if err != nil {
		return parts[1], -1
	}
	return parts[1], int(n)
}

// isMember says whether a pod has the name of one of a set's pods. "web-01" is none, as it would stand in the way of "web-1".
func isMember(set *appsv1.StatefulSet, pod *corev1.Pod) bool {
	name, ordinal := ordinalOf(pod)
	return name == set.Name && ordinal >= 0 && pod.Name == podName(set, ordinal)
}

// first returns the lowest ordinal of a set.
func first(set *appsv1.StatefulSet) int {
	if set.Spec.Ordinals == nil {
		return 0
	}
	return int(set.Spec.Ordinals.Start)
}

// inRange says whether a set is to have a pod with an ordinal.
func inRange(set *appsv1.StatefulSet, ordinal int) bool {
	return ordinal >= first(set) && ordinal < first(set)+int(*set.Spec.Replicas)
}

func podName(set *appsv1.StatefulSet, ordinal int) string {
	return set.Name + "-" + strconv.Itoa(ordinal)
}

func claimName(set *appsv1.StatefulSet, template string, ordinal int) string {
	return template + "-" + set.Name + "-" + strconv.Itoa(ordinal)
}

// newPod returns the pod for an ordinal by a template, at a revision.
func newPod(set *appsv1.StatefulSet, template *corev1.PodTemplateSpec, revision string, ordinal int) *corev1.Pod {
	pod := pods.FromTemplate(template, set, gvk)
	pod.Name = podName(set, ordinal)
	identify(pod, ordinal)
	pod.Labels[appsv1.StatefulSetRevisionLabel] = revision
	pod.Spec.Hostname, pod.Spec.Subdomain = pod.Name, set.Spec.ServiceName
	useClaims(set, pod, ordinal)
	return pod
}

// identify sets the labels that say which pod of its set it is.
func identify(pod *corev1.Pod, ordinal int) {
	pod.Labels = maps.Clone(pod.Labels)
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.StatefulSetPodNameLabel] = pod.Name
	pod.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
}

// identified says whether a pod of a set has the label of its identity.
func identified(pod *corev1.Pod) bool { return pod.Labels[appsv1.StatefulSetPodNameLabel] == pod.Name }

func revisionOf(pod *corev1.Pod) string { return pod.Labels[appsv1.StatefulSetRevisionLabel] }

func terminating(pod *corev1.Pod) bool { return pod.DeletionTimestamp != nil }

func runningAndReady(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodRunning && pods.Ready(pod)
}
