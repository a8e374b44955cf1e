package builtin

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/registry"
)

// never is for objects that hosts and controllers make by themselves: nobody would bring them back.
func never(registry.Object) bool { return false }

// keepPod keeps Pods that had not finished when their deletion began: those that had would run again. A Pod that ran has finished when it
// is removed, because its node stops it first.
func keepPod(obj registry.Object) bool {
	pod := obj.(*corev1.Pod)
	if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
		return true
	}
	if pod.DeletionTimestamp == nil {
		return false
	}
	began := pod.DeletionTimestamp.Add(-time.Duration(ptr.Deref(pod.DeletionGracePeriodSeconds, 0)) * time.Second)
	return slices.ContainsFunc(pod.Status.ContainerStatuses, func(c corev1.ContainerStatus) bool {
		ended := c.State.Terminated
		return ended == nil || ended.FinishedAt.IsZero() || !ended.FinishedAt.Time.Before(began)
	})
}

// keepJob keeps Jobs that have not finished, for the same reason.
func keepJob(obj registry.Object) bool {
	for _, c := range obj.(*batchv1.Job).Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return false
		}
	}
	return true
}

// keepSecret leaves out tokens, which are not valid any more when they have been deleted.
func keepSecret(obj registry.Object) bool {
	of := obj.(*corev1.Secret).Type
	return of != corev1.SecretTypeServiceAccountToken && of != corev1.SecretTypeBootstrapToken
}

// ownEndpoints keeps those that no controller makes.
func ownEndpoints(obj registry.Object) bool {
	labels := obj.GetLabels()
	return labels[discoveryv1.LabelManagedBy] == "" && labels["endpoints.kubernetes.io/managed-by"] == ""
}
