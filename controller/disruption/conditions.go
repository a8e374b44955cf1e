package disruption

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/pods"
)

// staleTimeout is how long a pod may be marked as about to be disrupted without being deleted.
const staleTimeout = 2 * time.Minute

// conditions returns the controller that resets the DisruptionTarget condition of pods that were not deleted after all.
func (r *reconciler) conditions() *controller.Controller {
	return &controller.Controller{
		Name: "disruption-conditions", Watches: []client.Object{&corev1.Pod{}}, Workers: 1,
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(pod *corev1.Pod) bool {
				if marked(pod) != nil {
					enqueue(controller.KeyOf(pod))
				}
				return true
			})
		},
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			if pod, ok := event.New.(*corev1.Pod); ok && marked(pod) != nil {
				enqueue(controller.KeyOf(pod))
			}
		},
		Reconcile: r.reconcileCondition,
	}
}

// marked returns the condition of a pod that says that it is about to be disrupted, if it can become stale: a worker's mark may
// precede the deletion by any time.
func marked(pod *corev1.Pod) *corev1.PodCondition {
	i := slices.IndexFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget })
	if i < 0 || pod.DeletionTimestamp != nil || pods.Finished(pod) {
		return nil
	}
	c := &pod.Status.Conditions[i]
	if c.Status != corev1.ConditionTrue || c.Reason == corev1.PodReasonTerminationByKubelet {
		return nil
	}
	return c
}

func (r *reconciler) reconcileCondition(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	pod, ok := client.Get[*corev1.Pod](v, key.Namespace, key.Name)
	if !ok || marked(pod) == nil {
		return controller.Result{}, nil
	}
	if left := marked(pod).LastTransitionTime.Add(staleTimeout).Sub(r.now()); left > 0 {
		return controller.Result{After: left}, nil
	}
	changed := pod.DeepCopy()
	client.SetPodCondition(changed, corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, LastTransitionTime: metav1.NewTime(r.now()),
		ObservedGeneration: pod.Generation,
	})
	if _, err := client.UpdateStatus(ctx, r.client, changed); !apierrors.IsNotFound(err) {
		return controller.Result{}, err
	}
	return controller.Result{}, nil
}
