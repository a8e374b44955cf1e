package objects

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

// maxDisruptedPods limits the evictions that a disruption budget records until its controller has seen them.
const maxDisruptedPods = 2000

// spend takes an eviction of a pod from the pod's disruption budget, if it has one. It returns the name of the budget whose status let
// the pod go without being spent, because the pod is not healthy: then the pod must not become healthy before it is deleted. Errors
// are those of the eviction API: 429 if the budget allows no disruption now.
func (s *Service) spend(ctx context.Context, r *Request, pod *corev1.Pod) (unspent string, err error) {
	budgets, err := s.budgetsOf(pod)
	switch {
	case err != nil:
		return "", err
	case len(budgets) == 0:
		return "", nil
	case len(budgets) > 1:
		return "", &apierrors.StatusError{ErrStatus: metav1.Status{
			Status: metav1.StatusFailure, Code: 500,
			Message: "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
		}}
	}
	budget := budgets[0]
	if !ready(pod) {
		policy := budget.Spec.UnhealthyPodEvictionPolicy
		healthy := budget.Status.CurrentHealthy >= budget.Status.DesiredHealthy && budget.Status.DesiredHealthy > 0
		if healthy || policy != nil && *policy == policyv1.AlwaysAllow {
			return budget.Name, nil
		}
	}
	kind, _ := s.Kinds().ByGroupResource(policyv1.GroupName, "poddisruptionbudgets")
	write := *r
	write.Kind, write.Namespace, write.Name, write.Subresource, write.Warn = kind, pod.Namespace, budget.Name, "status", nil
	_, _, err = s.modify(ctx, &write, modification{unwatched: true, admitted: true, change: func(old registry.Object) (registry.Object, error) {
		b := old.(*policyv1.PodDisruptionBudget).DeepCopy()
		if err := mayDisrupt(b); err != nil {
			return nil, err
		}
		b.Status.DisruptionsAllowed--
		if b.Status.DisruptionsAllowed == 0 {
			meta.SetStatusCondition(&b.Status.Conditions, metav1.Condition{
				Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.InsufficientPodsReason,
				ObservedGeneration: b.Status.ObservedGeneration, LastTransitionTime: s.timestamp(),
			})
		}
		if b.Status.DisruptedPods == nil {
			b.Status.DisruptedPods = map[string]metav1.Time{}
		}
		b.Status.DisruptedPods[pod.Name] = s.timestamp()
		return b, nil
	}})
	return "", err
}

// budgetsOf returns the disruption budgets that select a pod.
func (s *Service) budgetsOf(pod *corev1.Pod) (out []*policyv1.PodDisruptionBudget, err error) {
	kind, _ := s.Kinds().ByGroupResource(policyv1.GroupName, "poddisruptionbudgets")
	prefix := kind.NamespacePrefix(pod.Namespace)
	s.store.View().Range(prefix, kv.PrefixEnd(prefix), func(v *kv.Version) bool {
		var obj registry.Object
		if obj, err = s.Decode(kind, v); err != nil {
			err = apierrors.NewInternalError(err)
			return false
		}
		budget := obj.(*policyv1.PodDisruptionBudget)
		// An invalid selector selects nothing.
		if selector, invalid := metav1.LabelSelectorAsSelector(budget.Spec.Selector); invalid == nil && selector.Matches(labels.Set(pod.Labels)) {
			out = append(out, budget)
		}
		return true
	})
	return out, err
}

// mayDisrupt returns nil if a budget allows an eviction now.
func mayDisrupt(b *policyv1.PodDisruptionBudget) error {
	because := func(err *apierrors.StatusError, message string) error {
		err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: message})
		return err
	}
	forbidden := func(reason string) *apierrors.StatusError {
		return apierrors.NewForbidden(policyv1.Resource("poddisruptionbudget"), b.Name, errors.New(reason))
	}
	status := &b.Status
	switch {
	case status.ObservedGeneration < b.Generation:
		return unprocessedBudget(b.Name)
	case status.DisruptionsAllowed < 0:
		return because(forbidden("pdb disruptions allowed is negative"),
			fmt.Sprintf("The disruption budget %s does not allow evicting pods currently: pdb disruptions allowed is negative", b.Name))
	case len(status.DisruptedPods) > maxDisruptedPods:
		return because(forbidden("DisruptedPods map too big - too many evictions not confirmed by PDB controller"),
			fmt.Sprintf("The disruption budget %s does not allow evicting pods currently: too many pending evictions not confirmed by PDB controller", b.Name))
	case status.DisruptionsAllowed > 0:
		return nil
	}
	message := fmt.Sprintf("The disruption budget %s does not allow evicting pods currently", b.Name)
	c := meta.FindStatusCondition(status.Conditions, policyv1.DisruptionAllowedCondition)
	explained := c != nil && c.Status == metav1.ConditionFalse && c.Message != ""
	switch {
	case explained && c.Reason == policyv1.SyncFailedReason: // the numbers below are old then
		message += " because it failed sync: " + c.Message
	case status.CurrentHealthy <= status.DesiredHealthy:
		message = fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, status.DesiredHealthy, status.CurrentHealthy)
	case explained:
		message += fmt.Sprintf(" (%s): %s", c.Reason, c.Message)
	}
	return because(apierrors.NewTooManyRequests(budgetExceeded, 0), message)
}

const budgetExceeded = "Cannot evict pod as it would violate the pod's disruption budget."

// unprocessedBudget returns the error for a budget whose status is not up to date: try again a little later.
func unprocessedBudget(name string) error {
	err := apierrors.NewTooManyRequests(budgetExceeded, 10)
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes, metav1.StatusCause{
		Type: policyv1.DisruptionBudgetCause, Message: fmt.Sprintf("The disruption budget %s is still being processed by the server.", name)})
	return err
}

func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}
