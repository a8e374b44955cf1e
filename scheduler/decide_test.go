package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/scheduler/framework"
	"github.com/kontiki/kontiki/scheduler/plugins"
	"github.com/kontiki/kontiki/scheduler/queue"
)

// still returns a scheduler that does not run and has no API to write to, at a time that the test sets.
func still(t testing.TB, now *time.Time) *Scheduler {
	t.Helper()
	s := New(Config{Recorder: record.NewFakeRecorder(100), Log: slog.New(slog.DiscardHandler)})
	s.now = func() time.Time { return *now }
	s.clear()
	for _, plugin := range s.profiles[corev1.DefaultSchedulerName].Filters {
		if spread, ok := plugin.(*plugins.PodTopologySpread); ok {
			spread.Defaults = nil // they need an API
		}
	}
	list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("1Gi"), corev1.ResourcePods: resource.MustParse("1000")}
	s.observeNode(nil, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: corev1.NodeStatus{Allocatable: list}}, false)
	return s
}

// arrive lets a pod appear.
func (s *Scheduler) arrive(pod *corev1.Pod) { s.apply(s.prepare(client.Event{New: pod})) }

// decide decides about the next pod; nil if the queue is empty.
func (s *Scheduler) decide() *decision {
	if next := s.queue.Pop(); next != nil {
		return s.decideOn(next)
	}
	return nil
}

// step decides about the next pod, and puts it back if it does not fit.
func (s *Scheduler) step() *decision {
	s.queue.Due(s.now())
	d := s.decide()
	if d != nil && d.refusal != nil {
		s.queue.Refused(d.entry, d.refusal.Plugins(), s.now())
	}
	return d
}

// roomy is a node that any pod of these tests would fit on.
var roomy = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "roomy"}, Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
	corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("64Gi"), corev1.ResourcePods: resource.MustParse("1000")}}}

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
	s.arrive(unassigned("big", asking("2")))
	if d := s.step(); d.pod.Name != "big" || d.refusal == nil {
		t.Fatalf("decided %+v", d)
	}
	s.happened(framework.Node, framework.Add, nil, roomy)
	for i := range 10 {
		now = now.Add(queue.FirstBackoff / 5)
		s.arrive(unassigned(fmt.Sprint("a", i)))
		s.arrive(unassigned(fmt.Sprint("b", i))) // more than are decided
		if d := s.step(); d.pod.Name == "big" {
			return
		}
	}
	t.Error("the pod was not tried again while others were in the queue")
}

func TestPodsThatNeverFitLetOthersThrough(t *testing.T) {
	now := time.Unix(0, 0)
	s := still(t, &now)
	s.arrive(unassigned("big", asking("2")))
	s.step()
	now = now.Add(time.Second / 2)
	s.arrive(unassigned("bigger", asking("3")))
	s.step()
	s.happened(framework.Node, framework.Add, nil, roomy)
	now = now.Add(time.Second / 4)
	s.arrive(unassigned("new"))
	now = now.Add(queue.FirstBackoff)
	for _, want := range []string{"big", "bigger", "new"} { // by when they were looked at last, or came
		if d := s.step(); d.pod.Name != want {
			t.Errorf("tried %s, want %s", d.pod.Name, want)
		}
	}
	s.happened(framework.Node, framework.Add, nil, roomy)
	s.arrive(unassigned("newer"))
	now = now.Add(queue.LongestBackoff)
	s.arrive(unassigned("newest"))
	for i := range 4 {
		if d := s.step(); d.pod.Name == "newer" && i > 2 {
			t.Errorf("a pod that came after the others were tried was tried as number %d", i)
		}
	}
}

// A decision keeps the pod that it was made for, though the pod changes: a write may be reading it.
func TestADecisionKeepsThePodThatItWasMadeFor(t *testing.T) {
	now := time.Unix(0, 0)
	s := still(t, &now)
	pod := unassigned("big", asking("2"))
	s.arrive(pod)
	d := s.step()
	changed := pod.DeepCopy()
	changed.Annotations = map[string]string{"a": "b"}
	s.apply(s.prepare(client.Event{Old: pod, New: changed}))
	if d.pod.Pod != pod {
		t.Error("the decision's pod was exchanged, which a write may be reading")
	}
	if s.queue.Get(pod.UID).Pod.Pod != changed {
		t.Error("the queue has the old form of the pod")
	}
}

func TestAFailedBindingBacksOff(t *testing.T) {
	now := time.Unix(0, 0)
	s := still(t, &now)
	s.arrive(unassigned("p"))
	for _, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
		d := s.decide()
		if d == nil || d.node == nil || d.node.Name != "n" {
			t.Fatalf("decided %+v", d)
		}
		s.queue.Retry(d.entry, now)
		if again := s.decide(); again != nil {
			t.Fatal("tried again at once")
		}
		now = now.Add(want * time.Second)
		s.queue.Due(now)
	}
}

func TestAPanicLeavesOutOnePod(t *testing.T) {
	now := time.Unix(0, 0)
	s := still(t, &now)
	// Without an API, reading a namespace's labels panics.
	s.arrive(unassigned("bad", func(p *corev1.Pod) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
			TopologyKey: "zone", LabelSelector: &metav1.LabelSelector{}, NamespaceSelector: &metav1.LabelSelector{}}}}}
	}))
	var none *corev1.Pod
	if err := s.observe([]client.Event{{New: none}, {New: unassigned("good")}}); err != nil {
		t.Error(err)
	}
	for _, work := range s.inbox.take() {
		work()
	}
	for range 2 {
		if !s.scheduleOne(context.Background()) {
			t.Error("there is nothing to do")
		}
	}
	if s.scheduleOne(context.Background()) {
		t.Error("there is still something to do")
	}
	if s.assumed["good"] == nil || s.binder.unbound != 1 {
		t.Error("the other pod was not placed")
	}
	if s.queue.Get("bad") == nil || s.queue.Due(now) != now.Add(queue.FirstBackoff) {
		t.Errorf("the pod that made it panic is not tried again: %+v", s.queue.Get("bad"))
	}
	if got := s.reporter.pending["bad"]; got.reason != corev1.PodReasonSchedulerError {
		t.Errorf("reported: %+v", got)
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
		s.arrive(pod)
		s.queue.Refused(s.queue.Pop(), []string{"InterPodAffinity"}, now)
	}
	label := func(team string) {
		old := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "labelled", Labels: map[string]string{"team": "none"}}}
		changed := old.DeepCopy()
		changed.Labels["team"] = team
		s.apply(s.prepare(client.Event{Old: old, New: changed}))
	}
	expect := func(waiting ...types.UID) {
		t.Helper()
		for _, uid := range waiting {
			if !s.queue.Waits(uid) {
				t.Errorf("%s does not wait any more", uid)
			}
		}
		if _, _, n, _ := s.queue.Len(); n != len(waiting) {
			t.Errorf("%d wait, want %q", n, waiting)
		}
	}
	label("a")
	expect("near others", "plain", "in it")
	// They also matter for pods that the anti-affinity of a placed pod excludes by their namespace.
	s.cluster.Place(framework.NewPodInfo(unassigned("placed", far("none"), func(p *corev1.Pod) { p.Spec.NodeName = "n" })), "n")
	label("c")
	expect("near others", "plain")
}
