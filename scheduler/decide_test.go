package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
)

// still returns a scheduler that does not run and has no API to write to, at a time that the test sets.
func still(t *testing.T, now *time.Time) *Scheduler {
	t.Helper()
	s := New(Config{Recorder: record.NewFakeRecorder(100), Log: slog.New(slog.DiscardHandler)})
	s.now = func() time.Time { return *now }
	s.cache, s.queue = newCache(), newQueue()
	list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("1000")}
	s.observeNode(nil, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Allocatable: list}}, false)
	return s
}

func unassigned(name string, change ...func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: types.UID(name)},
		Spec: corev1.PodSpec{SchedulerName: corev1.DefaultSchedulerName, Containers: []corev1.Container{{Name: "c"}}}}
	for _, c := range change {
		c(pod)
	}
	return pod
}

func asking(cpu string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
}

func TestBackoffEndsThoughThereIsAlwaysSomethingToDo(t *testing.T) {
	now := time.Unix(0, 0)
	s := still(t, &now)
	s.observePod(nil, unassigned("big", asking("2")))
	if d := s.decide(); d.pod.Name != "big" || d.reason == "" {
		t.Fatalf("decided %+v", d)
	}
	s.queue.move()
	for i := range 10 {
		now = now.Add(firstBackoff / 5)
		s.observePod(nil, unassigned(fmt.Sprint("a", i)))
		s.observePod(nil, unassigned(fmt.Sprint("b", i))) // more than are decided
		if d := s.decide(); d.pod.Name == "big" {
			return
		}
	}
	t.Error("the pod was not tried again while others were in the queue")
}

func TestPodsThatNeverFitLetOthersThrough(t *testing.T) {
	now := time.Unix(0, 0)
	s := still(t, &now)
	s.observePod(nil, unassigned("big", asking("2")))
	s.decide()
	now = now.Add(time.Second / 2)
	s.observePod(nil, unassigned("bigger", asking("3")))
	s.decide()
	s.queue.move()
	now = now.Add(time.Second / 4)
	s.observePod(nil, unassigned("new"))
	now = now.Add(firstBackoff)
	for _, want := range []string{"big", "bigger", "new"} { // by when they were looked at last, or came
		if d := s.decide(); d.pod.Name != want {
			t.Errorf("tried %s, want %s", d.pod.Name, want)
		}
	}
	s.queue.move()
	s.observePod(nil, unassigned("newer"))
	now = now.Add(longestBackoff)
	s.observePod(nil, unassigned("newest"))
	for i := range 4 {
		if d := s.decide(); d.pod.Name == "newer" && i > 2 {
			t.Errorf("a pod that came after the others were tried was tried as number %d", i)
		}
	}
}

// The data of a write does not change while it runs, though the pod does.
func TestADecisionKeepsThePodThatItWasMadeFor(t *testing.T) {
	now := time.Unix(0, 0)
	s := still(t, &now)
	pod := unassigned("big", asking("2"))
	s.observePod(nil, pod)
	d := s.decide()
	changed := pod.DeepCopy()
	changed.Annotations = map[string]string{"a": "b"}
	s.observePod(pod, changed)
	if d.pod.Pod != pod {
		t.Error("the decision's pod was exchanged, which a write may be reading")
	}
	if s.queue.all[pod.UID].pod.Pod != changed {
		t.Error("the queue has the old form of the pod")
	}
}

func TestAFailedBindingBacksOff(t *testing.T) {
	now := time.Unix(0, 0)
	s := still(t, &now)
	s.observePod(nil, unassigned("p"))
	for _, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		d := s.decide()
		if d.pod == nil || d.node != "n" {
			t.Fatalf("decided %+v", d)
		}
		s.cache.forget(d.pod.UID)
		s.queue.retry(d.next, now)
		if again := s.decide(); again.pod != nil {
			t.Fatal("tried again at once")
		}
		now = now.Add(want * time.Second)
	}
}

func TestAPanicLeavesOutOnePod(t *testing.T) {
	now := time.Unix(0, 0)
	s := still(t, &now)
	// Without an API, reading a namespace's labels panics, and so do all writes.
	s.observePod(nil, unassigned("bad", func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: "zone", LabelSelector: &metav1.LabelSelector{}, NamespaceSelector: &metav1.LabelSelector{}}}}}
	}))
	var none *corev1.Pod
	if err := s.observe([]client.Event{{New: none}, {New: unassigned("good")}}); err != nil {
		t.Error(err)
	}
	var writes sync.WaitGroup
	for range 2 {
		if !s.scheduleOne(context.Background(), &writes) {
			t.Error("there is nothing to do")
		}
	}
	if s.scheduleOne(context.Background(), &writes) {
		t.Error("there is still something to do")
	}
	writes.Wait()
	if len(s.writes) != 0 {
		t.Errorf("%d slots are not given back", len(s.writes))
	}
	if have := s.queue.all["bad"]; have == nil || have.due != now.Add(firstBackoff) {
		t.Errorf("the pod that made it panic is not tried again: %+v", have)
	}
}

// TestANamespacesLabelsWakeWhomTheyMatterTo: a pod with an affinity term that selects namespaces by labels is retried when these
// change, and no other pod is.
func TestANamespacesLabelsWakeWhomTheyMatterTo(t *testing.T) {
	term := func(team string) []corev1.PodAffinityTerm {
		return []corev1.PodAffinityTerm{{TopologyKey: "zone", LabelSelector: &metav1.LabelSelector{}, NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": team}}}}
	}
	near := func(team string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: term(team)}}
		}
	}
	far := func(team string) func(*corev1.Pod) {
		return func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: term(team)}}
		}
	}
	in := func(namespace string) func(*corev1.Pod) { return func(p *corev1.Pod) { p.Namespace = namespace } }
	now := time.Unix(0, 0)
	s := still(t, &now)
	for _, pod := range []*corev1.Pod{
		unassigned("near", near("a")), unassigned("far", far("a")), unassigned("near others", near("b")), unassigned("plain"), unassigned("in it", in("labelled")),
	} {
		s.observePod(nil, pod)
		next, _ := s.queue.pop()
		s.queue.unschedulable(next, now)
	}
	label := func(team string) {
		old := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "labelled", Labels: map[string]string{"team": "none"}}}
		changed := old.DeepCopy()
		changed.Labels["team"] = team
		if err := s.observe([]client.Event{{Old: old, New: changed}}); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(waiting ...types.UID) {
		t.Helper()
		for _, uid := range waiting {
			if s.queue.waiting[uid] == nil {
				t.Errorf("%s does not wait any more", uid)
			}
		}
		if len(s.queue.waiting) != len(waiting) {
			t.Errorf("%d wait, want %q", len(s.queue.waiting), waiting)
		}
	}
	label("a")
	expect("near others", "plain", "in it")
	// They also matter for pods that the anti-affinity of a placed pod excludes by their namespace.
	s.cache.confirm(unassigned("placed", far("none"), func(p *corev1.Pod) { p.Spec.NodeName = "n" }))
	label("c")
	expect("near others", "plain")
}
