package statemetrics

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
)

// kinds writes the metrics of each kind, in this order.
var kinds = []func(client.View, *writer){
	nodeFamilies, podFamilies, deploymentFamilies, replicaSetFamilies, statefulSetFamilies, daemonSetFamilies, jobFamilies, cronJobFamilies,
	namespaceFamilies, claimFamilies, volumeFamilies, autoscalerFamilies, serviceFamilies, quotaFamilies, budgetFamilies,
}

// named returns the labels of an object in a namespace, whose name is in the label of its kind.
func named[T client.Object](kind string) func(T) []string {
	return func(obj T) []string { return []string{"namespace", obj.GetNamespace(), kind, obj.GetName()} }
}

// number is a family with one number of each object.
func number[T client.Object](name, help string, value func(T) float64) family[T] {
	return family[T]{name, gauge, help, func(w *writer, obj T) { w.metric(value(obj)) }}
}

// conditions writes whether a condition is true, false or unknown.
func conditions(w *writer, condition string, status string) {
	for _, s := range []string{"true", "false", "unknown"} {
		w.flag(strings.EqualFold(status, s), "condition", condition, "status", s)
	}
}

// some returns a number that may be missing.
func some(n *int32, otherwise int32) float64 {
	if n == nil {
		return float64(otherwise)
	}
	return float64(*n)
}

type node = *corev1.Node

func nodeResources(list func(node) corev1.ResourceList) func(*writer, node) {
	return func(w *writer, n node) {
		for _, name := range slices.Sorted(maps.Keys(list(n))) {
			resource, unit, value := unit(name, list(n))
			w.metric(value, "resource", resource, "unit", unit)
		}
	}
}

var nodeFamilies = of(func(n node) []string { return []string{"node", n.Name} },
	family[node]{"kube_node_info", gauge, "Information about a cluster node.", func(w *writer, n node) {
		i, internal := &n.Status.NodeInfo, ""
		for _, a := range n.Status.Addresses {
			if a.Type == corev1.NodeInternalIP && internal == "" {
				internal = a.Address
			}
		}
		w.metric(1, "kernel_version", i.KernelVersion, "os_image", i.OSImage, "container_runtime_version", i.ContainerRuntimeVersion, "kubelet_version", i.KubeletVersion,
			"provider_id", n.Spec.ProviderID, "pod_cidr", n.Spec.PodCIDR, "system_uuid", i.SystemUUID, "internal_ip", internal)
	}},
	number("kube_node_created", "Unix creation timestamp", func(n node) float64 { return seconds(n.CreationTimestamp) }),
	family[node]{"kube_node_role", gauge, "The role of a cluster node.", func(w *writer, n node) {
		for _, label := range slices.Sorted(maps.Keys(n.Labels)) {
			if role, ok := strings.CutPrefix(label, "node-role.kubernetes.io/"); ok {
				w.metric(1, "role", role)
			}
		}
	}},
	family[node]{"kube_node_spec_unschedulable", gauge, "Whether a node can schedule new pods.", func(w *writer, n node) { w.flag(n.Spec.Unschedulable) }},
	family[node]{"kube_node_spec_taint", gauge, "The taint of a cluster node.", func(w *writer, n node) {
		for _, t := range n.Spec.Taints {
			w.metric(1, "key", t.Key, "value", t.Value, "effect", string(t.Effect))
		}
	}},
	family[node]{"kube_node_status_condition", gauge, "The condition of a cluster node.", func(w *writer, n node) {
		for _, c := range n.Status.Conditions {
			conditions(w, string(c.Type), string(c.Status))
		}
	}},
	family[node]{"kube_node_status_capacity", gauge, "The capacity for different resources of a node.", nodeResources(func(n node) corev1.ResourceList { return n.Status.Capacity })},
	family[node]{"kube_node_status_allocatable", gauge, "The allocatable for different resources of a node that are available for scheduling.", nodeResources(func(n node) corev1.ResourceList { return n.Status.Allocatable })},
)

type deployment = *appsv1.Deployment

