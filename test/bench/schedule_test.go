package bench_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// BenchmarkSchedulePods creates b.N Pods by 32 clients in clusters of 1,000 and 5,000 nodes, and reports how many a second are created
// and bound, until a watch has seen the last one bound. The nodes are but objects: no agent starts what is bound to them.
func BenchmarkSchedulePods(b *testing.B) {
	alike := func(run string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"bench-run": run}}
	}
	near := func(run, key string) []corev1.PodAffinityTerm {
		return []corev1.PodAffinityTerm{{TopologyKey: key, LabelSelector: alike(run)}}
	}
	for _, nodes := range []int{1000, 5000} {
		for _, workload := range []struct {
			name   string
			change func(p *corev1.Pod, run string)
		}{
			{"basic", func(*corev1.Pod, string) {}},
			{"spread", func(p *corev1.Pod, run string) {
				p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: alike(run)}}
			}},
			{"affinity", func(p *corev1.Pod, run string) {
				p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: near(run, corev1.LabelTopologyRegion)}}
			}},
			{"preferred-affinity", func(p *corev1.Pod, run string) {
				p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
					{Weight: 1, PodAffinityTerm: near(run, corev1.LabelTopologyZone)[0]}}}}
			}},
			{"anti-affinity", func(p *corev1.Pod, run string) {
				p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: near(run, corev1.LabelHostname)}}
			}},
		} {
			b.Run(fmt.Sprintf("%s/nodes=%d", workload.name, nodes), func(b *testing.B) {
				if workload.name == "anti-affinity" && b.N > nodes {
					b.Skip("there cannot be more of these pods than nodes")
				}
				benchSchedule(b, nodes, workload.change)
			})
		}
	}
}

func benchSchedule(b *testing.B, nodes int, change func(p *corev1.Pod, run string)) {
	ctx := context.Background()
	leader, _, err := roles()
	if err != nil {
		b.Fatal(err)
	}
	sets, err := connect(leader, 1)
	if err != nil {
		b.Fatal(err)
	}
	core := sets[0].CoreV1()
	run := strings.ToLower(rand.Text())
	selected := metav1.ListOptions{LabelSelector: "bench-run=" + run}
	now := metav1.DeleteOptions{GracePeriodSeconds: new(int64)}
	defer func() {
		for _, err := range []error{
			core.Pods("default").DeleteCollection(ctx, now, selected), core.Nodes().DeleteCollection(ctx, metav1.DeleteOptions{}, selected),
		} {
			if err != nil {
				b.Error(err)
			}
		}
	}()
	each(b, nodes, func(i int) error {
		_, err := core.Nodes().Create(ctx, node(run, i), metav1.CreateOptions{})
		return err
	})
	w, err := core.Pods("default").Watch(ctx, selected)
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	bound := make(chan error, 1)
	go func() {
		seen := map[string]bool{}
		for event := range w.ResultChan() {
			if p, ok := event.Object.(*corev1.Pod); ok && p.Spec.NodeName != "" {
				if seen[p.Name] = true; len(seen) == b.N {
					bound <- nil
					return
				}
			}
		}
		bound <- fmt.Errorf("the watch ended after %d of %d pods", len(seen), b.N)
	}()
	b.ResetTimer()
	each(b, b.N, func(i int) error {
		p := pod(fmt.Sprintf("bench-%s-%d", run, i))
		p.Labels["bench-run"] = run
		p.Spec.NodeSelector = map[string]string{"bench-run": run}
		change(p, run)
		_, err := core.Pods("default").Create(ctx, p, metav1.CreateOptions{})
		return err
	})
	if err := <-bound; err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
}

// each calls a function with all numbers up to n, by as many callers as there are clients.
func each(b *testing.B, n int, call func(i int) error) {
	b.Helper()
	var next atomic.Int64
	var callers sync.WaitGroup
	for range clients {
		callers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				if err := call(i); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	callers.Wait()
	if b.Failed() {
		b.FailNow()
	}
}

// node returns a ready node with free resources. It sets its own pod range, because the cluster's has room for 256 only.
func node(run string, i int) *corev1.Node {
	room := corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("32"), corev1.ResourceMemory: resource.MustParse("64Gi"), corev1.ResourcePods: resource.MustParse("110"),
	}
	ranges := fmt.Sprintf("172.%d.%d.0/24", 16+i/256, i%256)
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("bench-%s-%d", run, i), Labels: map[string]string{
			"bench-run": run, corev1.LabelHostname: fmt.Sprintf("bench-%s-%d", run, i), corev1.LabelTopologyZone: fmt.Sprint("z", i%10), corev1.LabelTopologyRegion: run,
		}},
		Spec: corev1.NodeSpec{PodCIDR: ranges, PodCIDRs: []string{ranges}},
		Status: corev1.NodeStatus{Capacity: room, Allocatable: room, Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now(), LastTransitionTime: metav1.Now()}}},
	}
}
