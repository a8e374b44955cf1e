// Package bench_test measures a whole cluster: the real binary, three masters and two workers on this machine, clients
// included. Nothing is asserted about time. Run it with `make bench`.
package bench_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"

	"github.com/kontiki/kontiki/test/devcluster"
)

var cluster *devcluster.Cluster

func TestMain(m *testing.M) {
	if os.Getenv("KONTIKI") == "" {
		fmt.Println("KONTIKI is not set: the whole-system benchmarks are run by `make bench`")
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	cluster, err = devcluster.Start(os.Stderr, 3, 2)
	defer cluster.Stop() // what it leaves behind shows at the next start
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func pod(name string) *corev1.Pod {
	zero := int64(0)
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"bench": "pod"}}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: &zero,
		Containers:                    []corev1.Container{{Name: "c", Image: "kontiki/tools:1", Command: []string{"tools", "sleep"}}},
	}}
}

// BenchmarkPodCreateToRunning measures the time from the creation of one pod to its Running phase, seen by a watch.
func BenchmarkPodCreateToRunning(b *testing.B) {
	ctx := context.Background()
	pods := cluster.Set.CoreV1().Pods("default")
	for i := range b.N {
		name := fmt.Sprintf("bench-%d-%d", b.N, i)
		w, err := pods.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := pods.Create(ctx, pod(name), metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		for event := range w.ResultChan() {
			if p, ok := event.Object.(*corev1.Pod); ok && p.Status.Phase == corev1.PodRunning {
				break
			}
		}
		w.Stop()
		b.StopTimer()
		if err := remove(ctx, name); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// remove deletes a pod and waits until it is gone.
func remove(ctx context.Context, name string) error {
	pods := cluster.Set.CoreV1().Pods("default")
	w, err := pods.Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return err
	}
	defer w.Stop()
	if err := pods.Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		return err
	}
	for event := range w.ResultChan() {
		if event.Type == watch.Deleted {
			return nil
		}
	}
	return fmt.Errorf("the watch of %s ended", name)
}

// BenchmarkFailover measures the time from kill -9 on the leader, including the command for it, to the next acknowledged write of a
// client outside the cluster.
func BenchmarkFailover(b *testing.B) {
	ctx := context.Background()
	var took []time.Duration
	for i := range b.N {
		b.StopTimer()
		leader, err := cluster.Leader()
		if err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		begin := time.Now()
		if _, err := cluster.Run("dev", "kill", leader); err != nil { // it returns once the process is gone
			b.Fatal(err)
		}
		for n := 0; ; n++ {
			one, cancel := context.WithTimeout(ctx, time.Second)
			_, err := cluster.Set.CoreV1().ConfigMaps("default").Create(one, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{
				Name: fmt.Sprintf("failover-%d-%d-%d", b.N, i, n)}}, metav1.CreateOptions{})
			cancel()
			if err == nil {
				break
			}
		}
		took = append(took, time.Since(begin))
		b.StopTimer()
		if _, err := cluster.Run("dev", "start", leader); err != nil {
			b.Fatal(err)
		}
		if err := well(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Milliseconds()), "ms-p50")
	b.ReportMetric(float64(took[len(took)*99/100].Milliseconds()), "ms-p99")
	b.ReportMetric(float64(took[len(took)-1].Milliseconds()), "ms-max")
}

// well waits until every master is healthy again.
func well() error {
	deadline := time.Now().Add(time.Minute)
	for {
		_, err := cluster.Run("cluster", "status")
		if err == nil || time.Now().After(deadline) {
			return err
		}
		time.Sleep(100 * time.Millisecond) // another process: there is no event to wait for
	}
}
