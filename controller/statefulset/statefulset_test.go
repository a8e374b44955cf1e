package statefulset_test

import (
	"context"
	"fmt"
	"math"
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
	"github.com/kontiki/kontiki/controller/pods"
	"github.com/kontiki/kontiki/controller/statefulset"
	"github.com/kontiki/kontiki/test/harness"
)

type bed struct {
	*harness.Harness
	t        testing.TB
	recorder *controllertest.Recorder
	kubelet  *controllertest.Kubelet
}

func start(t testing.TB, options ...controllertest.Option) *bed {
	t.Helper()
	b := &bed{Harness: harness.New(t), t: t, recorder: controllertest.NewRecorder()}
	b.kubelet = controllertest.StartKubelet(t, b.Client, options...)
	controllertest.Run(t, b.Client, statefulset.New(b.Client, b.recorder))
	return b
}

var app = map[string]string{"app": "x"}

// web returns a set named web whose image is v1.
func web(replicas int32, change ...func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: appsv1.StatefulSetSpec{
		Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: app}, ServiceName: "svc",
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: app}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "v1"}}}},
	}}
	for _, c := range change {
		c(set)
	}
	return set
}

func parallel(set *appsv1.StatefulSet) { set.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }

func rolling(partition int32, unavailable intstr.IntOrString) func(*appsv1.StatefulSet) {
	return func(set *appsv1.StatefulSet) {
		set.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType,
			RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: &partition, MaxUnavailable: &unavailable}}
	}
}

func (b *bed) change(change func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	b.t.Helper()
	return controllertest.Change(b.t, b.Client, "default", "web", change)
}

func (b *bed) scale(replicas int32) {
	b.t.Helper()
	b.change(func(set *appsv1.StatefulSet) { set.Spec.Replicas = &replicas })
}

func (b *bed) image(image string) {
	b.t.Helper()
	b.change(func(set *appsv1.StatefulSet) { set.Spec.Template.Spec.Containers[0].Image = image })
}

func (b *bed) await(what string, holds func(*appsv1.StatefulSet) bool) *appsv1.StatefulSet {
	b.t.Helper()
	return controllertest.Await(b.t, b.Client, "default", "web", what, func(set *appsv1.StatefulSet) bool {
		return set.Status.ObservedGeneration == set.Generation && holds(set)
	})
}

// complete waits until the set is rolled out, by its status.
func (b *bed) complete() *appsv1.StatefulSet {
	b.t.Helper()
	return b.await("completion", func(set *appsv1.StatefulSet) bool {
		want, s := *set.Spec.Replicas, set.Status
		return s.Replicas == want && s.ReadyReplicas == want && s.AvailableReplicas == want && s.UpdatedReplicas == want && s.CurrentReplicas == want && s.CurrentRevision == s.UpdateRevision
	})
}

// images returns the names of the pods with their images, of those that are not being deleted.
func (b *bed) images() string {
	var out []string
	client.Each(b.Client.View(), "default", func(p *corev1.Pod) bool {
		if p.DeletionTimestamp == nil {
			out = append(out, p.Name+"="+p.Spec.Containers[0].Image)
		}
		return true
	})
	return strings.Join(out, " ")
}

func (b *bed) awaitImages(want string) {
	b.t.Helper()
	controllertest.AwaitView(b.t, b.Client, []client.Object{&corev1.Pod{}}, func(client.View) string {
		if got := b.images(); got != want {
			return fmt.Sprintf("the pods are %s, want %s", got, want)
		}
		return ""
	})
}

func (b *bed) pod(name string) *corev1.Pod {
	b.t.Helper()
	pod, ok := client.Get[*corev1.Pod](b.Client.View(), "default", name)
	if !ok {
		b.t.Fatalf("no pod %s", name)
	}
	return pod
}