var deploymentFamilies = of(named[deployment]("deployment"),
	number("kube_deployment_created", "Unix creation timestamp", func(d deployment) float64 { return seconds(d.CreationTimestamp) }),
	number("kube_deployment_spec_replicas", "Number of desired pods for a deployment.", func(d deployment) float64 { return some(d.Spec.Replicas, 1) }),
	family[deployment]{"kube_deployment_spec_paused", gauge, "Whether the deployment is paused and will not be processed by the deployment controller.", func(w *writer, d deployment) { w.flag(d.Spec.Paused) }},
	number("kube_deployment_metadata_generation", "Sequence number representing a specific generation of the desired state.", func(d deployment) float64 { return float64(d.Generation) }),
	number("kube_deployment_status_observed_generation", "The generation observed by the deployment controller.", func(d deployment) float64 { return float64(d.Status.ObservedGeneration) }),
	number("kube_deployment_status_replicas", "The number of replicas per deployment.", func(d deployment) float64 { return float64(d.Status.Replicas) }),
	number("kube_deployment_status_replicas_ready", "The number of ready replicas per deployment.", func(d deployment) float64 { return float64(d.Status.ReadyReplicas) }),
	number("kube_deployment_status_replicas_available", "The number of available replicas per deployment.", func(d deployment) float64 { return float64(d.Status.AvailableReplicas) }),
	number("kube_deployment_status_replicas_unavailable", "The number of unavailable replicas per deployment.", func(d deployment) float64 { return float64(d.Status.UnavailableReplicas) }),
	number("kube_deployment_status_replicas_updated", "The number of updated replicas per deployment.", func(d deployment) float64 { return float64(d.Status.UpdatedReplicas) }),
	family[deployment]{"kube_deployment_status_condition", gauge, "The current status conditions of a deployment.", func(w *writer, d deployment) {
		for _, c := range d.Status.Conditions {
			for _, s := range []string{"true", "false", "unknown"} {
				w.flag(strings.EqualFold(string(c.Status), s), "reason", c.Reason, "condition", string(c.Type), "status", s)
			}
		}
	}},
)

type replicaSet = *appsv1.ReplicaSet

var replicaSetFamilies = of(named[replicaSet]("replicaset"),
	number("kube_replicaset_created", "Unix creation timestamp", func(r replicaSet) float64 { return seconds(r.CreationTimestamp) }),
	number("kube_replicaset_spec_replicas", "Number of desired pods for a ReplicaSet.", func(r replicaSet) float64 { return some(r.Spec.Replicas, 1) }),
	number("kube_replicaset_status_replicas", "The number of replicas per ReplicaSet.", func(r replicaSet) float64 { return float64(r.Status.Replicas) }),
	number("kube_replicaset_status_ready_replicas", "The number of ready replicas per ReplicaSet.", func(r replicaSet) float64 { return float64(r.Status.ReadyReplicas) }),
	number("kube_replicaset_metadata_generation", "Sequence number representing a specific generation of the desired state.", func(r replicaSet) float64 { return float64(r.Generation) }),
	number("kube_replicaset_status_observed_generation", "The generation observed by the ReplicaSet controller.", func(r replicaSet) float64 { return float64(r.Status.ObservedGeneration) }),
	family[replicaSet]{"kube_replicaset_owner", gauge, "Information about the ReplicaSet's owner.", func(w *writer, r replicaSet) { owners(w, r.OwnerReferences) }},
)

// owners writes the owners of an object.
func owners(w *writer, all []metav1.OwnerReference) {
	for _, o := range all {
		w.metric(1, "owner_kind", o.Kind, "owner_name", o.Name, "owner_is_controller", strconv.FormatBool(o.Controller != nil && *o.Controller))
	}
	if len(all) == 0 {
		w.metric(1, "owner_kind", "", "owner_name", "", "owner_is_controller", "")
	}
}

type statefulSet = *appsv1.StatefulSet

