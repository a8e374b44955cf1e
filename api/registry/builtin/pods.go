package builtin

import (
	"context"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	podutil "k8s.io/kubernetes/pkg/api/pod"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/helper/qos"
	"k8s.io/kubernetes/pkg/apis/core/validation"
	"k8s.io/kubernetes/pkg/features"

	"github.com/kontiki/kontiki/api/registry"
)

func pods() *registry.Resource {
	return &registry.Resource{
		Kind: "Pod", Resource: "pods", ShortNames: []string{"po"}, Categories: []string{"all"},
		ReturnDeleted: true,
		Namespaced:    true,
		KeepDeleted:   keepPod,
		PrepareCreate: preparer(preparePod),
		WarnGiven:     func(obj runtime.Object) []string { return appArmorWarnings(obj.(*core.Pod)) },
		WarnCreate: warner(func(ctx context.Context, pod *core.Pod) []string {
			return append(podNameWarning(pod.Name, inHostname), podutil.GetWarningsForPod(ctx, pod, nil)...)
		}),
		Validate: checker(func(pod *core.Pod) field.ErrorList {
			opts := podutil.GetValidationOptionsFromPodSpecAndMeta(&pod.Spec, nil, &pod.ObjectMeta, nil)
			opts.ResourceIsPod = true
			return validation.ValidatePodCreate(pod, opts)
		}),
		Strategy: registry.Strategy{
			PrepareUpdate: updater(func(pod, old *core.Pod) {
				pod.Status = old.Status
				if pod.Spec.Resources == nil && old.Spec.Resources != nil && utilfeature.DefaultFeatureGate.Enabled(features.PodLevelResourcesFixDefaulting) {
					pod.Spec.Resources = old.Spec.Resources.DeepCopy() // a client that does not know the field omitted it
				}
				podutil.DropDisabledPodFields(pod, old)
				growPodGeneration(pod, old)
			}),
			ValidateUpdate: podChange(validation.ValidatePodUpdate),
			ResetFields:    []string{"status"},
		},
		Status: &registry.Strategy{
			PrepareUpdate:  updater(preparePodStatus),
			ValidateUpdate: podChange(validation.ValidatePodStatusUpdate),
			ResetFields:    []string{"spec", "metadata.deletionTimestamp", "metadata.ownerReferences"},
		},
		Subresources: map[string]*registry.Strategy{
			"ephemeralcontainers": {
				PrepareUpdate: updater(func(pod, old *core.Pod) {
					added := pod.Spec.EphemeralContainers
					pod.Spec, pod.Status = old.Spec, old.Status
					metav1.ResetObjectMetaForStatus(&pod.ObjectMeta, &old.ObjectMeta)
					pod.Spec.EphemeralContainers = added
					podutil.DropDisabledPodFields(pod, old)
					growPodGeneration(pod, old)
				}),
				ValidateUpdate: podChange(validation.ValidatePodEphemeralContainersUpdate),
				OnlyFields:     []string{"spec.ephemeralContainers"},
			},
			"resize": {
				PrepareUpdate:  updater(preparePodResize),
				ValidateUpdate: podChange(validation.ValidatePodResize),
				OnlyFields: []string{
					"spec.containers.*.resources", "spec.containers.*.resizePolicy",
					"spec.initContainers.*.resources", "spec.initContainers.*.resizePolicy",
				},
			},
		},
		AllowUnconditionalUpdate: true,
		DeleteGrace:              podGrace,
		Fields: func(obj registry.Object) fields.Set {
			pod := obj.(*corev1.Pod)
			return fields.Set{
				"spec.nodeName":            pod.Spec.NodeName,
				"spec.restartPolicy":       string(pod.Spec.RestartPolicy),
				"spec.schedulerName":       pod.Spec.SchedulerName,
				"spec.serviceAccountName":  pod.Spec.ServiceAccountName,
				"spec.hostNetwork":         strconv.FormatBool(pod.Spec.HostNetwork),
				"status.phase":             string(pod.Status.Phase),
				"status.podIP":             pod.Status.PodIP,
				"status.nominatedNodeName": pod.Status.NominatedNodeName,
			}
		},
		FieldNames: []string{"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
			"spec.hostNetwork", "status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName"},
	}
}

func podChange(validate func(pod, old *core.Pod, opts validation.PodValidationOptions) field.ErrorList) func(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	return changer(func(pod, old *core.Pod) field.ErrorList {
		opts := podutil.GetValidationOptionsFromPodSpecAndMeta(&pod.Spec, &old.Spec, &pod.ObjectMeta, &old.ObjectMeta)
		opts.ResourceIsPod = true
		return validate(pod, old, opts)
	})
}

