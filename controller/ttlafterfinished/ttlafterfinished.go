// Package ttlafterfinished deletes Jobs, with their pods, some time after they have finished: spec.ttlSecondsAfterFinished.
package ttlafterfinished

import (
	"context"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// New returns the controller. now is the clock, nil for the real one.
func New(c *client.Client, now func() time.Time) *controller.Controller {
	if now == nil {
		now = time.Now
	}
	return &controller.Controller{
		Name: "ttl-after-finished", Watches: []client.Object{&batchv1.Job{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(j *batchv1.Job) bool {
				if _, limited := until(j); limited {
					enqueue(controller.KeyOf(j))
				}
				return true
			})
		},
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			if j, ok := event.New.(*batchv1.Job); ok {
				if _, limited := until(j); limited {
					enqueue(controller.KeyOf(j))
				}
			}
		},
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			j, ok := client.Get[*batchv1.Job](v, key.Namespace, key.Name)
			if !ok {
				return controller.Result{}, nil
			}
			at, limited := until(j)
			if !limited {
				return controller.Result{}, nil
			}
			if left := at.Sub(now()); left > 0 {
				return controller.Result{After: left}, nil
			}
			err := c.Delete(ctx, j, client.IfUID(j.UID), unchanged(j), client.Propagation(metav1.DeletePropagationForeground))
			if apierrors.IsNotFound(err) {
				err = nil
			}
			return controller.Result{}, err
		},
	}
}

// unchanged makes the deletion fail if the Job, and so perhaps its time, has been changed.
func unchanged(j *batchv1.Job) client.DeleteOption {
	return func(o *metav1.DeleteOptions) { o.Preconditions.ResourceVersion = &j.ResourceVersion }
}

// until returns when a Job is to be deleted; limited is false if it is not.
func until(j *batchv1.Job) (at time.Time, limited bool) {
	if j.DeletionTimestamp != nil || j.Spec.TTLSecondsAfterFinished == nil {
		return time.Time{}, false
	}
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue && !c.LastTransitionTime.IsZero() {
			return c.LastTransitionTime.Add(time.Duration(*j.Spec.TTLSecondsAfterFinished) * time.Second), true
		}
	}
	return time.Time{}, false
}
