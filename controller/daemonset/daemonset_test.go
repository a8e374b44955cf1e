package daemonset_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/daemonset"
	"github.com/kontiki/kontiki/controller/pods"
	"github.com/kontiki/kontiki/test/harness"
)

type bed struct {
	*harness.Harness
	t        testing.TB
	recorder *controllertest.Recorder
	kubelet  *controllertest.Kubelet
}

// start starts the controller with nodes named n1, n2, ...
func start(t testing.TB, nodes int, options ...controllertest.Option) *bed {
	t.Helper()
	b := &bed{Harness: harness.New(t), t: t, recorder: controllertest.NewRecorder()}
	b.kubelet = controllertest.StartKubelet(t, b.Client, append([]controllertest.Option{controllertest.OnNode(nodeOf)}, options...)...)
	for i := range nodes {
		b.node(fmt.Sprintf("n%d", i+1), nil)
	}
	controllertest.Run(t, b.Client, daemonset.New(b.Client, b.recorder))
	return b
}

// nodeOf returns the node that a pod's affinity names.
func nodeOf(p *corev1.Pod) string {
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		for _, term := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
			for _, field := range term.MatchFields {
				return field.Values[0]
			}
		}
	}
	return ""
}

func (b *bed) node(name string, labels map[string]string, taints ...corev1.Taint) {
	b.t.Helper()
	controllertest.Create(b.t, b.Client, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}})
	controllertest.Change(b.t, b.Client, "", name, func(n *corev1.Node) { n.Spec.Taints = taints }) // admission has added one
}

var app = map[string]string{"app": "x"}

// daemon returns a set named d whose image is v1.
func daemon(change ...func(*appsv1.DaemonSet)) *appsv1.DaemonSet {
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "d"}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: app},
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}}},
	}}
	for _, c := range change {
		c(ds)
	}
	return ds
}

func rolling(surge, unavailable intstr.IntOrString) func(*appsv1.DaemonSet) {
	return func(ds *appsv1.DaemonSet) {
		ds.Spec.UpdateStrategy = appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType,
			RollingUpdate: &appsv1.RollingUpdateDaemonSet{MaxSurge: &surge, MaxUnavailable: &unavailable}}
	}
}

func (b *bed) change(change func(*appsv1.DaemonSet)) {
	b.t.Helper()
	controllertest.Change(b.t, b.Client, "default", "d", change)
}

func (b *bed) image(image string) {
	b.t.Helper()
	b.change(func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.Containers[0].Image = image })
}

func (b *bed) await(what string, holds func(appsv1.DaemonSetStatus) bool) {
	b.t.Helper()
	controllertest.Await(b.t, b.Client, "default", "d", what, func(ds *appsv1.DaemonSet) bool {
		return ds.Status.ObservedGeneration == ds.Generation && holds(ds.Status)
	})
}

// complete waits until the set is rolled out on a number of nodes, by its status.
func (b *bed) complete(nodes int32) {
	b.t.Helper()
	b.await(fmt.Sprintf("completion on %d nodes", nodes), func(s appsv1.DaemonSetStatus) bool {
		return s.DesiredNumberScheduled == nodes && s.CurrentNumberScheduled == nodes && s.NumberReady == nodes && s.NumberAvailable == nodes &&
			s.UpdatedNumberScheduled == nodes && s.NumberUnavailable == 0 && s.NumberMisscheduled == 0
	})
}

func (b *bed) list() []*corev1.Pod { return client.List[*corev1.Pod](b.Client.View(), "default", nil) }

