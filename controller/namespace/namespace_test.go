package namespace_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/namespace"
	"github.com/kontiki/kontiki/test/harness"
)

func meta(name string, finalizers ...string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "doomed", Name: name, Finalizers: finalizers}
}

func fill(t *testing.T, h *harness.Harness, finalizers ...string) {
	t.Helper()
	controllertest.Create(t, h.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "doomed"}})
	controllertest.Create(t, h.Client, &corev1.ServiceAccount{ObjectMeta: meta("default")})
	controllertest.Create(t, h.Client, &corev1.ConfigMap{ObjectMeta: meta("held", finalizers...)})
	controllertest.Create(t, h.Client, &corev1.Secret{ObjectMeta: meta("s")})
	controllertest.Create(t, h.Client, &corev1.Service{ObjectMeta: meta("svc"), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
	controllertest.Create(t, h.Client, &corev1.Event{ObjectMeta: meta("e"), InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "doomed", Name: "p"}})
	controllertest.Create(t, h.Client, &corev1.Pod{ObjectMeta: meta("p"), Spec: corev1.PodSpec{NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
}

func conditionIs(ns *corev1.Namespace, kind corev1.NamespaceConditionType, status corev1.ConditionStatus, message string) bool {
	return slices.ContainsFunc(ns.Status.Conditions, func(c corev1.NamespaceCondition) bool {
		return c.Type == kind && c.Status == status && c.Message == message
	})
}

func TestANamespaceEndsWhenItsContentHas(t *testing.T) {
	h := harness.New(t)
	fill(t, h, "example.com/hold")
	controllertest.Create(t, h.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "bystander"}})
	controllertest.Run(t, h.Client, namespace.New(h.Client, nil))
	if err := h.Client.Delete(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "doomed"}}); err != nil {
		t.Fatal(err)
	}
	// The pod has its grace period; everything else stays as long as the pod exists.
	ns := controllertest.Await(t, h.Client, "", "doomed", "the pod to be reported", func(ns *corev1.Namespace) bool {
		return conditionIs(ns, corev1.NamespaceContentRemaining, corev1.ConditionTrue, "Some resources are remaining: pods. has 1 resource instances")
	})
	if ns.Status.Phase != corev1.NamespaceTerminating {
		t.Errorf("phase %s", ns.Status.Phase)
	}
	pod := controllertest.Await(t, h.Client, "doomed", "p", "its deletion", func(p *corev1.Pod) bool { return p.DeletionTimestamp != nil })
	if *pod.DeletionGracePeriodSeconds != 30 {
		t.Errorf("the pod has %d s", *pod.DeletionGracePeriodSeconds)
	}
	if s, ok := client.Get[*corev1.Secret](h.Client.View(), "doomed", "s"); !ok || s.DeletionTimestamp != nil {
		t.Error("a secret was deleted while a pod may need it")
	}
	if err := h.Client.Delete(context.Background(), pod, client.Grace(0)); err != nil {
		t.Fatal(err)
	}
	ns = controllertest.Await(t, h.Client, "", "doomed", "the held object to be reported", func(ns *corev1.Namespace) bool {
		return conditionIs(ns, corev1.NamespaceContentRemaining, corev1.ConditionTrue, "Some resources are remaining: configmaps. has 1 resource instances")
	})
	for kind, want := range map[corev1.NamespaceConditionType]string{
		corev1.NamespaceDeletionDiscoveryFailure: "All resources successfully discovered",
		corev1.NamespaceDeletionGVParsingFailure: "All legacy kube types successfully parsed",
		corev1.NamespaceDeletionContentFailure:   "All content successfully deleted, may be waiting on finalization",
	} {
		if !conditionIs(ns, kind, corev1.ConditionFalse, want) {
			t.Errorf("%s is not False with %q: %+v", kind, want, ns.Status.Conditions)
		}
	}
	if !conditionIs(ns, corev1.NamespaceFinalizersRemaining, corev1.ConditionTrue, "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances") {
		t.Errorf("finalizers: %+v", ns.Status.Conditions)
	}
	controllertest.Change(t, h.Client, "doomed", "held", func(cm *corev1.ConfigMap) { cm.Finalizers = nil })
	controllertest.AwaitGone[*corev1.Namespace](t, h.Client, "", "doomed")
	left := 0
	v := h.Client.View()
	for _, kind := range h.Client.Kinds() {
		if kind.Namespaced {
			v.EachMeta(kind, "doomed", func(obj *client.Metadata) bool { left++; t.Errorf("left: %s %s", obj.Kind, obj.GetName()); return true })
		}
	}
	if _, ok := client.Get[*corev1.ConfigMap](v, "default", "bystander"); !ok || left > 0 {
		t.Errorf("%d objects left, or another namespace's gone", left)
	}
}

