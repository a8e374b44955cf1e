// Package podspec iterates over the containers in a pod's spec: it alone knows the lists that contain them.
package podspec

import (
	"iter"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	helper "k8s.io/component-helpers/resource"
)

// Kind is the list that contains a container.
type Kind uint8

const (
	Init Kind = iota
	Regular
	Ephemeral
)

// Field returns the list's name in the spec.
func (k Kind) Field() string {
	return [...]string{"initContainers", "containers", "ephemeralContainers"}[k]
}

// Containers yields all containers of a pod: the init containers (including sidecars), the regular ones, the ephemeral ones, each
// in the spec's order.
func Containers(pod *corev1.Pod) iter.Seq2[*corev1.Container, Kind] {
	return func(yield func(*corev1.Container, Kind) bool) {
		for i := range pod.Spec.InitContainers {
			if !yield(&pod.Spec.InitContainers[i], Init) {
				return
			}
		}
		for i := range pod.Spec.Containers {
			if !yield(&pod.Spec.Containers[i], Regular) {
				return
			}
		}
		for i := range pod.Spec.EphemeralContainers {
			if !yield((*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon), Ephemeral) {
				return
			}
		}
	}
}

// Container returns a container by name, nil if there is none.
func Container(pod *corev1.Pod, name string) (*corev1.Container, Kind) {
	for c, kind := range Containers(pod) {
		if c.Name == name {
			return c, kind
		}
	}
	return nil, 0
}

// ContainerStatus returns a container's status by name, nil if there is none.
func ContainerStatus(s *corev1.PodStatus, name string) *corev1.ContainerStatus {
	for _, l := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range l {
			if l[i].Name == name {
				return &l[i]
			}
		}
	}
	return nil
}

// FieldPath returns a container's field path for events: "spec.containers{web}".
func FieldPath(pod *corev1.Pod, name string) string {
	c, kind := Container(pod, name)
	if c == nil {
		kind = Regular
	}
	return "spec." + kind.Field() + "{" + name + "}"
}

// IsSidecar says whether an init container keeps running beside the regular ones.
func IsSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// Limit returns how much of a resource (cpu or memory) the pod's cgroup may use, false if it is not limited: a limit of the pod
// itself, or the sum over its containers if each of them has one. Ephemeral containers have no limits of their own and share the
// pod's.
func Limit(pod *corev1.Pod, name corev1.ResourceName) (resource.Quantity, bool) {
	limits := helper.PodLimits(pod, helper.PodResourcesOptions{})
	q := limits[name]
	if r := pod.Spec.Resources; r != nil {
		if own := r.Limits[name]; !own.IsZero() {
			return q, true
		}
	}
	any := false
	for c, kind := range Containers(pod) {
		if kind == Ephemeral {
			continue
		}
		l := c.Resources.Limits[name]
		if l.IsZero() {
			return resource.Quantity{}, false
		}
		any = true
	}
	return q, any
}

// OwnUsers says whether a pod has a user namespace of its own (hostUsers: false).
func OwnUsers(pod *corev1.Pod) bool { return pod.Spec.HostUsers != nil && !*pod.Spec.HostUsers }