// awaitPods waits until the pods that are not being deleted are these, as "node=image ...".
func (b *bed) awaitPods(want string) {
	b.t.Helper()
	controllertest.AwaitView(b.t, b.Client, []client.Object{&corev1.Pod{}}, func(client.View) string {
		var got []string
		for _, p := range b.list() {
			if p.DeletionTimestamp == nil {
				got = append(got, nodeOf(p)+"="+p.Spec.Containers[0].Image)
			}
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != want {
			return fmt.Sprintf("the pods are %q, want %q", s, want)
		}
		return ""
	})
}

func (b *bed) podOn(node string) *corev1.Pod {
	b.t.Helper()
	for _, p := range b.list() {
		if nodeOf(p) == node && p.DeletionTimestamp == nil {
			return p
		}
	}
	b.t.Fatalf("no pod on %s", node)
	return nil
}

// confirm lets the kubelet confirm the end of the pods that it kept.
func (b *bed) confirm() {
	b.t.Helper()
	b.kubelet.Set(controllertest.Keep(func(*corev1.Pod) bool { return false }))
	for _, p := range b.list() {
		if p.DeletionTimestamp == nil {
			continue
		}
		_, err := client.Patch(context.Background(), b.Client, p, types.MergePatchType, []byte(`{"metadata":{"annotations":{"wake":"up"}}}`), "")
		if err != nil && !apierrors.IsNotFound(err) {
			b.t.Fatal(err)
		}
	}
}

func TestOnePodOnEveryNode(t *testing.T) {
	b := start(t, 3)
	ds := controllertest.Create(t, b.Client, daemon(func(ds *appsv1.DaemonSet) {
		seconds := int64(5)
		ds.Spec.Template.Spec.Tolerations = []corev1.Toleration{{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds}}
	}))
	b.complete(3)
	b.awaitPods("n1=v1 n2=v1 n3=v1")
	p := b.podOn("n2")
	ref := metav1.GetControllerOf(p)
	if ref == nil || ref.UID != ds.UID || ref.Kind != "DaemonSet" || !strings.HasPrefix(p.Name, "d-") || p.Labels["controller-revision-hash"] == "" || p.Labels["pod-template-generation"] != "1" {
		t.Errorf("pod %+v", p.ObjectMeta)
	}
	var tolerated []string
	for _, toleration := range p.Spec.Tolerations {
		if toleration.Operator != corev1.TolerationOpExists || toleration.TolerationSeconds != nil {
			t.Errorf("toleration %+v", toleration)
		}
		tolerated = append(tolerated, fmt.Sprintf("%s:%s", strings.TrimPrefix(toleration.Key, "node.kubernetes.io/"), toleration.Effect))
	}
	slices.Sort(tolerated)
	if got := fmt.Sprint(tolerated); got != "[disk-pressure:NoSchedule memory-pressure:NoSchedule not-ready:NoExecute pid-pressure:NoSchedule unreachable:NoExecute unschedulable:NoSchedule]" {
		t.Errorf("tolerations %s", got)
	}
	if n := len(b.recorder.Events("Normal SuccessfulCreate Created pod: d-")); n != 3 {
		t.Errorf("%d events", n)
	}
	// Nodes come and go.
	b.node("n4", nil)
	b.complete(4)
	if err := b.Client.Delete(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}); err != nil {
		t.Fatal(err)
	}
	b.complete(3)
	// A pod that is deleted is replaced, but not before it is gone.
	b.kubelet.Set(controllertest.Keep(func(*corev1.Pod) bool { return true }))
	old := b.podOn("n2")
	if err := b.Client.Delete(context.Background(), old); err != nil {
		t.Fatal(err)
	}
	b.awaitPods("n1=v1 n3=v1 n4=v1")
	b.confirm()
	b.awaitPods("n1=v1 n2=v1 n3=v1 n4=v1")
	b.complete(3)
	if b.podOn("n2").UID == old.UID {
		t.Error("the same pod")
	}
}

