package usage

import (
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
)

// Workload is what pods belong to: the Deployment of their ReplicaSet, the CronJob of their Job, their controller, or the pod itself.
type Workload struct {
	Namespace string `json:"namespace"`
	Kind      string `json:"kind"`
	Name      string `json:"name"`
}

// WorkloadOf returns what a pod belongs to.
func WorkloadOf(v client.View, pod *corev1.Pod) Workload {
	owner := metav1.GetControllerOfNoCopy(pod)
	if owner == nil {
		return Workload{pod.Namespace, "Pod", pod.Name}
	}
	var above *metav1.OwnerReference
	switch owner.Kind {
	case "ReplicaSet":
		if rs, ok := client.Get[*appsv1.ReplicaSet](v, pod.Namespace, owner.Name); ok && rs.UID == owner.UID {
			above = metav1.GetControllerOfNoCopy(rs)
		}
	case "Job":
		if job, ok := client.Get[*batchv1.Job](v, pod.Namespace, owner.Name); ok && job.UID == owner.UID {
			above = metav1.GetControllerOfNoCopy(job)
		}
	}
	if above != nil {
		owner = above
	}
	return Workload{pod.Namespace, owner.Kind, owner.Name}
}
