package objects

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/policy"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/registry"
)

// Evict deletes a pod on behalf of the eviction API. A separate write sets the pod's DisruptionTarget condition first, so that
// watchers see it even if the pod is deleted at once. A dry run only checks the deletion, as upstream does.
func (s *Service) Evict(ctx context.Context, r *Request, eviction *policyv1.Eviction) error {
	if err := s.Admit(ctx, &Attributes{Request: r, Operation: OpCreate, Object: eviction, ObjectKind: policyv1.SchemeGroupVersion.WithKind("Eviction")}); err != nil {
		return err
	}
	options := eviction.DeleteOptions
	if options == nil {
		options = &metav1.DeleteOptions{}
	}
	if ptr.Deref(options.IgnoreStoreReadErrorWithClusterBreakingPotential, false) {
		return Invalid(policy.Kind("Eviction"), r.Name, field.ErrorList{field.Invalid(
			field.NewPath("deleteOptions", "ignoreStoreReadErrorWithClusterBreakingPotential"), true, "can not be set for pod eviction, try after removing the option")})
	}
	if err := checkDeleteOptions(options); err != nil {
		return err
	}
	deletion := *r
	deletion.Subresource = ""
	if !r.DryRun {
		marked, err := s.markEvicted(ctx, deletion, options.Preconditions)
		if err != nil {
			return err
		}
		options = options.DeepCopy()
		if options.Preconditions == nil {
			options.Preconditions = &metav1.Preconditions{}
		}
		options.Preconditions.UID = ptr.To(marked.GetUID()) // not another pod that has taken the name meanwhile
		if options.Preconditions.ResourceVersion != nil {
			options.Preconditions.ResourceVersion = ptr.To(marked.GetResourceVersion())
		}
	}
	_, _, err := s.delete(ctx, &deletion, options, true)
	return err
}

func (s *Service) markEvicted(ctx context.Context, r Request, preconditions *metav1.Preconditions) (registry.Object, error) {
	r.Subresource = "status"
	marked, _, err := s.modify(ctx, &r, modification{unwatched: true, admitted: true, change: func(old registry.Object) (registry.Object, error) {
		if err := checkPreconditions(&r, preconditions, old); err != nil {
			return nil, err
		}
		pod := old.(*corev1.Pod)
		SetPodCondition(pod, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: s.timestamp(),
			Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
		})
		return pod, nil
	}})
	return marked, err
}
