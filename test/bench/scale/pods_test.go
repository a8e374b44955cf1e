package scale_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// shape is one kind of pods, mostly as in upstream's scheduler_perf.
type shape struct {
	name string
	// set changes the i-th pod.
	set func(p *corev1.Pod, i int)
	// count is how many pods are measured, PODS if it is nil.
	count func() int
	// before prepares the cluster; what it starts ends with the context.
	before func(ctx context.Context, b *testing.B, namespace string)
}

const (
	gangOf       = 8
	highPriority = "bench-scale-high"
)

var shapes = []shape{
	{name: "basic", set: func(*corev1.Pod, int) {}},
	{name: "spread", set: func(p *corev1.Pod, _ int) {
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 5, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: alike("scale")}}
	}},
	{name: "required-affinity", set: func(p *corev1.Pod, _ int) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
			{TopologyKey: corev1.LabelOSStable, LabelSelector: alike("scale")}}}}
	}},
	{name: "preferred-affinity", set: func(p *corev1.Pod, _ int) {
		p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: preferred("scale")}}
	}},
	{name: "preferred-anti-affinity", set: func(p *corev1.Pod, _ int) {
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: preferred("scale")}}
	}},
	{name: "anti-affinity", set: func(p *corev1.Pod, i int) { // half as many as there are nodes repel each other
		group := fmt.Sprint("scale-", i/max(1, hollow()/2))
		p.Labels["bench"] = group
		p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
			{TopologyKey: corev1.LabelHostname, LabelSelector: alike(group)}}}}
	}},
	{name: "preemption", count: func() int { return min(podsOf(), hollow()) }, before: fillNodes, set: func(p *corev1.Pod, _ int) { // each takes the place of three
		p.Spec.PriorityClassName = highPriority
		p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("24")
	}},
	{name: "gangs", count: func() int { return podsOf() / gangOf * gangOf }, set: func(p *corev1.Pod, i int) {
		p.Labels["kontiki.io/gang"] = fmt.Sprint("g", i/gangOf)
		p.Annotations = map[string]string{"kontiki.io/gang-size": fmt.Sprint(gangOf)}
	}},
	{name: "churn", before: churn, set: func(*corev1.Pod, int) {}},
}

func preferred(group string) []corev1.WeightedPodAffinityTerm {
	return []corev1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: corev1.LabelHostname, LabelSelector: alike(group)}}}
}

func alike(group string) *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"bench": group}}
}

func newPod(name string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"bench": "scale"}}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64),
		Containers: []corev1.Container{{Name: "c", Image: "example/app:1", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")}}}},
	}}
}

// BenchmarkPods creates pods on all workers, and reports how many a second are bound and run, from the first creation to the last binding
// and the last report that one runs; and how many a second their namespace's deletion removes.
func BenchmarkPods(b *testing.B) {
	for _, s := range shapes {
		if !wanted(s.name) {
			continue
		}
		b.Run(s.name, func(b *testing.B) {
			for range b.N {
				measurePods(b, s)
			}
		})
	}
}

func measurePods(b *testing.B, s shape) {
	ctx := limited(b)
	namespace := newNamespace(ctx, b, s.name)
	want := podsOf()
	if s.count != nil {
		want = s.count()
	}
	during, end := context.WithCancel(ctx)
	defer end()
	if s.before != nil {
		s.before(during, b, namespace)
	}
	times, before := createPods(ctx, b, namespace, "p", want, s.set), time.Now()
	end()
	b.ReportMetric(float64(want)/times.bound.Seconds(), "bound/s")
	b.ReportMetric(float64(want)/times.running.Seconds(), "running/s")
	b.ReportMetric(0, "ns/op") // of all of the above: it says nothing
	if err := removeNamespace(ctx, namespace); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(want)/time.Since(before).Seconds(), "deleted/s")
}

// times are how long it took from the first creation until the last of all pods was seen bound, and running.
type times struct{ bound, running time.Duration }

// createPods creates pods and waits until all of them run.
func createPods(ctx context.Context, b *testing.B, namespace, kind string, n int, set func(p *corev1.Pod, i int)) times {
	b.Helper()
	pods := cluster.Set.CoreV1().Pods(namespace)
	w, err := pods.Watch(ctx, metav1.ListOptions{LabelSelector: "kind=" + kind})
	if err != nil {
		b.Fatal(err)
	}
	begin := time.Now()
	seen := make(chan times, 1)
	failed := make(chan error, 1)
	go func() {
		defer w.Stop()
		var t times
		bound, running := map[string]bool{}, map[string]bool{}
		for event := range w.ResultChan() {
			p, ok := event.Object.(*corev1.Pod)
			if !ok || event.Type == watch.Deleted {
				continue
			}
			if p.Spec.NodeName != "" && !bound[p.Name] {
				bound[p.Name], t.bound = true, time.Since(begin)
			}
			if p.Status.Phase == corev1.PodRunning && !running[p.Name] {
				running[p.Name], t.running = true, time.Since(begin)
			}
			if len(running) == n {
				seen <- t
				return
			}
		}
		failed <- fmt.Errorf("the watch ended when %d of %d pods were bound and %d ran", len(bound), n, len(running))
	}()
	if err := each(ctx, n, func(i int) error {
		p := newPod(fmt.Sprint(kind, "-", i))
		p.Labels["kind"] = kind
		set(p, i)
		_, err := pods.Create(ctx, p, metav1.CreateOptions{})
		return err
	}); err != nil {
		b.Fatal(err)
	}
	select {
	case t := <-seen:
		return t
	case err := <-failed:
		b.Fatal(err)
	}
	return times{}
}

// fillNodes runs four pods on each node, which leave no room for the ones that are measured.
func fillNodes(ctx context.Context, b *testing.B, namespace string) {
	b.Helper()
	class := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: highPriority}, Value: 1000}
	if _, err := cluster.Set.SchedulingV1().PriorityClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		b.Fatal(err)
	}
	createPods(ctx, b, namespace, "fill", 4*hollow(), func(p *corev1.Pod, _ int) {
		p.Spec.Containers[0].Resources.Requests[corev1.ResourceCPU] = resource.MustParse("7500m")
	})
}

// churnPause is the time between two changes of churn.
const churnPause = 50 * time.Millisecond

// churn creates and deletes nodes, which nothing fits on, and pods, until the context ends.
func churn(ctx context.Context, b *testing.B, namespace string) {
	core := cluster.Set.CoreV1()
	ended := make(chan struct{})
	b.Cleanup(func() { <-ended })
	go func() {
		defer close(ended)
		tick := time.NewTicker(churnPause)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			name := fmt.Sprintf("churn-%d", i)
			n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Unschedulable: true}}
			after := context.WithoutCancel(ctx) // what was created is deleted
			if _, err := core.Nodes().Create(after, n, metav1.CreateOptions{}); err == nil {
				err = core.Nodes().Delete(after, name, metav1.DeleteOptions{})
				if err != nil {
					b.Error(err)
				}
			}
			if _, err := core.Pods(namespace).Create(after, newPod(name), metav1.CreateOptions{}); err == nil {
				if err := core.Pods(namespace).Delete(after, name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
					b.Error(err)
				}
			}
		}
	}()
}