// follow calls check with the pods after every command.
func (b *bed) follow(check func(revision uint64, event client.Event, pods map[string]*corev1.Pod)) (stop func()) {
	b.t.Helper()
	var mu sync.Mutex
	all := map[string]*corev1.Pod{}
	return controllertest.Follow(b.t, b.Client, []client.Object{&corev1.Pod{}}, func(v client.View) {
		mu.Lock()
		defer mu.Unlock()
		client.Each(v, "default", func(p *corev1.Pod) bool { all[p.Name] = p; return true })
	}, func(events []client.Event) {
		mu.Lock()
		defer mu.Unlock()
		for _, e := range events {
			if e.New == nil {
				delete(all, e.Old.GetName())
			} else {
				all[e.New.GetName()] = e.New.(*corev1.Pod)
			}
			check(e.Revision, e, all)
		}
	})
}

// confirm lets the kubelet confirm the end of the pods that it kept.
func (b *bed) confirm() {
	b.t.Helper()
	b.kubelet.Set(controllertest.Keep(func(*corev1.Pod) bool { return false }))
	for _, p := range client.List[*corev1.Pod](b.Client.View(), "default", nil) {
		if p.DeletionTimestamp == nil {
			continue
		}
		_, err := client.Patch(context.Background(), b.Client, p, types.MergePatchType, []byte(`{"metadata":{"annotations":{"wake":"up"}}}`), "")
		if err != nil && !apierrors.IsNotFound(err) {
			b.t.Fatal(err)
		}
	}
}

func healthy(p *corev1.Pod) bool { return p != nil && p.DeletionTimestamp == nil && pods.Ready(p) }

func TestPodsAreCreatedAndDeletedInOrder(t *testing.T) {
	b := start(t)
	stop := b.follow(func(revision uint64, e client.Event, all map[string]*corev1.Pod) {
		name := e.Object().GetName()
		switch {
		case e.Old == nil: // a pod begins: all before it are ready
			for i := range 3 {
				if before := fmt.Sprintf("web-%d", i); before < name && !healthy(all[before]) {
					t.Errorf("revision %d: %s is created before %s is ready", revision, name, before)
				}
			}
		case e.New != nil && e.New.GetDeletionTimestamp() != nil: // a pod ends: none after it is left
			for i := range 3 {
				if after := fmt.Sprintf("web-%d", i); after > name && all[after] != nil {
					t.Errorf("revision %d: %s is deleted before %s is gone", revision, name, after)
				}
			}
		}
	})
	defer stop()
	set := controllertest.Create(t, b.Client, web(3))
	b.complete()
	pod := b.pod("web-1")
	ref := metav1.GetControllerOf(pod)
	if ref == nil || ref.UID != set.UID || ref.Kind != "StatefulSet" || ref.APIVersion != "apps/v1" || pod.Spec.Hostname != "web-1" || pod.Spec.Subdomain != "svc" || pod.GenerateName != "web-" {
		t.Errorf("pod %+v", pod)
	}
	for label, want := range map[string]string{"statefulset.kubernetes.io/pod-name": "web-1", "apps.kubernetes.io/pod-index": "1", "controller-revision-hash": b.complete().Status.UpdateRevision, "app": "x"} {
		if got := pod.Labels[label]; got != want || got == "" {
			t.Errorf("label %s=%s, want %s", label, got, want)
		}
	}
	if n := b.recorder.Events("Normal SuccessfulCreate Create Pod web-"); len(n) != 3 || n[0] != "Normal SuccessfulCreate Create Pod web-0 in StatefulSet web successful" {
		t.Errorf("events %q", n)
	}
	b.scale(1)
	b.complete()
	if got := b.recorder.Events("Normal SuccessfulDelete"); !slices.Equal(got, []string{"Normal SuccessfulDelete Delete Pod web-2 in StatefulSet web successful", "Normal SuccessfulDelete Delete Pod web-1 in StatefulSet web successful"}) {
		t.Errorf("events %q", got)
	}
	b.scale(0)
	b.complete()
}