var statefulSetFamilies = of(named[statefulSet]("statefulset"),
	number("kube_statefulset_created", "Unix creation timestamp", func(s statefulSet) float64 { return seconds(s.CreationTimestamp) }),
	number("kube_statefulset_replicas", "Number of desired pods for a StatefulSet.", func(s statefulSet) float64 { return some(s.Spec.Replicas, 1) }),
	number("kube_statefulset_metadata_generation", "Sequence number representing a specific generation of the desired state for the StatefulSet.", func(s statefulSet) float64 { return float64(s.Generation) }),
	number("kube_statefulset_status_observed_generation", "The generation observed by the StatefulSet controller.", func(s statefulSet) float64 { return float64(s.Status.ObservedGeneration) }),
	number("kube_statefulset_status_replicas", "The number of replicas per StatefulSet.", func(s statefulSet) float64 { return float64(s.Status.Replicas) }),
	number("kube_statefulset_status_replicas_ready", "The number of ready replicas per StatefulSet.", func(s statefulSet) float64 { return float64(s.Status.ReadyReplicas) }),
	number("kube_statefulset_status_replicas_current", "The number of current replicas per StatefulSet.", func(s statefulSet) float64 { return float64(s.Status.CurrentReplicas) }),
	number("kube_statefulset_status_replicas_updated", "The number of updated replicas per StatefulSet.", func(s statefulSet) float64 { return float64(s.Status.UpdatedReplicas) }),
	family[statefulSet]{"kube_statefulset_status_current_revision", gauge, "Indicates the version of the StatefulSet used to generate Pods in the sequence [0,currentReplicas).", func(w *writer, s statefulSet) { w.metric(1, "revision", s.Status.CurrentRevision) }},
	family[statefulSet]{"kube_statefulset_status_update_revision", gauge, "Indicates the version of the StatefulSet used to generate Pods in the sequence [replicas-updatedReplicas,replicas)", func(w *writer, s statefulSet) { w.metric(1, "revision", s.Status.UpdateRevision) }},
)

type daemonSet = *appsv1.DaemonSet

var daemonSetFamilies = of(named[daemonSet]("daemonset"),
	number("kube_daemonset_created", "Unix creation timestamp", func(d daemonSet) float64 { return seconds(d.CreationTimestamp) }),
	number("kube_daemonset_metadata_generation", "Sequence number representing a specific generation of the desired state.", func(d daemonSet) float64 { return float64(d.Generation) }),
	number("kube_daemonset_status_desired_number_scheduled", "The number of nodes that should be running the daemon pod.", func(d daemonSet) float64 { return float64(d.Status.DesiredNumberScheduled) }),
	number("kube_daemonset_status_current_number_scheduled", "The number of nodes running at least one daemon pod and are supposed to.", func(d daemonSet) float64 { return float64(d.Status.CurrentNumberScheduled) }),
	number("kube_daemonset_status_number_misscheduled", "The number of nodes running a daemon pod but are not supposed to.", func(d daemonSet) float64 { return float64(d.Status.NumberMisscheduled) }),
	number("kube_daemonset_status_number_ready", "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and ready.", func(d daemonSet) float64 { return float64(d.Status.NumberReady) }),
	number("kube_daemonset_status_number_available", "The number of nodes that should be running the daemon pod and have one or more of the daemon pod running and available", func(d daemonSet) float64 { return float64(d.Status.NumberAvailable) }),
	number("kube_daemonset_status_number_unavailable", "The number of nodes that should be running the daemon pod and have none of the daemon pod running and available", func(d daemonSet) float64 { return float64(d.Status.NumberUnavailable) }),
	number("kube_daemonset_status_updated_number_scheduled", "The total number of nodes that are running updated daemon pod", func(d daemonSet) float64 { return float64(d.Status.UpdatedNumberScheduled) }),
	number("kube_daemonset_status_observed_generation", "The most recent generation observed by the daemon set controller.", func(d daemonSet) float64 { return float64(d.Status.ObservedGeneration) }),
)

type job = *batchv1.Job

// jobCondition writes whether a job has ended in a way.
func jobCondition(of batchv1.JobConditionType) func(*writer, job) {
	return func(w *writer, j job) {
		for _, c := range j.Status.Conditions {
			if c.Type == of {
				for _, s := range []string{"true", "false", "unknown"} {
					w.flag(strings.EqualFold(string(c.Status), s), "condition", s)
				}
			}
		}
	}
}

