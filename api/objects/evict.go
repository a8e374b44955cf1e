package objects

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/kubernetes/pkg/apis/policy"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/registry"
)

// Evict deletes a pod on behalf of the eviction API. A separate write sets the pod's DisruptionTarget condition first, so that
// watchers see it even if the pod is deleted at once. The pod's disruption budget must allow the eviction, which is recorded in it. A dry run
// only checks.
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
	for try := 0; ; try++ {
		err := s.evictOnce(ctx, r, options)
		if !errors.Is(err, errPodChanged) || try == maxEvictionTries {
			return err
		}
	}
}

// maxEvictionTries is how often an eviction is decided again because its pod changed.
const maxEvictionTries = 20

// errPodChanged wraps the conflict of an eviction whose pod changed after it was decided.
var errPodChanged = errors.New("the pod has changed")

func (s *Service) evictOnce(ctx context.Context, r *Request, options *metav1.DeleteOptions) error {
	deletion := *r
	deletion.Subresource = ""
	pod, err := s.currentPod(ctx, &deletion)
	if err != nil {
		return err
	}
	free := options.Preconditions == nil || options.Preconditions.ResourceVersion == nil
	if free && options.Preconditions != nil && options.Preconditions.UID != nil && *options.Preconditions.UID != pod.UID {
		free = false // a retry would not help
	}
	// What has ended disrupts nothing. A pending pod does not either, nor an unhealthy one whose budget says so, if it still is when it is
	// deleted.
	pinned, unspent := pod.Status.Phase == corev1.PodPending && pod.DeletionTimestamp == nil, ""
	if !pinned && pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
		if unspent, err = s.spend(ctx, r, pod); err != nil {
			return err
		}
		pinned = unspent != ""
	}
	if pinned && free {
		options = options.DeepCopy()
		if options.Preconditions == nil {
			options.Preconditions = &metav1.Preconditions{}
		}
		options.Preconditions.ResourceVersion = ptr.To(pod.ResourceVersion)
	}
	err = s.evict(ctx, deletion, options)
	switch {
	case !apierrors.IsConflict(err) || !pinned || !free:
		return err
	case unspent != "":
		return unprocessedBudget(unspent)
	}
	return errors.Join(errPodChanged, err)
}

// currentPod returns the pod that a request names.
func (s *Service) currentPod(ctx context.Context, r *Request) (*corev1.Pod, error) {
	v, err := s.Get(ctx, r, "")
	if err != nil {
		return nil, err
	}
	obj, err := s.Decode(r.Kind, v)
	if err != nil {
		return nil, apierrors.NewInternalError(err)
	}
	return obj.(*corev1.Pod), nil
}

// evict marks a pod and deletes it.
func (s *Service) evict(ctx context.Context, r Request, options *metav1.DeleteOptions) error {
	if !r.DryRun {
		marked, err := s.markEvicted(ctx, r, options.Preconditions)
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
	_, _, err := s.delete(ctx, &r, options, true)
	return err
}

func (s *Service) markEvicted(ctx context.Context, r Request, preconditions *metav1.Preconditions) (registry.Object, error) {
	r.Subresource = "status"
	marked, _, err := s.modify(ctx, &r, modification{unwatched: true, admitted: true, change: func(old registry.Object) (registry.Object, error) {
		if err := checkPreconditions(&r, preconditions, old); err != nil {
			return nil, err
		}
		pod := old.(*corev1.Pod).DeepCopy()
		SetPodCondition(pod, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, LastTransitionTime: s.timestamp(),
			Reason: "EvictionByEvictionAPI", Message: "Eviction API: evicting",
		})
		return pod, nil
	}})
	return marked, err
}