func TestAnUnhealthyPodHaltsScaling(t *testing.T) {
	b := start(t, controllertest.Bad(func(p *corev1.Pod) bool { return p.Name == "web-1" }))
	controllertest.Create(t, b.Client, web(3))
	b.await("two pods, one ready", func(set *appsv1.StatefulSet) bool { return set.Status.Replicas == 2 && set.Status.ReadyReplicas == 1 })
	b.scale(1)
	b.complete() // the unhealthy pod itself is deleted
	b.kubelet.Set(controllertest.Bad(func(p *corev1.Pod) bool { return false }))
	b.scale(3)
	b.complete()
	// An unhealthy replica blocks the deletion of condemned ones.
	controllertest.ChangeStatus(t, b.Client, "default", "web-0", func(p *corev1.Pod) { controllertest.MakeReady(p, false) })
	b.scale(1)
	b.await("no deletion", func(set *appsv1.StatefulSet) bool { return set.Status.Replicas == 3 && set.Status.ReadyReplicas == 2 })
	controllertest.ChangeStatus(t, b.Client, "default", "web-0", func(p *corev1.Pod) { controllertest.MakeReady(p, true) })
	b.complete()
}

func TestParallelPodsNeedNotWait(t *testing.T) {
	b := start(t, controllertest.Bad(func(*corev1.Pod) bool { return true }))
	controllertest.Create(t, b.Client, web(4, parallel))
	b.await("four pods", func(set *appsv1.StatefulSet) bool { return set.Status.Replicas == 4 && set.Status.ReadyReplicas == 0 })
	b.scale(1)
	b.await("one pod", func(set *appsv1.StatefulSet) bool { return set.Status.Replicas == 1 })
	b.awaitImages("web-0=v1")
	if n := len(b.recorder.Events("Normal SuccessfulCreate")); n != 4 {
		t.Errorf("%d pods were created", n)
	}
}

// TestAnOrdinalNeverRunsTwice: while a pod may still be running anywhere, there is no other of its ordinal, and the controller never
// ends that wait by itself: its deletions are graceful ones, which only a node confirms.
func TestAnOrdinalNeverRunsTwice(t *testing.T) {
	for name, change := range map[string]func(*appsv1.StatefulSet){"ordered": func(*appsv1.StatefulSet) {}, "parallel": parallel} {
		t.Run(name, func(t *testing.T) {
			b := start(t, controllertest.Keep(func(*corev1.Pod) bool { return true })) // the node does not answer
			stop := b.follow(func(revision uint64, e client.Event, all map[string]*corev1.Pod) {
				if p, ok := e.New.(*corev1.Pod); ok && p.DeletionTimestamp != nil && *p.DeletionGracePeriodSeconds == 0 {
					t.Errorf("revision %d: %s was removed by force", revision, p.Name)
				}
				if e.New == nil {
					t.Errorf("revision %d: %s is gone though its node has not confirmed it", revision, e.Old.GetName())
				}
			})
			controllertest.Create(t, b.Client, web(3, change))
			b.complete()
			before := map[string]types.UID{}
			for i := range 3 {
				p := b.pod(fmt.Sprintf("web-%d", i))
				before[p.Name] = p.UID
			}
			// Taint eviction deletes one, a user scales the set and changes the template, and the set's controller is started again.
			if err := b.Client.Delete(context.Background(), b.pod("web-1")); err != nil {
				t.Fatal(err)
			}
			b.image("v2")
			b.await("v2 to be observed", func(set *appsv1.StatefulSet) bool { return set.Status.UpdateRevision != set.Status.CurrentRevision })
			b.scale(2)
			b.await("the scale to be observed", func(set *appsv1.StatefulSet) bool { return true })
			b.scale(3)
			b.await("the scale to be observed", func(set *appsv1.StatefulSet) bool { return set.Status.Replicas == 3 })
			controllertest.Run(t, b.Client, statefulset.New(b.Client, b.recorder)) // a second leader that does not know of the first
			b.await("three pods", func(set *appsv1.StatefulSet) bool { return set.Status.Replicas == 3 })
			for podName, uid := range before {
				if p := b.pod(podName); p.UID != uid {
					t.Errorf("%s was replaced", podName)
				}
			}
			stop()
			b.confirm()
			b.complete()
			b.awaitImages("web-0=v2 web-1=v2 web-2=v2")
		})
	}
}

