package bench_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/kontiki/kontiki/test/devcluster"
)

// BenchmarkPodsToRunning creates pods at once, b.N times, and reports the time from a pod's creation to its Running phase in milliseconds,
// seen by a watch, and how many ran in a second.
func BenchmarkPodsToRunning(b *testing.B) {
	for _, count := range []int{1, 50} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			var times []time.Duration
			var all time.Duration
			for i := range b.N {
				begin := time.Now()
				times = append(times, startPods(b, cluster, fmt.Sprintf("start-%d-%d-%d", count, b.N, i), count, "")...)
				all += time.Since(begin)
				removePods(b, cluster)
			}
			slices.Sort(times)
			ms := func(p float64) float64 { return float64(times[int(p*float64(len(times)-1))].Microseconds()) / 1000 }
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(ms(0.5), "ms-p50")
			b.ReportMetric(ms(0.99), "ms-p99")
			b.ReportMetric(float64(len(times))/all.Seconds(), "pods/s")
		})
	}
}

// BenchmarkAgent reports the private memory of an agent in MB, and its CPU time as a part of a core in percent, with 0, 100 and 250 pods that do
// nothing, while b.N seconds pass.
func BenchmarkAgent(b *testing.B) {
	for _, count := range []int{0, 100, 250} {
		b.Run(fmt.Sprint(count), func(b *testing.B) {
			c, err := devcluster.Start(b.Output(), 1, 1, "--agent-arg=--max-pods=300")
			defer c.Stop() // what it leaves behind shows at the next start
			if err != nil {
				b.Fatal(err)
			}
			shared := cluster
			cluster = c
			defer func() { cluster = shared }()
			startPods(b, c, "idle", count, "worker-1")
			time.Sleep(15 * time.Second) // what starting left to do
			before, begin := cpu(b, "worker-1"), time.Now()
			for range b.N {
				time.Sleep(time.Second) // the rest is what is measured
			}
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(100*(cpu(b, "worker-1")-before).Seconds()/time.Since(begin).Seconds(), "%cpu")
			b.ReportMetric(memory(b, "worker-1"), "MB")
		})
	}
}

// startPods creates pods at once, on a node if it is not "", waits until they run, and returns how long each took.
func startPods(b *testing.B, c *devcluster.Cluster, name string, count int, node string) (took []time.Duration) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	pods := c.Set.CoreV1().Pods("default")
	w, err := pods.Watch(ctx, metav1.ListOptions{LabelSelector: "bench=pod"})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	created := make([]time.Time, count)
	made := make(chan error, count)
	for i := range count {
		p := pod(fmt.Sprintf("%s-%d", name, i))
		p.Spec.NodeName = node
		created[i] = time.Now()
		go func() {
			_, err := pods.Create(ctx, p, metav1.CreateOptions{})
			made <- err
		}()
	}
	for range count {
		if err := <-made; err != nil {
			b.Fatal(err)
		}
	}
	running := map[string]bool{}
	for len(running) < count {
		event, ok := <-w.ResultChan()
		if !ok {
			b.Fatalf("%d of %d pods run", len(running), count)
		}
		p, ok := event.Object.(*corev1.Pod)
		if !ok || p.Status.Phase != corev1.PodRunning || running[p.Name] {
			continue
		}
		running[p.Name] = true
		var i int
		if _, err := fmt.Sscanf(p.Name, name+"-%d", &i); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(created[i]))
	}
	return took
}

// removePods deletes the pods of the benchmark and waits until they are gone.
func removePods(b *testing.B, c *devcluster.Cluster) {
	b.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	pods := c.Set.CoreV1().Pods("default")
	list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: "bench=pod"})
	if err != nil {
		b.Fatal(err)
	}
	w, err := pods.Watch(ctx, metav1.ListOptions{LabelSelector: "bench=pod", ResourceVersion: list.ResourceVersion})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	if err := pods.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "bench=pod"}); err != nil {
		b.Fatal(err)
	}
	for left := len(list.Items); left > 0; {
		event, ok := <-w.ResultChan()
		if !ok {
			b.Fatalf("%d pods are left", left)
		}
		if event.Type == watch.Deleted {
			left--
		}
	}
}
