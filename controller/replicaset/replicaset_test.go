package replicaset_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/pods"
	"github.com/kontiki/kontiki/controller/replicaset"
	"github.com/kontiki/kontiki/test/harness"
)

type bed struct {
	*harness.Harness
	t        testing.TB
	recorder *controllertest.Recorder
}

func start(t testing.TB) *bed {
	t.Helper()
	b := &bed{harness.New(t), t, controllertest.NewRecorder()}
	controllertest.Run(t, b.Client, replicaset.NewReplicaSets(b.Client, b.recorder), replicaset.NewReplicationControllers(b.Client, b.recorder))
	return b
}

func template(labels map[string]string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
}

var app = map[string]string{"app": "x"}

func set(name string, replicas int32) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: app}, Template: template(app)}}
}

// living returns the pods of the namespace that are not being deleted.
func living(v client.View) (out []*corev1.Pod) {
	client.Each(v, "default", func(p *corev1.Pod) bool {
		if p.DeletionTimestamp == nil {
			out = append(out, p)
		}
		return true
	})
	return out
}

func (b *bed) status(name string, replicas, ready int32) *appsv1.ReplicaSet {
	b.t.Helper()
	return controllertest.Await(b.t, b.Client, "default", name, fmt.Sprintf("%d replicas, %d ready, all observed", replicas, ready), func(rs *appsv1.ReplicaSet) bool {
		return rs.Status.Replicas == replicas && rs.Status.ReadyReplicas == ready && rs.Status.ObservedGeneration == rs.Generation
	})
}

func (b *bed) scale(name string, replicas int32) {
	b.t.Helper()
	controllertest.Change(b.t, b.Client, "default", name, func(rs *appsv1.ReplicaSet) { rs.Spec.Replicas = &replicas })
}

func TestAsManyPodsAsAskedFor(t *testing.T) {
	b := start(t)
	controllertest.StartKubelet(t, b.Client)
	rs := controllertest.Create(t, b.Client, set("rs", 20))
	got := b.status("rs", 20, 20)
	if got.Status.AvailableReplicas != 20 || got.Status.FullyLabeledReplicas != 20 {
		t.Errorf("status %+v", got.Status)
	}
	for _, p := range living(b.Client.View()) {
		ref := metav1.GetControllerOf(p)
		if ref == nil || ref.UID != rs.UID || ref.Kind != "ReplicaSet" || ref.APIVersion != "apps/v1" || ref.BlockOwnerDeletion == nil || !*ref.BlockOwnerDeletion || !strings.HasPrefix(p.Name, "rs-") {
			t.Fatalf("pod %s: owner %+v", p.Name, ref)
		}
	}
	if n := len(b.recorder.Events("Normal SuccessfulCreate Created pod: rs-")); n != 20 {
		t.Errorf("%d events for 20 pods: never more than needed may be made", n)
	}
	b.scale("rs", 3)
	b.status("rs", 3, 3)
	if n := len(living(b.Client.View())); n != 3 {
		t.Errorf("%d pods", n)
	}
	if n := len(b.recorder.Events("Normal SuccessfulDelete Deleted pod: rs-")); n != 17 {
		t.Errorf("%d events for 17 deletions", n)
	}
	// A pod that is deleted is replaced, and so is one that fails.
	victims := living(b.Client.View())
	if err := b.Client.Delete(context.Background(), victims[0]); err != nil {
		t.Fatal(err)
	}
	controllertest.ChangeStatus(t, b.Client, "default", victims[1].Name, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed })
	controllertest.AwaitView(t, b.Client, []client.Object{&corev1.Pod{}}, func(v client.View) string {
		active := 0
		for _, p := range living(v) {
			if p.Name != victims[0].Name && p.Name != victims[1].Name && pods.Ready(p) {
				active++
			}
		}
		if active != 3 {
			return fmt.Sprintf("%d other pods are ready, want 3", active)
		}
		return ""
	})
	b.scale("rs", 0)
	b.status("rs", 0, 0)
}