func TestOnlyOnNodesThatFit(t *testing.T) {
	b := start(t, 1)
	b.node("fast", map[string]string{"disk": "ssd"})
	b.node("tainted", map[string]string{"disk": "ssd"}, corev1.Taint{Key: "k", Effect: corev1.TaintEffectNoSchedule})
	b.node("cordoned", map[string]string{"disk": "ssd"}, corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	controllertest.Create(t, b.Client, daemon(func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "ssd"} }))
	b.complete(2)
	b.awaitPods("cordoned=v1 fast=v1")
	controllertest.Change(t, b.Client, "", "n1", func(n *corev1.Node) { n.Labels = map[string]string{"disk": "ssd"} })
	b.complete(3)
	// NoSchedule leaves a pod where it is, where it is counted as misplaced; NoExecute and other labels remove it.
	taint := func(effect corev1.TaintEffect) {
		controllertest.Change(t, b.Client, "", "n1", func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: effect}} })
	}
	taint(corev1.TaintEffectNoSchedule)
	b.await("a misplaced pod", func(s appsv1.DaemonSetStatus) bool { return s.NumberMisscheduled == 1 && s.DesiredNumberScheduled == 2 })
	b.awaitPods("cordoned=v1 fast=v1 n1=v1")
	taint(corev1.TaintEffectNoExecute)
	b.complete(2)
	b.awaitPods("cordoned=v1 fast=v1")
	controllertest.Change(t, b.Client, "", "fast", func(n *corev1.Node) { n.Labels["disk"] = "slow" })
	b.awaitPods("cordoned=v1")
	controllertest.Change(t, b.Client, "", "tainted", func(n *corev1.Node) { n.Spec.Taints = nil })
	b.awaitPods("cordoned=v1 tainted=v1")
	b.complete(2)
}

// TestPodsForNodesThatAreGone: one that waits for a node forever is removed.
func TestPodsForNodesThatAreGone(t *testing.T) {
	b := start(t, 2, controllertest.OnNode(func(*corev1.Pod) string { return "" })) // nothing is bound
	controllertest.Create(t, b.Client, daemon())
	b.awaitPods("n1=v1 n2=v1")
	if err := b.Client.Delete(context.Background(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n2"}}); err != nil {
		t.Fatal(err)
	}
	b.awaitPods("n1=v1")
}

func TestFinishedPodsAreReplaced(t *testing.T) {
	b := start(t, 1)
	controllertest.Create(t, b.Client, daemon())
	b.complete(1)
	fail := func(phase corev1.PodPhase) {
		t.Helper()
		old := b.podOn("n1")
		controllertest.ChangeStatus(t, b.Client, "default", old.Name, func(p *corev1.Pod) { p.Status.Phase = phase })
		controllertest.AwaitView(t, b.Client, []client.Object{&corev1.Pod{}}, func(client.View) string {
			if all := b.list(); len(all) != 1 || all[0].UID == old.UID || !pods.Ready(all[0]) {
				return "the old pod is still there, or the new one is not ready"
			}
			return ""
		})
		b.complete(1)
	}
	fail(corev1.PodSucceeded)
	fail(corev1.PodFailed)
	fail(corev1.PodFailed) // after a pause, but without another event
	if n := len(b.recorder.Events("Warning FailedDaemonPod Found failed daemon pod default/d-")); n != 2 {
		t.Errorf("%d events: the pause is not respected", n)
	}
	if n := len(b.recorder.Events("Normal SucceededDaemonPod Found succeeded daemon pod default/d-")); n != 1 {
		t.Errorf("%d events", n)
	}
}

// bounds fails the test at the first revision with fewer available pods than least, or two pods on a node if surge is false.
func (b *bed) bounds(least int, surge bool) (stop func()) {
	b.t.Helper()
	var mu sync.Mutex
	all := map[string]*corev1.Pod{}
	return controllertest.Follow(b.t, b.Client, []client.Object{&corev1.Pod{}}, func(client.View) {
		mu.Lock()
		defer mu.Unlock()
		for _, p := range b.list() {
			all[p.Name] = p
		}
	}, func(events []client.Event) {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range events {
			if e.New == nil {
				delete(all, e.Old.GetName())
			} else {
				all[e.New.GetName()] = e.New.(*corev1.Pod)
			}
			available, on := 0, map[string]int{}
			served := map[string]bool{}
			for _, p := range all {
				on[nodeOf(p)]++
				if p.DeletionTimestamp == nil && pods.Ready(p) && !served[nodeOf(p)] {
					served[nodeOf(p)] = true
					available++
				}
			}
			if available < least {
				b.t.Errorf("revision %d: %d nodes have an available pod, at least %d wanted", e.Revision, available, least)
			}
			for node, n := range on {
				if n > 1 && !surge {
					b.t.Errorf("revision %d: %d pods on %s", e.Revision, n, node)
				}
			}
		}
	})
}

func TestRollingUpdates(t *testing.T) {
	for _, c := range []struct {
		name               string
		surge, unavailable intstr.IntOrString
		least              int
	}{
		{"one unavailable", intstr.FromInt32(0), intstr.FromInt32(1), 3},
		{"half unavailable", intstr.FromInt32(0), intstr.FromString("50%"), 2},
		{"surge", intstr.FromInt32(1), intstr.FromInt32(0), 4},
		{"surge everywhere", intstr.FromString("100%"), intstr.FromInt32(0), 4},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := start(t, 4)
			controllertest.Create(t, b.Client, daemon(rolling(c.surge, c.unavailable)))
			b.complete(4)
			stop := b.bounds(c.least, c.surge != intstr.FromInt32(0))
			b.image("v2")
			b.complete(4)
			b.awaitPods("n1=v2 n2=v2 n3=v2 n4=v2")
			stop()
		})
	}
}

