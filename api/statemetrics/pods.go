package statemetrics

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func seconds(t metav1.Time) float64 { return float64(t.Unix()) }

type pod = *corev1.Pod

// forContainers calls visit for each container of a pod with its status, which is empty if there is none yet.
func forContainers(p pod, visit func(c *corev1.Container, s *corev1.ContainerStatus)) {
	for i := range p.Spec.Containers {
		c, status := &p.Spec.Containers[i], &corev1.ContainerStatus{}
		for j := range p.Status.ContainerStatuses {
			if p.Status.ContainerStatuses[j].Name == c.Name {
				status = &p.Status.ContainerStatuses[j]
			}
		}
		visit(c, status)
	}
}

// ofStatuses returns what writes a metric of each container that has a status.
func ofStatuses(value func(w *writer, s *corev1.ContainerStatus)) func(*writer, pod) {
	return func(w *writer, p pod) {
		for i := range p.Status.ContainerStatuses {
			value(w, &p.Status.ContainerStatuses[i])
		}
	}
}

// unit returns kube-state-metrics' name and unit of a resource, and its value.
func unit(name corev1.ResourceName, list corev1.ResourceList) (resource, unit string, value float64) {
	q := list[name]
	resource = strings.NewReplacer("/", "_", "-", "_", ".", "_").Replace(string(name))
	switch {
	case name == corev1.ResourceCPU:
		return resource, "core", float64(q.MilliValue()) / 1000
	case name == corev1.ResourceMemory || name == corev1.ResourceStorage || name == corev1.ResourceEphemeralStorage || strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix) || strings.HasPrefix(string(name), "attachable-volumes-"):
		return resource, "byte", float64(q.Value())
	}
	return resource, "integer", float64(q.Value())
}

func podResources(list func(*corev1.Container) corev1.ResourceList) func(*writer, pod) {
	return func(w *writer, p pod) {
		forContainers(p, func(c *corev1.Container, _ *corev1.ContainerStatus) {
			for _, name := range slices.Sorted(maps.Keys(list(c))) {
				resource, unit, value := unit(name, list(c))
				w.metric(value, "container", c.Name, "node", p.Spec.NodeName, "resource", resource, "unit", unit)
			}
		})
	}
}

// ofCondition writes whether a pod's condition is true, false or unknown.
func ofCondition(of corev1.PodConditionType) func(*writer, pod) {
	return func(w *writer, p pod) {
		for i := range p.Status.Conditions {
			if c := &p.Status.Conditions[i]; c.Type == of {
				w.flag(c.Status == corev1.ConditionTrue, "condition", "true")
				w.flag(c.Status == corev1.ConditionFalse, "condition", "false")
				w.flag(c.Status == corev1.ConditionUnknown, "condition", "unknown")
			}
		}
	}
}