func TestWhichPodsGoFirst(t *testing.T) {
	// Each pod is deleted before those that follow it. All ready pods became ready at the same time.
	since := metav1.NewTime(time.Now().Add(-time.Hour))
	ready := func(p *corev1.Pod) {
		controllertest.MakeReady(p, true)
		p.Status.Conditions[len(p.Status.Conditions)-1].LastTransitionTime = since
	}
	cases := []struct {
		name string
		make func(p *corev1.Pod)
		node string
	}{
		{"unassigned", func(p *corev1.Pod) {}, ""},
		{"pending", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }, "n1"},
		{"unready", func(p *corev1.Pod) { controllertest.MakeReady(p, false) }, "n1"},
		{"cheap", ready, "n1"},
		{"crowded", ready, "n1"},
		{"restarted", func(p *corev1.Pod) {
			ready(p)
			p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", RestartCount: 3}}
		}, "n2"},
		{"alone", ready, "n3"},
		{"dear", ready, "n1"},
	}
	costs := map[string]string{"cheap": "-5", "dear": "10"}
	h := harness.New(t)
	for _, c := range cases {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: c.name, Labels: app, Annotations: map[string]string{}}, Spec: template(app).Spec}
		p.Spec.NodeName = c.node
		if cost := costs[c.name]; cost != "" {
			p.Annotations[corev1.PodDeletionCost] = cost
		}
		controllertest.Create(t, h.Client, p)
		if c.node != "" {
			controllertest.ChangeStatus(t, h.Client, "default", c.name, c.make)
		}
	}
	recorder := controllertest.NewRecorder()
	b := &bed{h, t, recorder}
	controllertest.Create(t, h.Client, set("rs", int32(len(cases))))
	controllertest.Run(t, h.Client, replicaset.NewReplicaSets(h.Client, recorder))
	for i := range cases {
		b.scale("rs", int32(len(cases)-1-i))
		controllertest.AwaitView(t, h.Client, []client.Object{&corev1.Pod{}}, func(v client.View) string {
			left := []string{}
			for _, p := range living(v) {
				left = append(left, p.Name)
			}
			want := []string{}
			for _, c := range cases[i+1:] {
				want = append(want, c.name)
			}
			slices.Sort(want)
			if !slices.Equal(left, want) {
				return fmt.Sprintf("after %s should have gone: %v are left, want %v", cases[i].name, left, want)
			}
			return ""
		})
	}
}

func TestRefusedPodsAreToldAndTriedSlowly(t *testing.T) {
	b := start(t)
	rs := set("rs", 100)
	rs.Spec.Template.Spec.PriorityClassName = "absent" // admission refuses it
	controllertest.Create(t, b.Client, rs)
	got := controllertest.Await(t, b.Client, "default", "rs", "a ReplicaFailure condition", func(rs *appsv1.ReplicaSet) bool {
		return len(rs.Status.Conditions) == 1
	})
	c := got.Status.Conditions[0]
	if c.Type != appsv1.ReplicaSetReplicaFailure || c.Status != corev1.ConditionTrue || c.Reason != "FailedCreate" || !strings.Contains(c.Message, "no PriorityClass with name absent was found") {
		t.Errorf("condition %+v", c)
	}
	b.recorder.AwaitN(t, "Warning FailedCreate Error creating: pods ", 3) // it is tried again, one at a time
	if n := len(living(b.Client.View())); n != 0 {
		t.Errorf("%d pods", n)
	}
	controllertest.Change(t, b.Client, "default", "rs", func(rs *appsv1.ReplicaSet) { rs.Spec.Template.Spec.PriorityClassName = "" })
	if got := b.status("rs", 100, 0); len(got.Status.Conditions) != 0 {
		controllertest.Await(t, b.Client, "default", "rs", "no condition", func(rs *appsv1.ReplicaSet) bool { return len(rs.Status.Conditions) == 0 })
	}
	// The refusals came one by one: each was the first of its attempt. 100 concurrent attempts would have been too many.
	if n := len(b.recorder.Events("Warning FailedCreate")); n > 50 {
		t.Errorf("%d refusals", n)
	}
}

func pod(name string, labels map[string]string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: labels}, Spec: template(labels).Spec}
}

func TestOrphansAreAdoptedAndStrangersReleased(t *testing.T) {
	b := start(t)
	controllertest.StartKubelet(t, b.Client)
	controllertest.Create(t, b.Client, pod("orphan", app))
	controllertest.Create(t, b.Client, pod("other", map[string]string{"app": "y"}))
	foreign := pod("foreign", app)
	yes := true
	foreign.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "another", UID: "another", Controller: &yes}}
	controllertest.Create(t, b.Client, foreign)
	controllertest.Create(t, b.Client, pod("finished", app))
	controllertest.ChangeStatus(t, b.Client, "default", "finished", func(p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded })
	rs := controllertest.Create(t, b.Client, set("rs", 2))
	b.status("rs", 2, 2)
	if n := len(b.recorder.Events("Normal SuccessfulCreate")); n != 1 {
		t.Errorf("%d pods were made beside the one that was adopted", n)
	}
	v := b.Client.View()
	owner := func(name string) string {
		p, _ := client.Get[*corev1.Pod](v, "default", name)
		if ref := metav1.GetControllerOf(p); ref != nil {
			return string(ref.UID)
		}
		return ""
	}
	for name, want := range map[string]string{"orphan": string(rs.UID), "other": "", "foreign": "another", "finished": ""} {
		if got := owner(name); got != want {
			t.Errorf("%s is controlled by %q, want %q", name, got, want)
		}
	}
	// A pod whose labels no longer match is released, and replaced.
	controllertest.Change(t, b.Client, "default", "orphan", func(p *corev1.Pod) { p.Labels = map[string]string{"app": "debug"} })
	controllertest.Await(t, b.Client, "default", "orphan", "its release", func(p *corev1.Pod) bool { return len(p.OwnerReferences) == 0 && p.DeletionTimestamp == nil })
	b.recorder.AwaitN(t, "Normal SuccessfulCreate", 2)
	b.status("rs", 2, 2)
	// A pod that begins to match is adopted, and is one too many.
	controllertest.Change(t, b.Client, "default", "other", func(p *corev1.Pod) { p.Labels = app })
	b.recorder.Await(t, "Normal SuccessfulDelete")
	b.status("rs", 2, 2)
}

