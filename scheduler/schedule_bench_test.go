package scheduler_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
)

// BenchmarkSchedule creates b.N pods by 32 clients over the whole API but without raft and network, and waits until each is bound. It
// reports pods a second from the first creation to the last binding. Use -benchtime 10000x.
func BenchmarkSchedule(b *testing.B) {
	alike := &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}
	term := corev1.PodAffinityTerm{TopologyKey: corev1.LabelTopologyZone, LabelSelector: alike}
	perNode := corev1.PodAffinityTerm{TopologyKey: corev1.LabelHostname, LabelSelector: alike}
	for _, nodes := range []int{1000, 5000} {
		for _, workload := range []struct {
			name   string
			change func(*corev1.Pod)
		}{
			{"basic", func(*corev1.Pod) {}},
			{"spread", func(p *corev1.Pod) {
				p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: alike}}
			}},
			{"affinity", func(p *corev1.Pod) {
				p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{term}}}
			}},
			{"preferred-affinity", func(p *corev1.Pod) {
				p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{{Weight: 1, PodAffinityTerm: term}}}}
			}},
			// Of these, there cannot be more than nodes.
			{"anti-affinity", func(p *corev1.Pod) {
				p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{perNode}}}
			}},
		} {
			b.Run(fmt.Sprintf("%s/nodes=%d", workload.name, nodes), func(b *testing.B) {
				if workload.name == "anti-affinity" && b.N > nodes {
					b.Skip("there are not enough nodes")
				}
				if once := flag.Lookup("test.benchtime"); nodes > 1000 && once != nil && once.Value.String() == "1x" {
					b.Skip("to see whether it works, 1,000 nodes are enough")
				}
				benchSchedule(b, nodes, workload.change)
			})
		}
	}
}

func benchSchedule(b *testing.B, nodes int, change func(*corev1.Pod)) {
	bed := start(b)
	parallel(nodes, func(i int) {
		bed.node(fmt.Sprintf("n%05d", i), "32", func(n *corev1.Node) {
			n.Labels[corev1.LabelTopologyZone] = fmt.Sprint("z", i%10)
			n.Spec.PodCIDR = fmt.Sprintf("172.%d.%d.0/24", 16+i/256, i%256) // to choose one would take longer than all else
			n.Spec.PodCIDRs = []string{n.Spec.PodCIDR}
			n.Status.Allocatable[corev1.ResourceMemory] = resource.MustParse("64Gi")
		})
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	bound := make(chan error, 1)
	watching := make(chan struct{})
	all := errors.New("all are bound")
	go func() {
		count := 0
		bound <- bed.Client.ViewAndWatch(ctx, []client.Object{&corev1.Pod{}}, func(client.View) error {
			close(watching)
			return nil
		}, func(events []client.Event) error {
			for _, e := range events {
				old, _ := e.Old.(*corev1.Pod)
				if now, ok := e.New.(*corev1.Pod); ok && now.Spec.NodeName != "" && old != nil && old.Spec.NodeName == "" {
					count++
				}
			}
			if count == b.N {
				return all
			}
			return nil
		})
	}()
	<-watching
	b.ReportAllocs()
	b.ResetTimer()
	parallel(b.N, func(i int) { bed.pod(fmt.Sprint("p", i), "10m", change) })
	if err := <-bound; !errors.Is(err, all) {
		b.Fatal(err)
	}
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "pods/s")
}

// parallel calls a function with all numbers up to n, by 32 callers.
func parallel(n int, call func(i int)) {
	var next atomic.Int64
	var callers sync.WaitGroup
	for range 32 {
		callers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				call(i)
			}
		})
	}
	callers.Wait()
}