func TestRollingUpdate(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, web(3))
	first := b.complete().Status.UpdateRevision
	stop := b.follow(func(revision uint64, e client.Event, all map[string]*corev1.Pod) {
		available := 0
		for _, p := range all {
			if healthy(p) {
				available++
			}
		}
		if available < 2 {
			t.Errorf("revision %d: %d pods are available", revision, available)
		}
		if e.Old != nil && e.Old.GetDeletionTimestamp() == nil && e.New != nil && e.New.GetDeletionTimestamp() != nil { // in descending order
			for name, p := range all {
				if name > e.New.GetName() && p.Spec.Containers[0].Image == "v1" {
					t.Errorf("revision %d: %s is updated before %s", revision, e.New.GetName(), name)
				}
			}
		}
	})
	b.image("v2")
	second := b.complete().Status.UpdateRevision
	stop()
	if got := b.images(); got != "web-0=v2 web-1=v2 web-2=v2" {
		t.Error(got)
	}
	// Going back reuses the revision, which becomes the newest.
	b.image("v1")
	if got := b.complete().Status.UpdateRevision; got != first || first == second {
		t.Errorf("revisions %s, %s, and then %s", first, second, got)
	}
	numbers := map[string]int64{}
	for _, r := range client.List[*appsv1.ControllerRevision](b.Client.View(), "default", nil) {
		numbers[r.Name] = r.Revision
		if !strings.Contains(string(r.Data.Raw), `"$patch":"replace"`) || r.Labels["app"] != "x" || r.Labels["controller.kubernetes.io/hash"] == "" {
			t.Errorf("revision %+v", r)
		}
	}
	if len(numbers) != 2 || numbers[first] != 3 || numbers[second] != 2 {
		t.Errorf("revisions %v", numbers)
	}
}

func TestPartitions(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, web(3, rolling(2, intstr.FromInt32(1))))
	b.complete()
	b.image("v2")
	b.await("one updated replica", func(set *appsv1.StatefulSet) bool {
		return set.Status.UpdatedReplicas == 1 && set.Status.CurrentReplicas == 2 && set.Status.ReadyReplicas == 3
	})
	b.awaitImages("web-0=v1 web-1=v1 web-2=v2")
	// A pod below the partition is replaced at its own revision.
	if err := b.Client.Delete(context.Background(), b.pod("web-0")); err != nil {
		t.Fatal(err)
	}
	b.recorder.AwaitN(t, "Normal SuccessfulCreate", 5)
	b.awaitImages("web-0=v1 web-1=v1 web-2=v2")
	b.change(func(set *appsv1.StatefulSet) { *set.Spec.UpdateStrategy.RollingUpdate.Partition = 0 })
	b.complete()
	b.awaitImages("web-0=v2 web-1=v2 web-2=v2")
}

func TestMaxUnavailable(t *testing.T) {
	for name, policy := range map[string]func(*appsv1.StatefulSet){"ordered": func(*appsv1.StatefulSet) {}, "parallel": parallel} {
		t.Run(name, func(t *testing.T) {
			b := start(t)
			controllertest.Create(t, b.Client, web(6, rolling(0, intstr.FromString("50%")), policy))
			b.complete()
			least := 6
			stop := b.follow(func(revision uint64, _ client.Event, all map[string]*corev1.Pod) {
				available := 0
				for _, p := range all {
					if healthy(p) {
						available++
					}
				}
				least = min(least, available)
			})
			b.kubelet.Set(controllertest.Keep(func(*corev1.Pod) bool { return true }))
			b.image("v2")
			b.await("three pods being replaced", func(set *appsv1.StatefulSet) bool { return set.Status.CurrentReplicas == 3 })
			b.confirm()
			b.complete()
			stop()
			if least != 3 {
				t.Errorf("%d pods were available at least", least)
			}
		})
	}
}