func preparePod(pod *core.Pod) {
	pod.Generation = 1
	pod.Status = core.PodStatus{Phase: core.PodPending}
	podutil.DropDisabledPodFields(pod, nil)
	if len(pod.Spec.SchedulingGates) > 0 {
		podutil.UpdatePodCondition(&pod.Status, &core.PodCondition{
			Type: core.PodScheduled, Status: core.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		})
	}
	mergeMatchLabelKeys(pod)
	appArmorFields(pod)
	podutil.DefaultPodLevelResources(pod)
	pod.Status.QOSClass = qos.GetPodQOS(pod)
}

// preparePodResize takes from a resize only the resources and resize policies of the pod and its containers (KEP-1287). Containers that
// were added, removed, renamed or reordered stay as they are, so that validation refuses them.
func preparePodResize(pod, old *core.Pod) {
	if sameContainers(pod.Spec.Containers, old.Spec.Containers) && sameContainers(pod.Spec.InitContainers, old.Spec.InitContainers) {
		resources, containers, initContainers := pod.Spec.Resources, pod.Spec.Containers, pod.Spec.InitContainers
		pod.Spec, pod.Status = old.Spec, old.Status
		pod.Spec.Resources = resources
		pod.Spec.Containers = resized(old.Spec.Containers, containers)
		pod.Spec.InitContainers = resized(old.Spec.InitContainers, initContainers)
		metav1.ResetObjectMetaForStatus(&pod.ObjectMeta, &old.ObjectMeta)
	}
	if pod.Spec.Resources == nil && old.Spec.Resources != nil {
		pod.Spec.Resources = old.Spec.Resources.DeepCopy() // a client that does not know the field omitted it
	}
	if pod.Spec.Resources != nil {
		podutil.DefaultPodLevelResources(pod)
	}
	podutil.DropDisabledPodFields(pod, old)
	growPodGeneration(pod, old)
}

func sameContainers(a, b []core.Container) bool {
	return slices.EqualFunc(a, b, func(a, b core.Container) bool { return a.Name == b.Name })
}

// resized returns containers with the resources and resize policies of others.
func resized(containers, from []core.Container) []core.Container {
	out := slices.Clone(containers)
	for i := range out {
		out[i].Resources, out[i].ResizePolicy = from[i].Resources, from[i].ResizePolicy
	}
	return out
}

func growPodGeneration(pod, old *core.Pod) {
	if !apiequality.Semantic.DeepEqual(pod.Spec, old.Spec) {
		pod.Generation++
	}
}

func preparePodStatus(pod, old *core.Pod) {
	pod.Spec = old.Spec
	pod.OwnerReferences = old.OwnerReferences
	if pod.Status.QOSClass == "" {
		pod.Status.QOSClass = old.Status.QOSClass
	}
	if pod.Status.ResourceClaimStatuses == nil {
		pod.Status.ResourceClaimStatuses = old.Status.ResourceClaimStatuses
	}
	if pod.Status.ExtendedResourceClaimStatus == nil {
		pod.Status.ExtendedResourceClaimStatus = old.Status.ExtendedResourceClaimStatus
	}
	if pod.Status.NodeAllocatableResourceClaimStatuses == nil {
		pod.Status.NodeAllocatableResourceClaimStatuses = old.Status.NodeAllocatableResourceClaimStatuses
	}
	keepObservedGenerations(pod, old)
	podutil.DropDisabledPodFields(pod, old)
}

// keepObservedGenerations restores the observed generations of conditions, which clients that do not know the field omit.
func keepObservedGenerations(pod, old *core.Pod) {
	if pod.Status.ObservedGeneration == 0 {
		pod.Status.ObservedGeneration = old.Status.ObservedGeneration
	}
	before := map[core.PodConditionType][]int64{}
	for _, c := range old.Status.Conditions {
		before[c.Type] = append(before[c.Type], c.ObservedGeneration)
	}
	for i := range pod.Status.Conditions {
		c := &pod.Status.Conditions[i]
		generations := before[c.Type]
		if len(generations) == 0 {
			continue
		}
		before[c.Type] = generations[1:]
		if c.ObservedGeneration == 0 {
			c.ObservedGeneration = generations[0]
		}
	}
}

// podGrace returns the grace period of a deleted pod: unscheduled and finished pods are removed at once.
func podGrace(obj registry.Object, options *metav1.DeleteOptions) int64 {
	pod := obj.(*corev1.Pod)
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return 0
	}
	var grace int64
	switch {
	case options.GracePeriodSeconds != nil:
		grace = *options.GracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		grace = *pod.Spec.TerminationGracePeriodSeconds
	}
	if grace < 0 {
		grace = 1
	}
	return grace
}