// TestARollOutHaltsAndIsRolledBack: pods that do not become ready halt it, and going back replaces only those.
func TestARollOutHaltsAndIsRolledBack(t *testing.T) {
	b := start(t, 3, controllertest.Bad(func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image == "broken" }))
	controllertest.Create(t, b.Client, daemon())
	b.complete(3)
	before := map[types.UID]bool{}
	for _, p := range b.list() {
		before[p.UID] = true
	}
	b.image("broken")
	b.await("one updated pod", func(s appsv1.DaemonSetStatus) bool {
		return s.UpdatedNumberScheduled == 1 && s.NumberUnavailable == 1 && s.NumberReady == 2
	})
	b.image("v1")
	b.complete(3)
	kept := 0
	for _, p := range b.list() {
		if before[p.UID] {
			kept++
		}
	}
	if kept != 2 {
		t.Errorf("%d pods were kept", kept)
	}
	numbers := []int64{}
	for _, r := range client.List[*appsv1.ControllerRevision](b.Client.View(), "default", nil) {
		numbers = append(numbers, r.Revision)
	}
	slices.Sort(numbers)
	if !slices.Equal(numbers, []int64{2, 3}) {
		t.Errorf("revisions %v", numbers)
	}
}

func TestOnDelete(t *testing.T) {
	b := start(t, 2)
	controllertest.Create(t, b.Client, daemon(func(ds *appsv1.DaemonSet) { ds.Spec.UpdateStrategy.Type = appsv1.OnDeleteDaemonSetStrategyType }))
	b.complete(2)
	b.image("v2")
	b.await("no updated pod", func(s appsv1.DaemonSetStatus) bool { return s.UpdatedNumberScheduled == 0 && s.NumberReady == 2 })
	if err := b.Client.Delete(context.Background(), b.podOn("n2")); err != nil {
		t.Fatal(err)
	}
	b.awaitPods("n1=v1 n2=v2")
	b.await("an updated pod", func(s appsv1.DaemonSetStatus) bool { return s.UpdatedNumberScheduled == 1 && s.NumberReady == 2 })
}

func TestMinReadySeconds(t *testing.T) {
	b := start(t, 2)
	controllertest.Create(t, b.Client, daemon(func(ds *appsv1.DaemonSet) { ds.Spec.MinReadySeconds = 3600 }))
	b.await("ready pods that are not available", func(s appsv1.DaemonSetStatus) bool {
		return s.NumberReady == 2 && s.NumberAvailable == 0 && s.NumberUnavailable == 2
	})
	b.change(func(ds *appsv1.DaemonSet) { ds.Spec.MinReadySeconds = 1 })
	b.complete(2) // though nothing else changes
}