var jobFamilies = of(named[job]("job_name"),
	number("kube_job_created", "Unix creation timestamp", func(j job) float64 { return seconds(j.CreationTimestamp) }),
	family[job]{"kube_job_owner", gauge, "Information about the Job's owner.", func(w *writer, j job) { owners(w, j.OwnerReferences) }},
	number("kube_job_spec_completions", "The desired number of successfully finished pods the job should be run with.", func(j job) float64 { return some(j.Spec.Completions, 0) }),
	number("kube_job_status_active", "The number of actively running pods.", func(j job) float64 { return float64(j.Status.Active) }),
	number("kube_job_status_succeeded", "The number of pods which reached Phase Succeeded.", func(j job) float64 { return float64(j.Status.Succeeded) }),
	number("kube_job_status_failed", "The number of pods which reached Phase Failed.", func(j job) float64 { return float64(j.Status.Failed) }),
	family[job]{"kube_job_status_start_time", gauge, "StartTime represents time when the job was acknowledged by the Job Manager.", func(w *writer, j job) {
		if j.Status.StartTime != nil {
			w.metric(seconds(*j.Status.StartTime))
		}
	}},
	family[job]{"kube_job_complete", gauge, "The job has completed its execution.", jobCondition(batchv1.JobComplete)},
	family[job]{"kube_job_failed", gauge, "The job has failed its execution.", jobCondition(batchv1.JobFailed)},
)

type cronJob = *batchv1.CronJob

var cronJobFamilies = of(named[cronJob]("cronjob"),
	number("kube_cronjob_created", "Unix creation timestamp", func(c cronJob) float64 { return seconds(c.CreationTimestamp) }),
	number("kube_cronjob_status_active", "Active holds pointers to currently running jobs.", func(c cronJob) float64 { return float64(len(c.Status.Active)) }),
	family[cronJob]{"kube_cronjob_spec_suspend", gauge, "Suspend flag tells the controller to suspend subsequent executions.", func(w *writer, c cronJob) { w.flag(c.Spec.Suspend != nil && *c.Spec.Suspend) }},
	family[cronJob]{"kube_cronjob_status_last_schedule_time", gauge, "LastScheduleTime keeps information of when was the last time the job was successfully scheduled.", func(w *writer, c cronJob) {
		if c.Status.LastScheduleTime != nil {
			w.metric(seconds(*c.Status.LastScheduleTime))
		}
	}},
)

type namespace = *corev1.Namespace

var namespaceFamilies = of(func(n namespace) []string { return []string{"namespace", n.Name} },
	number("kube_namespace_created", "Unix creation timestamp", func(n namespace) float64 { return seconds(n.CreationTimestamp) }),
	family[namespace]{"kube_namespace_status_phase", gauge, "kubernetes namespace status phase.", func(w *writer, n namespace) {
		for _, phase := range []corev1.NamespacePhase{corev1.NamespaceActive, corev1.NamespaceTerminating} {
			w.flag(n.Status.Phase == phase, "phase", string(phase))
		}
	}},
)

type claim = *corev1.PersistentVolumeClaim

var claimFamilies = of(named[claim]("persistentvolumeclaim"),
	family[claim]{"kube_persistentvolumeclaim_info", gauge, "Information about persistent volume claim.", func(w *writer, c claim) {
		class, mode := "", ""
		if c.Spec.StorageClassName != nil {
			class = *c.Spec.StorageClassName
		}
		if c.Spec.VolumeMode != nil {
			mode = string(*c.Spec.VolumeMode)
		}
		w.metric(1, "storageclass", class, "volumename", c.Spec.VolumeName, "volumemode", mode)
	}},
	family[claim]{"kube_persistentvolumeclaim_status_phase", gauge, "The phase the persistent volume claim is currently in.", func(w *writer, c claim) {
		for _, phase := range []corev1.PersistentVolumeClaimPhase{corev1.ClaimLost, corev1.ClaimBound, corev1.ClaimPending} {
			w.flag(c.Status.Phase == phase, "phase", string(phase))
		}
	}},
	family[claim]{"kube_persistentvolumeclaim_resource_requests_storage_bytes", gauge, "The capacity of storage requested by the persistent volume claim.", func(w *writer, c claim) {
		if q, ok := c.Spec.Resources.Requests[corev1.ResourceStorage]; ok {
			w.metric(float64(q.Value()))
		}
	}},
	family[claim]{"kube_persistentvolumeclaim_access_mode", gauge, "The access mode(s) specified by the persistent volume claim.", func(w *writer, c claim) {
		for _, mode := range c.Spec.AccessModes {
			w.metric(1, "access_mode", string(mode))
		}
	}},
)

type volume = *corev1.PersistentVolume

