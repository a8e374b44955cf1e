package garbage

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/test/harness"
)

type bed struct {
	*harness.Harness
	t        testing.TB
	recorder *controllertest.Recorder
	gc       *collector
}

func start(t testing.TB) *bed {
	t.Helper()
	return startOn(t, harness.New(t))
}

func startOn(t testing.TB, h *harness.Harness) *bed {
	t.Helper()
	b := &bed{Harness: h, t: t, recorder: controllertest.NewRecorder()}
	b.run()
	return b
}

func (b *bed) run() (stop func()) {
	b.gc = newCollector(b.Client, b.recorder)
	return controllertest.Run(b.t, b.Client, b.gc.controller())
}

type option func(*metav1.ObjectMeta)

func ownedBy(owner client.Object, apiVersion, kind string, block bool) option {
	return func(m *metav1.ObjectMeta) {
		m.OwnerReferences = append(m.OwnerReferences, metav1.OwnerReference{APIVersion: apiVersion, Kind: kind, Name: owner.GetName(), UID: owner.GetUID(), BlockOwnerDeletion: &block})
	}
}

// of makes a ConfigMap the owner.
func of(owner *corev1.ConfigMap) option { return ownedBy(owner, "v1", "ConfigMap", true) }

func loosely(owner *corev1.ConfigMap) option { return ownedBy(owner, "v1", "ConfigMap", false) }

func finalizer(f string) option {
	return func(m *metav1.ObjectMeta) { m.Finalizers = append(m.Finalizers, f) }
}

func (b *bed) cm(name string, options ...option) *corev1.ConfigMap {
	b.t.Helper()
	m := metav1.ObjectMeta{Namespace: "default", Name: name}
	for _, o := range options {
		o(&m)
	}
	return controllertest.Create(b.t, b.Client, &corev1.ConfigMap{ObjectMeta: m})
}

func (b *bed) delete(obj client.Object, policy metav1.DeletionPropagation) {
	b.t.Helper()
	if err := b.Client.Delete(context.Background(), obj, client.Propagation(policy)); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) gone(names ...string) {
	b.t.Helper()
	for _, name := range names {
		controllertest.AwaitGone[*corev1.ConfigMap](b.t, b.Client, "default", name)
	}
}

// settled waits until the controller has processed all earlier changes: it creates a dependent of a deleted owner, and waits until
// that is deleted. Whatever then exists has been spared.
func (b *bed) settled() {
	b.t.Helper()
	b.cm("probe", func(m *metav1.ObjectMeta) {
		m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "never-was", UID: "never-was"}}
	})
	b.gone("probe")
}

func (b *bed) there(names ...string) {
	b.t.Helper()
	for _, name := range names {
		if cm, ok := client.Get[*corev1.ConfigMap](b.Client.View(), "default", name); !ok || cm.DeletionTimestamp != nil {
			b.t.Errorf("%s is gone or going", name)
		}
	}
}

func TestDependentsFollowTheirOwnersInTheBackground(t *testing.T) {
	b := start(t)
	grand := b.cm("grand")
	parent := b.cm("parent", of(grand))
	b.cm("child", of(parent))
	other := b.cm("other")
	b.cm("shared", of(grand), of(other))
	b.delete(grand, metav1.DeletePropagationBackground)
	b.gone("grand", "parent", "child")
	// A dependent that still has an owner only loses the reference.
	controllertest.Await(t, b.Client, "default", "shared", "one reference less", func(cm *corev1.ConfigMap) bool {
		return len(cm.OwnerReferences) == 1 && cm.OwnerReferences[0].UID == other.UID
	})
	b.delete(other, metav1.DeletePropagationBackground)
	b.gone("shared")
	b.settled()
	deadline := time.Now().Add(30 * time.Second) // the last change may not have been told yet
	for items, owners := b.gc.graph.size(); items != 0 || owners != 0; items, owners = b.gc.graph.size() {
		if time.Now().After(deadline) {
			t.Fatalf("the graph keeps %d items and %d owners of nothing", items, owners)
		}
		time.Sleep(time.Millisecond)
	}
}