func TestOrphansAreAdopted(t *testing.T) {
	b := start(t, 2)
	old := controllertest.Create(t, b.Client, daemon())
	b.complete(2)
	uids := map[types.UID]bool{}
	if err := b.Client.Delete(context.Background(), old, client.Propagation(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
	// Without the garbage collector, the references are removed by hand, as orphaning does.
	for _, p := range b.list() {
		uids[p.UID] = true
		controllertest.Change(t, b.Client, "default", p.Name, func(p *corev1.Pod) { p.OwnerReferences = nil })
	}
	for _, r := range client.List[*appsv1.ControllerRevision](b.Client.View(), "default", nil) {
		controllertest.Change(t, b.Client, "default", r.Name, func(r *appsv1.ControllerRevision) { r.OwnerReferences = nil })
	}
	// A second pod on a node is one too many: the younger one goes.
	extra := b.podOn("n1").DeepCopy()
	extra.ObjectMeta = metav1.ObjectMeta{Namespace: "default", Name: "zzz", Labels: extra.Labels}
	extra.Spec.NodeName = ""
	controllertest.Create(t, b.Client, extra)
	ds := controllertest.Create(t, b.Client, daemon())
	b.complete(2)
	controllertest.AwaitView(t, b.Client, []client.Object{&corev1.Pod{}}, func(client.View) string {
		all := b.list()
		if len(all) != 2 {
			return fmt.Sprintf("%d pods", len(all))
		}
		for _, p := range all {
			if !uids[p.UID] || !metav1.IsControlledBy(p, ds) {
				return p.Name + " is not the old one, or not adopted"
			}
		}
		return ""
	})
}

// TestARevisionThatIsDeletedIsMadeAgain: the pods stay.
func TestARevisionThatIsDeletedIsMadeAgain(t *testing.T) {
	b := start(t, 1)
	controllertest.Create(t, b.Client, daemon())
	b.complete(1)
	pod := b.podOn("n1")
	old := client.List[*appsv1.ControllerRevision](b.Client.View(), "default", nil)[0]
	if err := b.Client.Delete(context.Background(), old); err != nil {
		t.Fatal(err)
	}
	controllertest.Await(t, b.Client, "default", old.Name, "another of its name", func(r *appsv1.ControllerRevision) bool { return r.UID != old.UID })
	b.complete(1)
	if b.podOn("n1").UID != pod.UID {
		t.Error("the pod was replaced")
	}
}

// TestEqualRevisionsAreMerged: with the pods of both.
func TestEqualRevisionsAreMerged(t *testing.T) {
	b := start(t, 1)
	controllertest.Create(t, b.Client, daemon())
	b.complete(1)
	old := client.List[*appsv1.ControllerRevision](b.Client.View(), "default", nil)[0]
	copied := old.DeepCopy()
	copied.ObjectMeta = metav1.ObjectMeta{Namespace: "default", Name: "copied", Labels: map[string]string{"app": "x", "controller-revision-hash": "copied"}, OwnerReferences: old.OwnerReferences}
	copied.Revision = 9
	controllertest.Create(t, b.Client, copied)
	controllertest.AwaitGone[*appsv1.ControllerRevision](t, b.Client, "default", old.Name)
	b.complete(1)
	if p := b.podOn("n1"); p.Labels["controller-revision-hash"] != "copied" {
		t.Errorf("labels %v", p.Labels)
	}
}

func TestRefusedPodsAreTold(t *testing.T) {
	b := start(t, 20)
	controllertest.Create(t, b.Client, daemon(func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.PriorityClassName = "absent" }))
	b.recorder.AwaitN(t, "Warning FailedCreate Error creating: pods ", 2)
	b.await("nothing scheduled", func(s appsv1.DaemonSetStatus) bool {
		return s.DesiredNumberScheduled == 20 && s.CurrentNumberScheduled == 0
	})
	b.change(func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.PriorityClassName = "" })
	b.complete(20)
}

func TestASetThatIsDeletedCreatesNothing(t *testing.T) {
	b := start(t, 1)
	ds := controllertest.Create(t, b.Client, daemon(func(ds *appsv1.DaemonSet) { ds.Finalizers = []string{"example.com/hold"} }))
	b.complete(1)
	if err := b.Client.Delete(context.Background(), ds, client.Propagation(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
	b.node("n2", nil)
	// A second set shows when the node has been noticed.
	controllertest.Create(t, b.Client, daemon(func(ds *appsv1.DaemonSet) {
		ds.Name, ds.Spec.Selector.MatchLabels, ds.Spec.Template.Labels = "e", map[string]string{"app": "e"}, map[string]string{"app": "e"}
	}))
	b.recorder.AwaitN(t, "Normal SuccessfulCreate Created pod: e-", 2)
	if n := len(b.recorder.Events("Normal SuccessfulCreate Created pod: d-")); n != 1 {
		t.Errorf("%d pods were created", n)
	}
}