var volumeFamilies = of(func(v volume) []string { return []string{"persistentvolume", v.Name} },
	family[volume]{"kube_persistentvolume_status_phase", gauge, "The phase indicates if a volume is available, bound to a claim, or released by a claim.", func(w *writer, v volume) {
		for _, phase := range []corev1.PersistentVolumePhase{corev1.VolumePending, corev1.VolumeAvailable, corev1.VolumeBound, corev1.VolumeReleased, corev1.VolumeFailed} {
			w.flag(v.Status.Phase == phase, "phase", string(phase))
		}
	}},
	number("kube_persistentvolume_capacity_bytes", "Persistentvolume capacity in bytes.", func(v volume) float64 { return float64(v.Spec.Capacity.Storage().Value()) }),
)

type autoscaler = *autoscalingv2.HorizontalPodAutoscaler

var autoscalerFamilies = of(named[autoscaler]("horizontalpodautoscaler"),
	family[autoscaler]{"kube_horizontalpodautoscaler_info", gauge, "Information about this autoscaler.", func(w *writer, h autoscaler) {
		t := h.Spec.ScaleTargetRef
		w.metric(1, "scaletargetref_api_version", t.APIVersion, "scaletargetref_kind", t.Kind, "scaletargetref_name", t.Name)
	}},
	number("kube_horizontalpodautoscaler_spec_max_replicas", "Upper limit for the number of pods that can be set by the autoscaler; cannot be smaller than MinReplicas.", func(h autoscaler) float64 { return float64(h.Spec.MaxReplicas) }),
	number("kube_horizontalpodautoscaler_spec_min_replicas", "Lower limit for the number of pods that can be set by the autoscaler, default 1.", func(h autoscaler) float64 { return some(h.Spec.MinReplicas, 1) }),
	number("kube_horizontalpodautoscaler_status_current_replicas", "Current number of replicas of pods managed by this autoscaler.", func(h autoscaler) float64 { return float64(h.Status.CurrentReplicas) }),
	number("kube_horizontalpodautoscaler_status_desired_replicas", "Desired number of replicas of pods managed by this autoscaler.", func(h autoscaler) float64 { return float64(h.Status.DesiredReplicas) }),
	family[autoscaler]{"kube_horizontalpodautoscaler_status_condition", gauge, "The condition of this autoscaler.", func(w *writer, h autoscaler) {
		for _, c := range h.Status.Conditions {
			conditions(w, string(c.Type), string(c.Status))
		}
	}},
)

type service = *corev1.Service

var serviceFamilies = of(named[service]("service"),
	family[service]{"kube_service_info", gauge, "Information about service.", func(w *writer, s service) {
		w.metric(1, "uid", string(s.UID), "cluster_ip", s.Spec.ClusterIP, "external_name", s.Spec.ExternalName, "load_balancer_ip", s.Spec.LoadBalancerIP)
	}},
	family[service]{"kube_service_spec_type", gauge, "Type about service.", func(w *writer, s service) {
		w.metric(1, "uid", string(s.UID), "type", string(s.Spec.Type))
	}},
)

type quota = *corev1.ResourceQuota

var quotaFamilies = of(named[quota]("resourcequota"),
	family[quota]{"kube_resourcequota", gauge, "Information about resource quota.", func(w *writer, q quota) {
		quantities := func(kind string, list corev1.ResourceList) {
			for _, name := range slices.Sorted(maps.Keys(list)) {
				value := list[name]
				w.metric(value.AsApproximateFloat64(), "resource", string(name), "type", kind)
			}
		}
		quantities("hard", q.Status.Hard)
		quantities("used", q.Status.Used)
	}},
)

type budget = *policyv1.PodDisruptionBudget

var budgetFamilies = of(named[budget]("poddisruptionbudget"),
	number("kube_poddisruptionbudget_status_current_healthy", "Current number of healthy pods", func(b budget) float64 { return float64(b.Status.CurrentHealthy) }),
	number("kube_poddisruptionbudget_status_desired_healthy", "Minimum desired number of healthy pods", func(b budget) float64 { return float64(b.Status.DesiredHealthy) }),
	number("kube_poddisruptionbudget_status_pod_disruptions_allowed", "Number of pod disruptions that are currently allowed", func(b budget) float64 { return float64(b.Status.DisruptionsAllowed) }),
	number("kube_poddisruptionbudget_status_expected_pods", "Total number of pods counted by this disruption budget", func(b budget) float64 { return float64(b.Status.ExpectedPods) }),
)