func TestAnotherOwnerUnderTheSameNameIsNoOwner(t *testing.T) {
	b := start(t)
	owner := b.cm("owner")
	b.cm("dependent", of(owner), finalizer("example.com/hold"))
	b.delete(owner, metav1.DeletePropagationBackground)
	controllertest.Await(t, b.Client, "default", "dependent", "its deletion", func(cm *corev1.ConfigMap) bool { return cm.DeletionTimestamp != nil })
	second := b.cm("owner")
	b.cm("of-the-first", ownedBy(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner", UID: owner.UID}}, "v1", "ConfigMap", true))
	b.cm("of-the-second", of(second))
	b.gone("of-the-first")
	b.settled()
	b.there("of-the-second", "owner")
}

func TestWhatIsUnknownIsNotAbsent(t *testing.T) {
	b := start(t)
	widget := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "w", UID: "w-uid"}}
	gone := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "gone", UID: "gone-uid"}}
	b.cm("of-custom", ownedBy(widget, "example.com/v1", "Widget", true))
	b.cm("of-both", ownedBy(widget, "example.com/v1", "Widget", true), of(gone))
	b.settled()
	b.there("of-custom", "of-both")
}

// TestOwnersThatNeverWereCostNoScan: users may name any number of owners that do not exist.
func TestOwnersThatNeverWereCostNoScan(t *testing.T) {
	h, scans := harness.NewScanned(t, "configmaps")
	b := startOn(t, h)
	for i := range 20 {
		b.cm(fmt.Sprint("other", i))
	}
	b.settled()
	scans.Reset()
	for i := range 5 {
		name := fmt.Sprint("orphan", i)
		b.cm(name, of(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "never", UID: types.UID(name)}}))
		b.gone(name)
	}
	if n := scans.Visited(); n > 0 {
		t.Errorf("%d objects were visited", n)
	}
}

func TestScopesOfOwners(t *testing.T) {
	b := start(t)
	node := controllertest.Create(t, b.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}})
	b.cm("of-node", ownedBy(node, "v1", "Node", true))
	foreign := controllertest.Create(t, b.Client, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "foreign"}})
	b.settled()
	b.there("of-node")
	// A namespaced owner must be in the same namespace.
	strayed := b.cm("strayed", of(foreign))
	b.gone("strayed")
	want := fmt.Sprintf("Warning OwnerRefInvalidNamespace ownerRef [v1/ConfigMap, namespace: default, name: foreign, uid: %s] does not exist in namespace \"default\"", foreign.UID)
	if got := b.recorder.Events("Warning OwnerRefInvalidNamespace"); len(got) != 1 || got[0] != want {
		t.Errorf("events %q, want one %q (of %s)", got, want, strayed.UID)
	}
	// A cluster-scoped object cannot have a namespaced owner, and is left alone.
	controllertest.Create(t, b.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2", OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "x", UID: "x"}}}})
	b.delete(node, metav1.DeletePropagationBackground)
	b.gone("of-node")
	b.settled()
	if n, ok := client.Get[*corev1.Node](b.Client.View(), "", "n2"); !ok || n.DeletionTimestamp != nil {
		t.Error("a cluster-scoped object with a namespaced owner was deleted")
	}
}

func TestForegroundDeletionWaitsForDependentsThatBlock(t *testing.T) {
	b := start(t)
	owner := b.cm("owner")
	b.cm("blocking", of(owner), finalizer("example.com/hold"))
	b.cm("loose", loosely(owner), finalizer("example.com/hold"))
	parent := b.cm("parent", of(owner))
	b.cm("grandchild", of(parent), finalizer("example.com/hold"))
	b.delete(owner, metav1.DeletePropagationForeground)
	for _, name := range []string{"blocking", "loose", "grandchild"} {
		controllertest.Await(t, b.Client, "default", name, "its deletion", func(cm *corev1.ConfigMap) bool { return cm.DeletionTimestamp != nil })
	}
	// A dependent that has its own dependents is deleted in the foreground too.
	controllertest.Await(t, b.Client, "default", "parent", "its foreground deletion", func(cm *corev1.ConfigMap) bool {
		return cm.DeletionTimestamp != nil && slices.Contains(cm.Finalizers, metav1.FinalizerDeleteDependents)
	})
	free := func(name string) {
		t.Helper()
		controllertest.Change(t, b.Client, "default", name, func(cm *corev1.ConfigMap) { cm.Finalizers = nil })
		b.gone(name)
	}
	free("grandchild")
	b.gone("parent")
	b.settled()
	if cm, ok := client.Get[*corev1.ConfigMap](b.Client.View(), "default", "owner"); !ok || !slices.Contains(cm.Finalizers, metav1.FinalizerDeleteDependents) {
		t.Fatal("the owner went before a dependent that blocks it")
	}
	free("blocking")
	b.gone("owner") // without waiting for the loose one
	free("loose")
}