// TestABrokenTemplateIsReplaced: with parallel pods, ones that never became ready do not block their own repair.
func TestABrokenTemplateIsReplaced(t *testing.T) {
	b := start(t, controllertest.Bad(func(p *corev1.Pod) bool { return p.Spec.Containers[0].Image == "broken" }))
	controllertest.Create(t, b.Client, web(3, parallel))
	b.complete()
	b.image("broken")
	b.awaitImages("web-0=v1 web-1=v1 web-2=broken")
	b.await("two ready pods", func(set *appsv1.StatefulSet) bool {
		return set.Status.ReadyReplicas == 2 && set.Status.UpdatedReplicas == 1
	})
	b.image("v3")
	b.complete()
	b.awaitImages("web-0=v3 web-1=v3 web-2=v3")
}

func TestOnDelete(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, web(2, func(set *appsv1.StatefulSet) {
		set.Spec.UpdateStrategy.Type = appsv1.OnDeleteStatefulSetStrategyType
	}))
	b.complete()
	b.image("v2")
	b.await("a new revision", func(set *appsv1.StatefulSet) bool {
		return set.Status.UpdateRevision != set.Status.CurrentRevision && set.Status.UpdatedReplicas == 0 && set.Status.CurrentReplicas == 2
	})
	b.awaitImages("web-0=v1 web-1=v1")
	if err := b.Client.Delete(context.Background(), b.pod("web-1")); err != nil {
		t.Fatal(err)
	}
	b.awaitImages("web-0=v1 web-1=v2")
	b.await("one updated pod", func(set *appsv1.StatefulSet) bool {
		return set.Status.UpdatedReplicas == 1 && set.Status.CurrentReplicas == 1
	})
}

func TestStartOrdinal(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, web(2, func(set *appsv1.StatefulSet) { set.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5} }))
	b.complete()
	b.awaitImages("web-5=v1 web-6=v1")
	b.change(func(set *appsv1.StatefulSet) { set.Spec.Ordinals.Start = 6 })
	b.complete()
	b.awaitImages("web-6=v1 web-7=v1")
}

func TestOrdinalsOfMoreThan32Bits(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, web(2, func(set *appsv1.StatefulSet) { set.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: math.MaxInt32} }))
	b.complete()
	b.awaitImages("web-2147483647=v1 web-2147483648=v1")
	b.scale(1)
	b.complete()
	b.awaitImages("web-2147483647=v1")
}

func TestMinReadySeconds(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, web(2, func(set *appsv1.StatefulSet) { set.Spec.MinReadySeconds = 3600 }))
	b.await("one pod, not available", func(set *appsv1.StatefulSet) bool {
		return set.Status.Replicas == 1 && set.Status.ReadyReplicas == 1 && set.Status.AvailableReplicas == 0
	})
	b.change(func(set *appsv1.StatefulSet) { set.Spec.MinReadySeconds = 1 })
	b.complete() // though nothing else changes
}

func TestFinishedPodsAreReplaced(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, web(2))
	b.complete()
	for _, phase := range []corev1.PodPhase{corev1.PodFailed, corev1.PodSucceeded} {
		before := b.pod("web-0").UID
		controllertest.ChangeStatus(t, b.Client, "default", "web-0", func(p *corev1.Pod) { p.Status.Phase = phase })
		controllertest.Await(t, b.Client, "default", "web-0", "its replacement", func(p *corev1.Pod) bool { return p.UID != before })
		b.complete()
	}
}

