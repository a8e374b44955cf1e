package rebalance_test

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/scheduler/rebalance"
	"github.com/kontiki/kontiki/test/harness"
)

type bed struct {
	*harness.Harness
	t testing.TB
	r *rebalance.Rebalancer
	// later is how far the rebalancer's clock is ahead.
	later time.Duration
}

func start(t *testing.T) *bed {
	h := harness.New(t)
	b, began := &bed{Harness: h, t: t}, time.Now()
	b.r = rebalance.New(rebalance.Config{
		Client: client.New(h.Objects, "system:kube-scheduler", "kube-scheduler"), Recorder: record.NewFakeRecorder(100), Log: slog.New(slog.DiscardHandler),
		Now: func() time.Time { return began.Add(b.later) },
	})
	return b
}

func (b *bed) node(name string) {
	b.t.Helper()
	list := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("110")}
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}, Status: corev1.NodeStatus{Capacity: list, Allocatable: list}}
	if _, err := client.Create(context.Background(), b.Client, n); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) pod(name, node, owner string, change ...func(*corev1.Pod)) {
	b.t.Helper()
	yes := true
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{"app": owner}, OwnerReferences: []metav1.OwnerReference{
		{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: owner, UID: types.UID(owner), Controller: &yes}}},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("200m")}}}}}}
	for _, c := range change {
		c(p)
	}
	p, err := client.Create(context.Background(), b.Client, p)
	if err == nil && node != "" {
		p.Status.Phase = corev1.PodRunning
		p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}
		_, err = client.UpdateStatus(context.Background(), b.Client, p)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// evicted makes a round, and returns the names of the pods that were evicted.
func (b *bed) evicted() (names []string) {
	b.t.Helper()
	if err := b.r.Round(context.Background()); err != nil {
		b.t.Fatal(err)
	}
	client.Each(b.Client.View(), "default", func(p *corev1.Pod) bool {
		if p.DeletionTimestamp != nil {
			names = append(names, p.Name)
		}
		return true
	})
	return names
}

func apart(p *corev1.Pod) {
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{
		TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": p.Labels["app"]}}}}}}
}

func TestRebalance(t *testing.T) {
	t.Run("pods that should not be together", func(t *testing.T) {
		b := start(t)
		b.node("a")
		b.pod("p0", "a", "x", apart)
		b.pod("p1", "a", "x", apart)
		if got := b.evicted(); len(got) != 0 {
			t.Errorf("without another node, %q were evicted", got)
		}
		b.node("b")
		if got := b.evicted(); !slices.Equal(got, []string{"p0"}) {
			t.Errorf("evicted %q", got)
		}
	})
	t.Run("a node that returns is filled", func(t *testing.T) {
		b := start(t)
		b.node("a")
		for i := range 4 {
			b.pod(fmt.Sprint("p", i), "a", fmt.Sprint("owner", i))
		}
		b.node("b")
		// 0.8 and 0 become 0.6 and 0.2; that is not more than the margin.
		if got := b.evicted(); !slices.Equal(got, []string{"p0"}) {
			t.Errorf("evicted %q", got)
		}
	})
	t.Run("one pod of an owner at a time", func(t *testing.T) {
		b := start(t)
		b.node("a")
		for i := range 5 {
			b.pod(fmt.Sprint("p", i), "a", "x")
		}
		b.node("b")
		if got := b.evicted(); len(got) != 1 {
			t.Errorf("evicted %q", got)
		}
	})
	t.Run("pods that would come back stay", func(t *testing.T) {
		b := start(t)
		b.node("a")
		for i := range 4 {
			b.pod(fmt.Sprint("p", i), "a", fmt.Sprint("owner", i), func(p *corev1.Pod) {
				p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{
					Weight: 100, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{"a"}}}}}}}}
			})
		}
		b.pod("other", "a", "x", func(p *corev1.Pod) { p.Spec.SchedulerName = "another" })
		b.node("b")
		if got := b.evicted(); len(got) != 0 {
			t.Errorf("evicted %q", got)
		}
	})
	t.Run("pods that must stay", func(t *testing.T) {
		b := start(t)
		b.node("a")
		b.pod("alone", "a", "x", func(p *corev1.Pod) { p.OwnerReferences = nil })
		b.pod("daemon", "a", "y", func(p *corev1.Pod) { p.OwnerReferences[0].Kind = "DaemonSet" })
		b.pod("asked", "a", "z", func(p *corev1.Pod) { p.Annotations = map[string]string{"kontiki.io/rebalance": "false"} })
		one := intstr.FromInt32(1)
		if _, err := client.Create(context.Background(), b.Client, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"},
			Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: &one, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "w"}}}}); err != nil {
			t.Fatal(err)
		}
		b.pod("kept", "a", "w")
		b.node("b")
		if got := b.evicted(); len(got) != 0 {
			t.Errorf("evicted %q", got)
		}
	})
	t.Run("nothing is moved while pods wait", func(t *testing.T) {
		b := start(t)
		b.node("a")
		for i := range 4 {
			b.pod(fmt.Sprint("p", i), "a", fmt.Sprint("owner", i))
		}
		b.node("b")
		b.pod("waiting", "", "x")
		if got := b.evicted(); len(got) != 0 {
			t.Errorf("evicted %q", got)
		}
	})
	t.Run("a balanced cluster stays as it is", func(t *testing.T) {
		b := start(t)
		b.node("a")
		b.node("b")
		for i, node := range []string{"a", "a", "a", "b", "b"} {
			b.pod(fmt.Sprint("p", i), node, fmt.Sprint("owner", i))
		}
		if got := b.evicted(); len(got) != 0 {
			t.Errorf("evicted %q", got)
		}
	})
}

// replace removes the pods that were evicted, and creates others on a node for them.
func (b *bed) replace(name, node, owner string, change ...func(*corev1.Pod)) {
	b.t.Helper()
	for _, p := range client.List[*corev1.Pod](b.Client.View(), "default", nil) {
		if p.DeletionTimestamp != nil {
			if err := b.Client.Delete(context.Background(), p, client.Grace(0)); err != nil {
				b.t.Fatal(err)
			}
		}
	}
	b.pod(name, node, owner, change...)
}

func TestViolationsThatChaseEachOther(t *testing.T) {
	b := start(t)
	b.node("a")
	b.node("b")
	b.pod("p0", "a", "x", apart)
	b.pod("neighbour", "a", "x", func(p *corev1.Pod) { p.OwnerReferences = nil })
	if got := b.evicted(); !slices.Equal(got, []string{"p0"}) {
		t.Fatalf("evicted %q", got)
	}
	// Each time, the replacement violates its anti-affinity again.
	for i, minutes := range []int{10, 20, 40} {
		name := fmt.Sprint("p", i+1)
		b.replace(name, "a", "x", apart)
		b.later += time.Duration(minutes)*time.Minute - time.Second
		if got := b.evicted(); len(got) != 0 {
			t.Errorf("after move %d, evicted %q too early", i+1, got)
		}
		b.later += time.Second
		if got := b.evicted(); !slices.Equal(got, []string{name}) {
			t.Errorf("after move %d, evicted %q", i+1, got)
		}
	}
}
