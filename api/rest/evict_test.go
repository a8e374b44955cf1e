package rest_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/test/harness"
)

func disruption(p *corev1.Pod) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		if p.Status.Conditions[i].Type == corev1.DisruptionTarget {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

func boundPod(t *testing.T, set *kubernetes.Clientset, name string) *corev1.Pod {
	t.Helper()
	p := pod(name)
	p.Spec.NodeName = "n"
	p, err := set.CoreV1().Pods("default").Create(context.Background(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// TestEvictionSaysWhyInThePodsStatus: the pod gets the condition and is then deleted; a watch sees the condition even if the pod is
// deleted at once.
func TestEvictionSaysWhyInThePodsStatus(t *testing.T) {
	set := harness.New(t).Clientset()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pods := set.CoreV1().Pods("default")
	boundPod(t, set, "bound")
	if err := pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "bound"}}); err != nil {
		t.Fatal(err)
	}
	evicted, err := pods.Get(ctx, "bound", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := disruption(evicted)
	if c == nil || c.Status != corev1.ConditionTrue || c.Reason != "EvictionByEvictionAPI" || c.Message != "Eviction API: evicting" || c.LastTransitionTime.IsZero() {
		t.Errorf("the condition is %+v", c)
	}
	if evicted.DeletionTimestamp == nil {
		t.Error("the pod is not being deleted")
	}
	for _, m := range evicted.ManagedFields {
		if m.Subresource == "status" {
			t.Errorf("the condition has become somebody's field: %+v", m)
		}
	}

	w, err := pods.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=waiting"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if _, err := pods.Create(ctx, pod("waiting"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "waiting"}}); err != nil {
		t.Fatal(err)
	}
	for event := range w.ResultChan() {
		if event.Type != watch.Deleted {
			continue
		}
		if last := event.Object.(*corev1.Pod); disruption(last) == nil {
			t.Errorf("a pod that went at once was not marked: %+v", last)
		}
		return
	}
	t.Error("the watch ended before the pod was deleted")
}

// TestEvictionKeepsPreconditions: a precondition that is not met leaves the pod without the condition; a resource version that is
// met also applies to the deletion, although the condition gives the pod a new one.
func TestEvictionKeepsPreconditions(t *testing.T) {
	set := harness.New(t).Clientset()
	ctx := context.Background()
	pods := set.CoreV1().Pods("default")
	p := boundPod(t, set, "p")
	for name, c := range map[string]struct {
		eviction policyv1.Eviction
		fails    func(error) bool
		says     string
	}{
		"another uid": {policyv1.Eviction{DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: ptr.To(types.UID("other"))}}},
			apierrors.IsConflict, "the UID in the precondition (other) does not match"},
		"another revision": {policyv1.Eviction{DeleteOptions: &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: ptr.To("1")}}},
			apierrors.IsConflict, "the ResourceVersion in the precondition (1) does not match"},
		"a bad option": {policyv1.Eviction{DeleteOptions: &metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletionPropagation("x"))}},
			apierrors.IsInvalid, "propagationPolicy"},
		"an option that evictions have not": {policyv1.Eviction{DeleteOptions: &metav1.DeleteOptions{IgnoreStoreReadErrorWithClusterBreakingPotential: ptr.To(true)}},
			apierrors.IsInvalid, "can not be set for pod eviction, try after removing the option"},
	} {
		c.eviction.Name = "p"
		if err := pods.EvictV1(ctx, &c.eviction); !c.fails(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	code, body := raw(t, harness.New(t).Config("admin", "system:masters"), "POST", "/api/v1/namespaces/default/pods/p/eviction", "application/json", []byte(`{"apiVersion":"policy/v1","kind":"Eviction"}`))
	if code != 400 || !strings.Contains(body, "name in URL does not match name in Eviction object") {
		t.Errorf("an eviction without a name: %d %s", code, body)
	}
	after, err := pods.Get(ctx, "p", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if after.ResourceVersion != p.ResourceVersion {
		t.Errorf("evictions that were refused changed the pod: %+v", after)
	}
	held := &metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &p.UID, ResourceVersion: &p.ResourceVersion}}
	if err := pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p"}, DeleteOptions: held}); err != nil {
		t.Fatal(err)
	}
	if after, err = pods.Get(ctx, "p", metav1.GetOptions{}); err != nil || after.DeletionTimestamp == nil || disruption(after) == nil {
		t.Errorf("not evicted: %v %+v", err, after)
	}
}

