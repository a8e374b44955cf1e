package bench_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
)

const (
	// burst is how many writes are made, half of them creations of pods, the other half their deletions.
	burst = 50000
	// burstRest is how long the cluster is idle after the burst: longer than the time after which a master forgets what it need not keep.
	burstRest = 10 * time.Minute
)

// BenchmarkMemoryAfterBurst writes a lot that leaves nothing behind, and reports the private memory of the masters (in MB; the highest
// of the three) at its end and after ten idle minutes.
func BenchmarkMemoryAfterBurst(b *testing.B) {
	config := rest.CopyConfig(cluster.Config)
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		b.Fatal(err)
	}
	pods := set.CoreV1().Pods("default")
	none := int64(0)
	for range b.N {
		var todo atomic.Int64
		todo.Store(burst / 2)
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				for todo.Add(-1) >= 0 {
					p := pod("")
					p.Name, p.GenerateName, p.Spec.SchedulerName = "", "burst-", "none"
					made, err := pods.Create(context.Background(), p, metav1.CreateOptions{})
					if err == nil {
						err = pods.Delete(context.Background(), made.Name, metav1.DeleteOptions{GracePeriodSeconds: &none})
					}
					if err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		b.ReportMetric(highest(b), "MB-burst")
		time.Sleep(burstRest) // the idle time is what is measured: there is no event to wait for
		b.ReportMetric(highest(b), "MB-rested")
	}
	b.ReportMetric(0, "ns/op")
}

// highest returns the private memory of the master that has most.
func highest(b *testing.B) (most float64) {
	for _, name := range masterNames {
		most = max(most, memory(b, name))
	}
	return most
}