func TestACircleOfOwnersIsDeletedInTheForeground(t *testing.T) {
	b := start(t)
	first := b.cm("a")
	second := b.cm("b", of(first))
	controllertest.Change(t, b.Client, "default", "a", func(cm *corev1.ConfigMap) { of(second)(&cm.ObjectMeta) })
	b.delete(first, metav1.DeletePropagationForeground)
	b.gone("a", "b")
}

func TestADependentWithAnotherOwnerOutlivesForegroundDeletion(t *testing.T) {
	b := start(t)
	owner, other := b.cm("owner"), b.cm("other")
	b.cm("shared", of(owner), of(other))
	b.delete(owner, metav1.DeletePropagationForeground)
	b.gone("owner")
	got := controllertest.Await(t, b.Client, "default", "shared", "one reference less", func(cm *corev1.ConfigMap) bool { return len(cm.OwnerReferences) == 1 })
	if got.OwnerReferences[0].UID != other.UID || got.DeletionTimestamp != nil {
		t.Errorf("shared: %+v", got.ObjectMeta)
	}
}

func TestOrphaningLetsDependentsGo(t *testing.T) {
	b := start(t)
	owner := b.cm("owner")
	for i := range 20 {
		b.cm(fmt.Sprint("d", i), of(owner))
	}
	b.delete(owner, metav1.DeletePropagationOrphan)
	b.gone("owner")
	b.settled()
	for i := range 20 {
		cm, ok := client.Get[*corev1.ConfigMap](b.Client.View(), "default", fmt.Sprint("d", i))
		if !ok || len(cm.OwnerReferences) != 0 || cm.DeletionTimestamp != nil {
			t.Errorf("d%d: %v %+v", i, ok, cm)
		}
	}
}

func TestANewLeaderFindsWhatWasLeft(t *testing.T) {
	h := harness.New(t)
	b := &bed{Harness: h, t: t, recorder: controllertest.NewRecorder()}
	owner, waits, orphans := b.cm("owner"), b.cm("waits"), b.cm("orphans")
	b.cm("of-owner", of(owner))
	b.cm("of-waits", of(waits))
	b.cm("of-orphans", of(orphans))
	b.delete(owner, metav1.DeletePropagationBackground)
	b.delete(waits, metav1.DeletePropagationForeground)
	b.delete(orphans, metav1.DeletePropagationOrphan)
	b.run()
	b.gone("of-owner", "of-waits", "waits", "orphans")
	b.there("of-orphans")
}

func TestEveryKindCanBeCollected(t *testing.T) {
	b := start(t)
	owner := b.cm("owner")
	m := func() metav1.ObjectMeta {
		m := metav1.ObjectMeta{Namespace: "default", Name: "x", Labels: map[string]string{"a": "b"}}
		of(owner)(&m)
		return m
	}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	controllertest.Create(t, b.Client, &corev1.Secret{ObjectMeta: m()})
	controllertest.Create(t, b.Client, &corev1.Pod{ObjectMeta: m(), Spec: template.Spec})
	controllertest.Create(t, b.Client, &corev1.Service{ObjectMeta: m(), Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}})
	controllertest.Create(t, b.Client, &appsv1.ReplicaSet{ObjectMeta: m(), Spec: appsv1.ReplicaSetSpec{Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: template}})
	controllertest.Create(t, b.Client, &appsv1.Deployment{ObjectMeta: m(), Spec: appsv1.DeploymentSpec{Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: template}})
	b.delete(owner, metav1.DeletePropagationBackground)
	controllertest.AwaitGone[*corev1.Secret](t, b.Client, "default", "x")
	controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", "x")
	controllertest.AwaitGone[*corev1.Service](t, b.Client, "default", "x")
	controllertest.AwaitGone[*appsv1.ReplicaSet](t, b.Client, "default", "x")
	controllertest.AwaitGone[*appsv1.Deployment](t, b.Client, "default", "x")
}

func BenchmarkCollect10000(b *testing.B) {
	for range b.N {
		b.StopTimer()
		bed := start(b)
		owner := bed.cm("owner")
		for i := range 10000 {
			bed.cm(fmt.Sprintf("d%05d", i), func(m *metav1.ObjectMeta) {
				m.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "ConfigMap", Name: "owner", UID: types.UID(owner.UID)}}
			})
		}
		kind := bed.Client.KindOf(owner)
		b.StartTimer()
		bed.delete(owner, metav1.DeletePropagationBackground)
		controllertest.AwaitView(b, bed.Client, []client.Object{owner}, func(v client.View) string {
			prefix := kind.NamespacePrefix("default")
			if n := v.Count(prefix, prefix+"\xff"); n > 0 {
				return fmt.Sprint(n, " left")
			}
			return ""
		})
	}
}
