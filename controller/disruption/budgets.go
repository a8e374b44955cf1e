// Package disruption keeps the status of PodDisruptionBudgets up to date, by which the eviction API decides whether a pod may be
// evicted, and resets the DisruptionTarget condition of pods that were not disrupted after all.
//
// The rules are upstream's (k8s.io/kubernetes/pkg/controller/disruption). Beyond them, a change of a workload's size updates the
// budgets of its pods at once, and every budget of a pod that has several, not one of them.
package disruption

import (
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"
	pdbhelper "k8s.io/component-helpers/apps/poddisruptionbudget"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/pods"
)

// deletionTimeout is how long an eviction may be without effect: then the pod counts as healthy again.
const deletionTimeout = 2 * time.Minute

type reconciler struct {
	client   *client.Client
	recorder record.EventRecorder
	now      func() time.Time
}

// New returns the controllers: of budgets, and of pods' conditions.
func New(c *client.Client, recorder record.EventRecorder) []*controller.Controller {
	return newControllers(c, recorder, time.Now)
}

func newControllers(c *client.Client, recorder record.EventRecorder, now func() time.Time) []*controller.Controller {
	r := &reconciler{c, recorder, now}
	return []*controller.Controller{{
		Name: "disruption",
		Watches: []client.Object{&policyv1.PodDisruptionBudget{}, &corev1.Pod{},
			&appsv1.Deployment{}, &appsv1.ReplicaSet{}, &appsv1.StatefulSet{}, &corev1.ReplicationController{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(budget *policyv1.PodDisruptionBudget) bool {
				enqueue(controller.KeyOf(budget))
				return true
			})
		},
		Enqueue: r.enqueue, Reconcile: r.reconcile, Workers: 5,
	}, r.conditions()}
}

func (r *reconciler) enqueue(v client.View, event client.Event, enqueue func(controller.Key)) {
	enqueueFor := func(namespace string, set map[string]string) (n int) {
		for _, budget := range budgetsOf(v, namespace, set) {
			enqueue(controller.KeyOf(budget))
			n++
		}
		return n
	}
	switch obj := event.Object().(type) {
	case *policyv1.PodDisruptionBudget:
		enqueue(controller.KeyOf(obj))
	case *corev1.Pod:
		before, _ := event.Old.(*corev1.Pod)
		relabelled := before == nil || event.New == nil || !apiequality.Semantic.DeepEqual(before.Labels, obj.Labels)
		if before != nil && relabelled {
			enqueueFor(before.Namespace, before.Labels)
		}
		if event.New == nil {
			return
		}
		if n := enqueueFor(obj.Namespace, obj.Labels); n > 1 && relabelled {
			r.recorder.Eventf(obj, corev1.EventTypeWarning, "MultiplePodDisruptionBudgets", "Pod %q/%q matches multiple PodDisruptionBudgets.  Evictions are refused.", obj.Namespace, obj.Name)
		}
	default:
		if event.New == nil {
			return // its pods follow it
		}
		size, template := sizeOf(event.New)
		if event.Old != nil {
			if before, _ := sizeOf(event.Old); before == size {
				return
			}
		}
		if template != nil {
			enqueueFor(event.New.GetNamespace(), template.Labels)
		}
	}
}

// sizeOf returns the size of a workload that the controller watches, and its template.
func sizeOf(obj client.Object) (int32, *corev1.PodTemplateSpec) {
	switch o := obj.(type) {
	case *appsv1.Deployment:
		return *o.Spec.Replicas, &o.Spec.Template
	case *appsv1.ReplicaSet:
		return *o.Spec.Replicas, &o.Spec.Template
	case *appsv1.StatefulSet:
		return *o.Spec.Replicas, &o.Spec.Template
	case *corev1.ReplicationController:
		return *o.Spec.Replicas, o.Spec.Template
	}
	return 0, nil
}

// Indexes of budgets by their selectors, and of pods by their labels.
var (
	bySelector = client.NewIndex(func(budget *policyv1.PodDisruptionBudget, add func(string)) {
		add(client.SelectorKey(budget.Namespace, selectorOf(budget)))
	})
	byLabels = client.NewIndex(func(pod *corev1.Pod, add func(string)) {
		for _, key := range client.SelectorKeys(pod.Namespace, pod.Labels) {
			add(key)
		}
	})
)

// selectorOf returns a budget's selector: an empty one selects all pods of the namespace, none at all no pod.
func selectorOf(budget *policyv1.PodDisruptionBudget) labels.Selector {
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	if err != nil {
		return labels.Nothing() // validation refuses such a selector
	}
	return selector
}

// budgetsOf returns the budgets that select an object with labels.
func budgetsOf(v client.View, namespace string, set map[string]string) (out []*policyv1.PodDisruptionBudget) {
	for _, budget := range bySelector.Any(v, client.SelectorKeys(namespace, set)...) {
		if selectorOf(budget).Matches(labels.Set(set)) {
			out = append(out, budget)
		}
	}
	return out
}

