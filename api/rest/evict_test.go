package rest_test

import (
	"context"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
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