func TestReplicationControllers(t *testing.T) {
	b := start(t)
	controllertest.StartKubelet(t, b.Client)
	tmpl := template(app)
	three := int32(3)
	rc := controllertest.Create(t, b.Client, &corev1.ReplicationController{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "rc"},
		Spec: corev1.ReplicationControllerSpec{Replicas: &three, Selector: app, Template: &tmpl}})
	await := func(n int32) {
		t.Helper()
		controllertest.Await(t, b.Client, "default", "rc", fmt.Sprintf("%d available", n), func(rc *corev1.ReplicationController) bool {
			return rc.Status.Replicas == n && rc.Status.ReadyReplicas == n && rc.Status.AvailableReplicas == n && rc.Status.FullyLabeledReplicas == n && rc.Status.ObservedGeneration == rc.Generation
		})
	}
	await(3)
	for _, p := range living(b.Client.View()) {
		if ref := metav1.GetControllerOf(p); ref == nil || ref.UID != rc.UID || ref.Kind != "ReplicationController" || ref.APIVersion != "v1" {
			t.Errorf("owner %+v", ref)
		}
	}
	one := int32(1)
	controllertest.Change(t, b.Client, "default", "rc", func(rc *corev1.ReplicationController) { rc.Spec.Replicas = &one })
	await(1)
	controllertest.Change(t, b.Client, "default", "rc", func(rc *corev1.ReplicationController) {
		rc.Spec.Replicas, rc.Spec.Template.Spec.PriorityClassName = &three, "absent"
	})
	got := controllertest.Await(t, b.Client, "default", "rc", "a failure", func(rc *corev1.ReplicationController) bool { return len(rc.Status.Conditions) == 1 })
	if c := got.Status.Conditions[0]; c.Type != corev1.ReplicationControllerReplicaFailure || c.Reason != "FailedCreate" {
		t.Errorf("condition %+v", c)
	}
}

func TestAvailabilityTakesMinReadySeconds(t *testing.T) {
	b := start(t)
	controllertest.StartKubelet(t, b.Client)
	slow := set("slow", 2)
	slow.Spec.MinReadySeconds = 3600
	controllertest.Create(t, b.Client, slow)
	if got := b.status("slow", 2, 2); got.Status.AvailableReplicas != 0 {
		t.Errorf("available at once: %+v", got.Status)
	}
	controllertest.Change(t, b.Client, "default", "slow", func(rs *appsv1.ReplicaSet) { rs.Spec.MinReadySeconds = 1 })
	controllertest.Await(t, b.Client, "default", "slow", "availability after a while, though nothing changes", func(rs *appsv1.ReplicaSet) bool { return rs.Status.AvailableReplicas == 2 })
}

func TestASetThatIsDeletedMakesNothing(t *testing.T) {
	b := start(t)
	controllertest.StartKubelet(t, b.Client)
	rs := set("rs", 2)
	rs.Finalizers = []string{"example.com/hold"}
	controllertest.Create(t, b.Client, rs)
	b.status("rs", 2, 2)
	made := living(b.Client.View())
	if err := b.Client.Delete(context.Background(), rs, client.Propagation(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
	if err := b.Client.Delete(context.Background(), made[0]); err != nil {
		t.Fatal(err)
	}
	controllertest.Await(t, b.Client, "default", "rs", "one replica", func(rs *appsv1.ReplicaSet) bool { return rs.Status.Replicas == 1 })
	if n := len(b.recorder.Events("Normal SuccessfulCreate")); n != 2 {
		t.Errorf("%d pods were made", n)
	}
}