func TestOrphansAreAdopted(t *testing.T) {
	b := start(t)
	old := controllertest.Create(t, b.Client, web(2))
	revision := b.complete().Status.UpdateRevision
	uid := b.pod("web-0").UID
	// Without the garbage collector, the references are removed by hand, as orphaning does.
	if err := b.Client.Delete(context.Background(), old, client.Propagation(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web-0", "web-1"} {
		controllertest.Change(t, b.Client, "default", name, func(p *corev1.Pod) { p.OwnerReferences = nil })
	}
	controllertest.Change(t, b.Client, "default", revision, func(r *appsv1.ControllerRevision) { r.OwnerReferences = nil })
	for _, stranger := range []string{"other-0", "web-00", "web", "web-99999999999"} {
		controllertest.Create(t, b.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: stranger, Labels: app}, Spec: web(1).Spec.Template.Spec})
	}
	set := controllertest.Create(t, b.Client, web(2))
	if got := b.complete().Status.UpdateRevision; got != revision {
		t.Errorf("revision %s, it was %s", got, revision)
	}
	if p := b.pod("web-0"); p.UID != uid || !metav1.IsControlledBy(p, set) {
		t.Errorf("web-0 was not adopted: %+v", p.ObjectMeta)
	}
	for _, stranger := range []string{"other-0", "web-00", "web", "web-99999999999"} {
		if p := b.pod(stranger); len(p.OwnerReferences) != 0 || p.DeletionTimestamp != nil {
			t.Errorf("%s, which is no name of a pod of the set, was adopted", stranger)
		}
	}
	// A pod whose labels no longer match is released; it keeps the name, so nothing replaces it until it ends.
	controllertest.Change(t, b.Client, "default", "web-1", func(p *corev1.Pod) { p.Labels["app"] = "debug" })
	controllertest.Await(t, b.Client, "default", "web-1", "its release", func(p *corev1.Pod) bool { return len(p.OwnerReferences) == 0 })
	b.await("one replica", func(set *appsv1.StatefulSet) bool { return set.Status.Replicas == 1 })
	released := b.pod("web-1")
	if err := b.Client.Delete(context.Background(), released); err != nil {
		t.Fatal(err)
	}
	b.complete()
	if b.pod("web-1").UID == released.UID {
		t.Error("the same pod")
	}
}

func TestARevisionHistoryIsLimited(t *testing.T) {
	b := start(t)
	limit := int32(1)
	controllertest.Create(t, b.Client, web(1, func(set *appsv1.StatefulSet) { set.Spec.RevisionHistoryLimit = &limit }))
	b.complete()
	for _, image := range []string{"v2", "v3", "v4"} {
		b.image(image)
		b.complete()
	}
	controllertest.AwaitView(t, b.Client, []client.Object{&appsv1.ControllerRevision{}}, func(v client.View) string {
		var numbers []int64
		for _, r := range client.List[*appsv1.ControllerRevision](v, "default", nil) {
			numbers = append(numbers, r.Revision)
		}
		slices.Sort(numbers)
		if !slices.Equal(numbers, []int64{3, 4}) {
			return fmt.Sprintf("revisions %v", numbers)
		}
		return ""
	})
}

// TestManyReplicas: a number that nobody can run costs no more than the pods that exist.
func TestManyReplicas(t *testing.T) {
	b := start(t, controllertest.Bad(func(*corev1.Pod) bool { return true }))
	controllertest.Create(t, b.Client, web(1<<31-1))
	b.await("one pod", func(set *appsv1.StatefulSet) bool { return set.Status.Replicas == 1 })
	b.scale(0)
	b.complete()
}

func TestRefusedPodsAreTold(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, web(1<<31-1, parallel, func(set *appsv1.StatefulSet) { set.Spec.Template.Spec.PriorityClassName = "absent" }))
	b.recorder.AwaitN(t, "Warning FailedCreate Create Pod web-0 in StatefulSet web failed error: pods \"web-0\" is forbidden", 2)
	b.change(func(set *appsv1.StatefulSet) {
		set.Spec.Template.Spec.PriorityClassName, set.Spec.Replicas = "", new(int32)
		*set.Spec.Replicas = 1
	})
	b.complete()
}

func TestASetThatIsDeletedCreatesNothing(t *testing.T) {
	b := start(t)
	set := controllertest.Create(t, b.Client, web(2, func(set *appsv1.StatefulSet) { set.Finalizers = []string{"example.com/hold"} }))
	b.complete()
	if err := b.Client.Delete(context.Background(), set, client.Propagation(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
	if err := b.Client.Delete(context.Background(), b.pod("web-1")); err != nil {
		t.Fatal(err)
	}
	controllertest.Await(t, b.Client, "default", "web", "one replica", func(set *appsv1.StatefulSet) bool { return set.Status.Replicas == 1 })
	if n := len(b.recorder.Events("Normal SuccessfulCreate")); n != 2 {
		t.Errorf("%d pods were created", n)
	}
}
