// Package podspec iterates over the containers in a pod's spec: it alone knows the lists that contain them.
package podspec

import (
	"iter"

	"k8s.io/klog/v2"

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

// QOS returns a pod's QoS class, by its requests and limits for CPU and memory.
func QOS(pod *corev1.Pod) corev1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	var lists []corev1.ResourceRequirements
	if r := pod.Spec.Resources; r != nil && (len(r.Requests) > 0 || len(r.Limits) > 0) {
		lists = append(lists, *r)
	} else {
		for c, kind := range Containers(pod) {
			if kind != Ephemeral {
				lists = append(lists, c.Resources)
			}
		}
	}
	guaranteed, any := true, false
	for _, r := range lists {
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			req, lim := r.Requests[name], r.Limits[name]
			if !req.IsZero() || !lim.IsZero() {
				any = true
			}
			if lim.IsZero() || !req.IsZero() && req.Cmp(lim) != 0 {
				guaranteed = false
			}
		}
	}
	switch {
	case !any:
		return corev1.PodQOSBestEffort
	case guaranteed && len(lists) > 0:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

// HostPorts returns the ports of a pod's containers that are ports of its node.
func HostPorts(pod *corev1.Pod) []corev1.ContainerPort {
	var out []corev1.ContainerPort
	for c := range Containers(pod) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				if p.Protocol == "" {
					p.Protocol = corev1.ProtocolTCP
				}
				out = append(out, p)
			}
		}
	}
	return out
}

// Tolerates says whether a pod tolerates a taint.
func Tolerates(pod *corev1.Pod, taint *corev1.Taint) bool {
	for i := range pod.Spec.Tolerations {
		if pod.Spec.Tolerations[i].ToleratesTaint(klog.Background(), taint, false) {
			return true
		}
	}
	return false
}