// TestEvictionSpendsTheBudget: a running pod is evicted only if its disruption budget allows it, which is recorded there; pods that do
// not run, or are not healthy where the budget says so, are not held.
func TestEvictionSpendsTheBudget(t *testing.T) {
	h := harness.New(t)
	set, ctx := h.Clientset(), t.Context()
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}}}
	budgets := set.PolicyV1().PodDisruptionBudgets("default")
	budget, err := budgets.Create(ctx, budget, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	create := func(name string, phase corev1.PodPhase, ready corev1.ConditionStatus) {
		t.Helper()
		p := pod(name)
		p.Spec.NodeName, p.Labels = "n", map[string]string{"app": "x"}
		p, err := set.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		p.Status.Phase, p.Status.Conditions = phase, []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
		if _, err := set.CoreV1().Pods("default").UpdateStatus(ctx, p, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	evict := func(name string) error {
		// Without the client's own retries after a 429.
		return set.CoreV1().RESTClient().Post().MaxRetries(0).Namespace("default").Resource("pods").Name(name).SubResource("eviction").
			Body(&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name}}).Do(ctx).Error()
	}
	allow := func(status policyv1.PodDisruptionBudgetStatus) {
		t.Helper()
		if budget, err = budgets.Get(ctx, "b", metav1.GetOptions{}); err != nil {
			t.Fatal(err)
		}
		budget.Status = status
		if _, err = budgets.UpdateStatus(ctx, budget, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	refused := func(name, message string) {
		t.Helper()
		err := evict(name)
		if !apierrors.IsTooManyRequests(err) || !strings.Contains(err.Error(), "violate the pod's disruption budget") {
			t.Fatalf("%s: %v", name, err)
		}
		if cause := err.(*apierrors.StatusError).ErrStatus.Details.Causes[0]; cause.Type != policyv1.DisruptionBudgetCause || !strings.Contains(cause.Message, message) {
			t.Errorf("%s: cause %+v, want %q", name, cause, message)
		}
		if p, err := set.CoreV1().Pods("default").Get(ctx, name, metav1.GetOptions{}); err != nil || p.DeletionTimestamp != nil || disruption(p) != nil {
			t.Errorf("%s is not as before: %+v, %v", name, p, err)
		}
	}
	for _, name := range []string{"a", "b", "c"} {
		create(name, corev1.PodRunning, corev1.ConditionTrue)
	}
	create("sick", corev1.PodRunning, corev1.ConditionFalse)
	create("waiting", corev1.PodPending, corev1.ConditionFalse)
	create("done", corev1.PodSucceeded, corev1.ConditionFalse)

	refused("a", "is still being processed")
	allow(policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1, CurrentHealthy: 3, DesiredHealthy: 1, ExpectedPods: 3})
	if err := evict("a"); err != nil {
		t.Fatal(err)
	}
	if budget, err = budgets.Get(ctx, "b", metav1.GetOptions{}); err != nil || budget.Status.DisruptionsAllowed != 0 || budget.Status.DisruptedPods["a"].Time.IsZero() {
		t.Errorf("the budget is %+v, %v", budget.Status, err)
	}
	allow(policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, CurrentHealthy: 1, DesiredHealthy: 1, ExpectedPods: 3})
	refused("b", "needs 1 healthy pods and has 1 currently")
	for _, free := range []string{"sick", "waiting", "done"} {
		if err := evict(free); err != nil {
			t.Errorf("%s: %v", free, err)
		}
	}
	// Of many parallel evictions exactly as many pass as the budget allows.
	allow(policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1, CurrentHealthy: 2, DesiredHealthy: 1, ExpectedPods: 3})
	results := make(chan error, 2)
	for _, name := range []string{"b", "c"} {
		go func() { results <- evict(name) }()
	}
	passed := 0
	for range 2 {
		if err := <-results; err == nil {
			passed++
		} else if !apierrors.IsTooManyRequests(err) {
			t.Error(err)
		}
	}
	if passed != 1 {
		t.Errorf("%d evictions passed a budget of one", passed)
	}
	// Two budgets are one too many.
	second := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b2"}, Spec: budget.Spec}
	if _, err := budgets.Create(ctx, second, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	create("d", corev1.PodRunning, corev1.ConditionTrue)
	if err := evict("d"); !apierrors.IsInternalError(err) && !strings.Contains(fmt.Sprint(err), "more than one PodDisruptionBudget") {
		t.Error(err)
	}
}
