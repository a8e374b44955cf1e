package pods

import (
	"context"
	"fmt"
	"sync/atomic"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// Control creates and deletes pods on behalf of their owner, and records events about it on the owner.
type Control struct {
	Client   *client.Client
	Recorder record.EventRecorder
}

// Create creates a pod. The caller must not use pod afterwards.
func (c Control) Create(ctx context.Context, owner client.Object, pod *corev1.Pod) error {
	created, err := client.Create(ctx, c.Client, pod)
	if err != nil {
		if !namespaceEnds(err) {
			c.Recorder.Eventf(owner, corev1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return err
	}
	c.Recorder.Eventf(owner, corev1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", created.Name)
	return nil
}

// Delete deletes a pod. It is no error if the pod no longer exists.
func (c Control) Delete(ctx context.Context, owner client.Object, pod *corev1.Pod) error {
	err := c.Client.Delete(ctx, pod, client.IfUID(pod.UID))
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		c.Recorder.Eventf(owner, corev1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return fmt.Errorf("delete pod %s: %w", pod.Name, err)
	}
	c.Recorder.Eventf(owner, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
	return nil
}

// namespaceEnds says whether a creation failed because the namespace is being deleted.
func namespaceEnds(err error) bool {
	return apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause)
}

// SlowStart calls create for each item, for one at first, then for twice as many each time as long as all succeed: so an owner whose
// pods are refused does not flood the API. It returns how many calls succeeded. That the namespace is being deleted ends it without
// an error, because the owner will be deleted, too.
func SlowStart[T any](items []T, create func(T) error) (made int, err error) {
	for batch := 1; len(items) > 0; batch *= 2 {
		batch = min(batch, len(items))
		var succeeded atomic.Int32
		err := controller.Each(items[:batch], func(item T) error {
			err := create(item)
			if err == nil {
				succeeded.Add(1)
			}
			return err
		})
		made += int(succeeded.Load())
		if namespaceEnds(err) {
			return made, nil
		}
		if err != nil {
			return made, err
		}
		items = items[batch:]
	}
	return made, nil
}
