package resourceclaim

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// syncClaim removes reservations of pods that are done, the allocation once no pod uses it or is going to, and the claim of a pod that is
// done.
func (r *reconciler) syncClaim(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	claim, ok := client.Get[*resourcev1.ResourceClaim](v, key.Namespace, key.Name)
	if !ok {
		return controller.Result{}, nil
	}
	remaining := slices.DeleteFunc(slices.Clone(claim.Status.ReservedFor), func(ref resourcev1.ResourceClaimConsumerReference) bool {
		if ref.APIGroup != "" || ref.Resource != "pods" {
			return false // a consumer that is not known here keeps its reservation
		}
		pod, ok := client.Get[*corev1.Pod](v, claim.Namespace, ref.Name)
		return !ok || pod.UID != ref.UID || done(pod)
	})
	released := len(remaining) < len(claim.Status.ReservedFor)
	if len(remaining) > 0 && !released {
		return controller.Result{}, nil
	}
	ends := len(remaining) == 0 && slices.Contains(claim.Finalizers, resourcev1.Finalizer)
	// An allocation whose reservation was taken back stays for the pods that name the claim. When the last of them is deleted it ends;
	// upstream keeps it if no pod ever ran with it, and the devices stay allocated for nobody. It also stays for a pod that is bound and
	// whose reservation is about to be written again.
	users := usersOf(v, claim)
	bound := slices.ContainsFunc(users, func(pod *corev1.Pod) bool { return pod.Spec.NodeName != "" })
	deallocates := ends && (claim.DeletionTimestamp != nil || released && !bound || claim.Status.Allocation != nil && len(users) == 0)
	if released || deallocates && claim.Status.Allocation != nil {
		changed := claim.DeepCopy()
		changed.Status.ReservedFor = remaining
		if deallocates {
			changed.Status.Allocation = nil
		}
		stored, err := client.UpdateStatus(ctx, r.client, changed)
		if err != nil {
			return controller.Result{}, err
		}
		claim = stored
	}
	if deallocates {
		changed := claim.DeepCopy()
		changed.Finalizers = slices.DeleteFunc(changed.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
		stored, err := client.Update(ctx, r.client, changed)
		if err != nil {
			return controller.Result{}, err
		}
		claim = stored
	}
	if len(remaining) > 0 || claim.DeletionTimestamp != nil {
		return controller.Result{}, nil
	}
	return controller.Result{}, r.deleteUnneeded(ctx, v, claim)
}

// deleteUnneeded deletes a claim that was made for a pod which is done. If the pod is gone, the garbage collector does that.
func (r *reconciler) deleteUnneeded(ctx context.Context, v client.View, claim *resourcev1.ResourceClaim) error {
	owner := owningPod(claim)
	if owner == nil {
		return nil
	}
	pod, ok := client.Get[*corev1.Pod](v, claim.Namespace, owner.Name)
	if !ok || pod.UID == owner.UID && !done(pod) {
		return nil
	}
	if err := r.client.Delete(ctx, claim, client.IfUID(claim.UID)); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete unused generated claim %s: %w", claim.Name, err)
	}
	return nil
}