func podsOf(v client.View, budget *policyv1.PodDisruptionBudget) (out []*corev1.Pod) {
	selector := selectorOf(budget)
	for _, pod := range byLabels.Any(v, client.SelectorKey(budget.Namespace, selector)) {
		if selector.Matches(labels.Set(pod.Labels)) {
			out = append(out, pod)
		}
	}
	return out
}

func (r *reconciler) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	budget, ok := client.Get[*policyv1.PodDisruptionBudget](v, key.Namespace, key.Name)
	if !ok {
		return controller.Result{}, nil
	}
	selected := podsOf(v, budget)
	if len(selected) == 0 {
		r.recorder.Event(budget, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	status := policyv1.PodDisruptionBudgetStatus{ObservedGeneration: budget.Generation, Conditions: budget.Status.DeepCopy().Conditions}
	var err error
	if status.ExpectedPods, status.DesiredHealthy, err = r.expected(v, budget, selected); err != nil {
		r.recorder.Eventf(budget, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		return controller.Result{}, r.failSafe(ctx, budget, err)
	}
	var after time.Duration
	status.DisruptedPods, after = r.disrupted(budget, selected)
	for _, pod := range selected {
		if _, leaves := status.DisruptedPods[pod.Name]; !leaves && pod.DeletionTimestamp == nil && pods.Ready(pod) {
			status.CurrentHealthy++
		}
	}
	// A budget that expects no pods allows nothing: its first ones may have appeared since.
	if status.ExpectedPods > 0 {
		status.DisruptionsAllowed = max(status.CurrentHealthy-status.DesiredHealthy, 0)
	}
	changed := budget.DeepCopy()
	changed.Status = status
	pdbhelper.UpdateDisruptionAllowedCondition(changed)
	return controller.Result{After: after}, r.write(ctx, budget, changed)
}

// write writes a budget's status if it differs from the one that was read. An eviction since then makes it a conflict.
func (r *reconciler) write(ctx context.Context, read, changed *policyv1.PodDisruptionBudget) error {
	if apiequality.Semantic.DeepEqual(read.Status, changed.Status) {
		return nil
	}
	if _, err := client.UpdateStatus(ctx, r.client, changed); !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}

// failSafe makes a budget allow nothing because its status cannot be calculated.
func (r *reconciler) failSafe(ctx context.Context, budget *policyv1.PodDisruptionBudget, failure error) error {
	changed := budget.DeepCopy()
	changed.Status.DisruptionsAllowed = 0
	meta.SetStatusCondition(&changed.Status.Conditions, metav1.Condition{
		Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse, Reason: policyv1.SyncFailedReason,
		Message: failure.Error(), ObservedGeneration: changed.Status.ObservedGeneration,
	})
	return r.write(ctx, budget, changed)
}

// expected returns how many pods a budget's workloads are to have, and how many of them must be healthy.
func (r *reconciler) expected(v client.View, budget *policyv1.PodDisruptionBudget, selected []*corev1.Pod) (expected, healthy int32, err error) {
	least, most := budget.Spec.MinAvailable, budget.Spec.MaxUnavailable
	switch {
	case most == nil && least == nil:
		return 0, 0, nil
	case most == nil && least.Type == intstr.Int:
		return int32(len(selected)), least.IntVal, nil
	}
	expected, unmanaged, err := r.scale(v, selected)
	if err != nil {
		return 0, 0, err
	}
	if unmanaged {
		r.recorder.Eventf(budget, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found "+
			"to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", budget.Spec.Selector)
	}
	limit := least
	if most != nil {
		limit = most
	}
	n, err := intstr.GetScaledValueFromIntOrPercent(limit, int(expected), true)
	if err != nil {
		return 0, 0, err
	}
	if most != nil {
		return expected, max(expected-int32(n), 0), nil
	}
	return expected, int32(n), nil
}

// disrupted returns the evicted pods that are not yet being deleted, and when the first of them will have timed out.
func (r *reconciler) disrupted(budget *policyv1.PodDisruptionBudget, selected []*corev1.Pod) (out map[string]metav1.Time, after time.Duration) {
	for _, pod := range selected {
		at, ok := budget.Status.DisruptedPods[pod.Name]
		if !ok || pod.DeletionTimestamp != nil {
			continue
		}
		left := at.Add(deletionTimeout).Sub(r.now())
		if left < 0 {
			r.recorder.Eventf(pod, corev1.EventTypeWarning, "NotDeleted", "Pod was expected by PDB %s/%s to be deleted but it wasn't", budget.Namespace, budget.Name)
			continue
		}
		if out == nil {
			out = map[string]metav1.Time{}
		}
		out[pod.Name] = at
		if after == 0 || left < after {
			after = max(left, time.Millisecond)
		}
	}
	return out, after
}