func TestANewLeaderGoesOn(t *testing.T) {
	h := harness.New(t)
	fill(t, h)
	if err := h.Client.Delete(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "doomed"}}); err != nil {
		t.Fatal(err)
	}
	controllertest.StartKubelet(t, h.Client)
	controllertest.Run(t, h.Client, namespace.New(h.Client, nil))
	controllertest.AwaitGone[*corev1.Namespace](t, h.Client, "", "doomed")
}

func TestForeignFinalizersOfTheNamespaceAreKept(t *testing.T) {
	h := harness.New(t)
	controllertest.Create(t, h.Client, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "doomed"}, Spec: corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{"example.com/mine"}}})
	controllertest.Run(t, h.Client, namespace.New(h.Client, nil))
	if err := h.Client.Delete(context.Background(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "doomed"}}); err != nil {
		t.Fatal(err)
	}
	ns := controllertest.Await(t, h.Client, "", "doomed", "only the foreign finalizer", func(ns *corev1.Namespace) bool { return fmt.Sprint(ns.Spec.Finalizers) == "[example.com/mine]" })
	ns = ns.DeepCopy()
	ns.Spec.Finalizers = nil
	if _, err := client.UpdateSubresource(context.Background(), h.Client, ns, "finalize"); err != nil {
		t.Fatal(err)
	}
	controllertest.AwaitGone[*corev1.Namespace](t, h.Client, "", "doomed")
}

// A creation that was admitted by a stale view may be applied until its namespace is deleted.
func TestWhatSlippedInIsRemovedAfterTheEnd(t *testing.T) {
	h := harness.New(t)
	fill(t, h)
	controllertest.StartKubelet(t, h.Client)
	ctx := context.Background()
	ns := controllertest.Change(t, h.Client, "", "doomed", func(*corev1.Namespace) {})
	if err := h.Client.Delete(ctx, ns); err != nil {
		t.Fatal(err)
	}
	end(t, h)
	controllertest.Run(t, h.Client, namespace.New(h.Client, nil)) // a leader that begins after the end
	controllertest.AwaitGone[*corev1.Secret](t, h.Client, "doomed", "s")
	controllertest.AwaitGone[*corev1.Pod](t, h.Client, "doomed", "p")
}

// A namespace that is created again right after its deletion must not lose its objects to a pass that began before.
func TestANamespaceMadeAgainKeepsItsContent(t *testing.T) {
	h := harness.New(t)
	ctx := context.Background()
	ctl := namespace.New(h.Client, nil)
	key := controller.Key{Name: "doomed"}
	absent := h.Client.View()
	fill(t, h)
	if err := h.Client.Delete(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "doomed"}}); err != nil {
		t.Fatal(err)
	}
	terminating := h.Client.View()
	end(t, h)
	if _, err := ctl.Reconcile(ctx, h.Client.View(), key); err != nil {
		t.Fatal(err)
	}
	if err := h.Client.Delete(ctx, &corev1.Pod{ObjectMeta: meta("p")}, client.Grace(0)); err != nil {
		t.Fatal(err)
	}
	fill(t, h)
	before := h.Client.View()
	for name, old := range map[string]client.View{"absent": absent, "terminating": terminating} {
		if _, err := ctl.Reconcile(ctx, old, key); err != nil && !apierrors.IsConflict(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	after := h.Client.View()
	for _, kind := range h.Client.Kinds() {
		if !kind.Namespaced {
			continue
		}
		before.EachMeta(kind, "doomed", func(obj *client.Metadata) bool {
			if now, ok := after.GetOf(kind, "doomed", obj.GetName()); !ok || now.GetResourceVersion() != obj.GetResourceVersion() {
				t.Errorf("%T %s was changed or deleted", obj, obj.GetName())
			}
			return true
		})
	}
}

// end removes the namespace's finalizers, so that it is deleted at once, whatever it contains.
func end(t *testing.T, h *harness.Harness) {
	t.Helper()
	ns, _ := client.Get[*corev1.Namespace](h.Client.View(), "", "doomed")
	ns = ns.DeepCopy()
	ns.Spec.Finalizers = nil
	if _, err := client.UpdateSubresource(context.Background(), h.Client, ns, "finalize"); err != nil {
		t.Fatal(err)
	}
}
