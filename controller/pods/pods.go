// Package pods has functions for controllers that own pods: creating pods from a template and deleting them, claiming pods by selector, and testing
// whether pods are active, ready and available.
package pods

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/owned"
)

// Active says whether a pod is, or will be, running: it has not finished and is not being deleted.
func Active(p *corev1.Pod) bool { return !Finished(p) && p.DeletionTimestamp == nil }

// Finished says whether a pod's containers have ended permanently.
func Finished(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
}

// ReadyCondition returns the pod's Ready condition; nil if it has none.
func ReadyCondition(p *corev1.Pod) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.PodReady {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// Ready says whether the pod's Ready condition is true.
func Ready(p *corev1.Pod) bool {
	c := ReadyCondition(p)
	return c != nil && c.Status == corev1.ConditionTrue
}

// Available says whether the pod has been ready for minReadySeconds; if it has been ready for less, after is the remaining time.
func Available(p *corev1.Pod, minReadySeconds int32, now time.Time) (available bool, after time.Duration) {
	if !Ready(p) {
		return false, 0
	}
	since := ReadyCondition(p).LastTransitionTime
	if minReadySeconds == 0 {
		return true, 0
	}
	if since.IsZero() {
		return false, 0
	}
	left := since.Add(time.Duration(minReadySeconds) * time.Second).Sub(now)
	return left <= 0, max(left, 0)
}

// FromTemplate returns a pod for a template, controlled by owner and named by generateName.
func FromTemplate(template *corev1.PodTemplateSpec, owner client.Object, kind schema.GroupVersionKind) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: owner.GetNamespace(), GenerateName: prefix(owner.GetName()),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(owner, kind)},
		},
	}
	t := template.DeepCopy()
	pod.Labels, pod.Annotations, pod.Finalizers, pod.Spec = t.Labels, t.Annotations, t.Finalizers, t.Spec
	return pod
}

// prefix returns a prefix that keeps names of pods readable, unless the owner's name would make them invalid (upstream's rule).
func prefix(owner string) string {
	if p := owner + "-"; len(validation.IsDNS1123Subdomain(p+"x")) == 0 {
		return p
	}
	return owner
}

// ControlledBy says whether owner controls obj.
func ControlledBy(obj, owner metav1.Object) bool { return metav1.IsControlledBy(obj, owner) }

var byController = owned.NewIndex[*corev1.Pod]()

// Controlled returns the pods that any of the owners controls, as of the view or later. They are shared and read-only.
func Controlled(v client.View, owners ...types.UID) []*corev1.Pod {
	return byController.Controlled(v, owners...)
}

// Claim returns the pods that owner controls: matching pods that it already controls, and matching orphans, which it adopts. It
// releases pods that no longer match. Owners that are being deleted adopt nothing, and pods that are not active are neither adopted
// nor released.
func Claim(ctx context.Context, c *client.Client, v client.View, owner client.Object, kind schema.GroupVersionKind, selector labels.Selector) ([]*corev1.Pod, error) {
	return byController.Claim(ctx, c, v, owned.Owner{Object: owner, Kind: kind, Selector: selector}, owned.Rules[*corev1.Pod]{Change: Active})
}

// ClaimAll is Claim for owners that also adopt and release finished pods. A pod may only be the owner's if member says so; a nil
// function allows all.
func ClaimAll(ctx context.Context, c *client.Client, v client.View, owner owned.Owner, member func(*corev1.Pod) bool) ([]*corev1.Pod, error) {
	return byController.Claim(ctx, c, v, owner, owned.Rules[*corev1.Pod]{Member: member})
}
