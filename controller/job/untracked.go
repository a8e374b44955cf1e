package job

import (
	"context"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// newUntracked returns the controller that removes the finalizer from pods that no Job will count: their Job does not exist or has
// finished, or they have no controller.
func newUntracked(c *client.Client) *controller.Controller {
	return &controller.Controller{
		Name: "job-orphan-pod", Watches: []client.Object{&batchv1.Job{}, &corev1.Pod{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(pod *corev1.Pod) bool {
				if abandoned(v, pod) {
					enqueue(controller.KeyOf(pod))
				}
				return true
			})
		},
		Enqueue: func(v client.View, event client.Event, enqueue func(controller.Key)) {
			switch obj := event.Object().(type) {
			case *corev1.Pod:
				if event.New != nil && abandoned(v, obj) {
					enqueue(controller.KeyOf(obj))
				}
			case *batchv1.Job:
				if event.New != nil && !finished(obj) {
					return
				}
				for _, pod := range openPods.Any(v, string(obj.UID)) {
					if abandoned(v, pod) {
						enqueue(controller.KeyOf(pod))
					}
				}
			}
		},
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			pod, ok := client.Get[*corev1.Pod](v, key.Namespace, key.Name)
			if !ok || !abandoned(v, pod) {
				return controller.Result{}, nil
			}
			return controller.Result{}, untrack(ctx, c, pod)
		},
	}
}

// abandoned says whether a pod has the finalizer, but no Job will remove it.
func abandoned(v client.View, pod *corev1.Pod) bool {
	if !tracked(pod) {
		return false
	}
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil {
		return true
	}
	if !isJob(ref) {
		return false
	}
	j, ok := client.Get[*batchv1.Job](v, pod.Namespace, ref.Name)
	if !ok || j.UID != ref.UID {
		return true
	}
	return finished(j) && !managedElsewhere(j)
}