var podFamilies = of(func(p pod) []string { return []string{"namespace", p.Namespace, "pod", p.Name, "uid", string(p.UID)} },
	family[pod]{"kube_pod_info", gauge, "Information about pod.", func(w *writer, p pod) {
		kind, name := "", ""
		if owner := metav1.GetControllerOf(p); owner != nil {
			kind, name = owner.Kind, owner.Name
		}
		w.metric(1, "host_ip", p.Status.HostIP, "pod_ip", p.Status.PodIP, "node", p.Spec.NodeName, "created_by_kind", kind, "created_by_name", name,
			"priority_class", p.Spec.PriorityClassName, "host_network", strconv.FormatBool(p.Spec.HostNetwork))
	}},
	family[pod]{"kube_pod_owner", gauge, "Information about the Pod's owner.", func(w *writer, p pod) {
		for _, o := range p.OwnerReferences {
			w.metric(1, "owner_kind", o.Kind, "owner_name", o.Name, "owner_is_controller", strconv.FormatBool(o.Controller != nil && *o.Controller))
		}
		if len(p.OwnerReferences) == 0 {
			w.metric(1, "owner_kind", "", "owner_name", "", "owner_is_controller", "")
		}
	}},
	family[pod]{"kube_pod_created", gauge, "Unix creation timestamp", func(w *writer, p pod) { w.metric(seconds(p.CreationTimestamp)) }},
	family[pod]{"kube_pod_start_time", gauge, "Start time in unix timestamp for a pod.", func(w *writer, p pod) {
		if p.Status.StartTime != nil {
			w.metric(seconds(*p.Status.StartTime))
		}
	}},
	family[pod]{"kube_pod_deletion_timestamp", gauge, "Unix deletion timestamp", func(w *writer, p pod) {
		if p.DeletionTimestamp != nil {
			w.metric(seconds(*p.DeletionTimestamp))
		}
	}},
	family[pod]{"kube_pod_status_phase", gauge, "The pods current phase.", func(w *writer, p pod) {
		for _, phase := range []corev1.PodPhase{corev1.PodPending, corev1.PodSucceeded, corev1.PodFailed, corev1.PodUnknown, corev1.PodRunning} {
			w.flag(p.Status.Phase == phase, "phase", string(phase))
		}
	}},
	family[pod]{"kube_pod_status_ready", gauge, "Describes whether the pod is ready to serve requests.", ofCondition(corev1.PodReady)},
	family[pod]{"kube_pod_status_scheduled", gauge, "Describes the status of the scheduling process for the pod.", ofCondition(corev1.PodScheduled)},
	family[pod]{"kube_pod_status_unschedulable", gauge, "Describes the unschedulable status for the pod.", func(w *writer, p pod) {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				w.metric(1)
			}
		}
	}},
	family[pod]{"kube_pod_status_reason", gauge, "The pod status reasons", func(w *writer, p pod) {
		for _, reason := range []string{"Evicted", "NodeAffinity", "NodeLost", "Shutdown", "UnexpectedAdmissionError"} {
			w.flag(p.Status.Reason == reason, "reason", reason)
		}
	}},
	family[pod]{"kube_pod_container_info", gauge, "Information about a container in a pod.", func(w *writer, p pod) {
		forContainers(p, func(c *corev1.Container, s *corev1.ContainerStatus) {
			w.metric(1, "container", c.Name, "image_spec", c.Image, "image", s.Image, "image_id", s.ImageID, "container_id", s.ContainerID)
		})
	}},
	family[pod]{"kube_pod_container_status_restarts_total", counter, "The number of container restarts per container.", ofStatuses(func(w *writer, s *corev1.ContainerStatus) {
		w.metric(float64(s.RestartCount), "container", s.Name)
	})},
	family[pod]{"kube_pod_container_status_ready", gauge, "Describes whether the containers readiness check succeeded.", ofStatuses(func(w *writer, s *corev1.ContainerStatus) {
		w.flag(s.Ready, "container", s.Name)
	})},
	family[pod]{"kube_pod_container_status_running", gauge, "Describes whether the container is currently in running state.", ofStatuses(func(w *writer, s *corev1.ContainerStatus) {
		w.flag(s.State.Running != nil, "container", s.Name)
	})},
	family[pod]{"kube_pod_container_status_waiting", gauge, "Describes whether the container is currently in waiting state.", ofStatuses(func(w *writer, s *corev1.ContainerStatus) {
		w.flag(s.State.Waiting != nil, "container", s.Name)
	})},
	family[pod]{"kube_pod_container_status_waiting_reason", gauge, "Describes the reason the container is currently in waiting state.", ofStatuses(func(w *writer, s *corev1.ContainerStatus) {
		if s.State.Waiting != nil && s.State.Waiting.Reason != "" {
			w.metric(1, "container", s.Name, "reason", s.State.Waiting.Reason)
		}
	})},
	family[pod]{"kube_pod_container_status_terminated", gauge, "Describes whether the container is currently in terminated state.", ofStatuses(func(w *writer, s *corev1.ContainerStatus) {
		w.flag(s.State.Terminated != nil, "container", s.Name)
	})},
	family[pod]{"kube_pod_container_status_terminated_reason", gauge, "Describes the reason the container is currently in terminated state.", ofStatuses(func(w *writer, s *corev1.ContainerStatus) {
		if s.State.Terminated != nil && s.State.Terminated.Reason != "" {
			w.metric(1, "container", s.Name, "reason", s.State.Terminated.Reason)
		}
	})},
	family[pod]{"kube_pod_container_status_last_terminated_reason", gauge, "Describes the last reason the container was in terminated state.", ofStatuses(func(w *writer, s *corev1.ContainerStatus) {
		if s.LastTerminationState.Terminated != nil && s.LastTerminationState.Terminated.Reason != "" {
			w.metric(1, "container", s.Name, "reason", s.LastTerminationState.Terminated.Reason)
		}
	})},
	family[pod]{"kube_pod_container_resource_requests", gauge, "The number of requested request resource by a container.", podResources(func(c *corev1.Container) corev1.ResourceList { return c.Resources.Requests })},
	family[pod]{"kube_pod_container_resource_limits", gauge, "The number of requested limit resource by a container.", podResources(func(c *corev1.Container) corev1.ResourceList { return c.Resources.Limits })},
)
