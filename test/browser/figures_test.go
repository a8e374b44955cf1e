package browser

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/test/devcluster"
)

// TestFigures measures the page with as many pods as FIGURES says, in a cluster of one master, whose pods no scheduler takes. It asserts no times, so `make browser` leaves it out.
func TestFigures(t *testing.T) {
	pods, _ := strconv.Atoi(os.Getenv("FIGURES"))
	if pods == 0 {
		t.Skip("FIGURES is no number of pods; `make dashboard-figures` sets it")
	}
	cluster, err := devcluster.Start(os.Stderr, 1, 0)
	t.Cleanup(func() {
		if err := cluster.Stop(); err != nil {
			t.Errorf("stop the cluster: %v", err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := createPods(t.Context(), cluster, pods); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PODS", fmt.Sprint(pods))
	runTests(t, cluster, "figures.ts")
}

func createPods(ctx context.Context, cluster *devcluster.Cluster, pods int) error {
	const ns = "many"
	if _, err := cluster.Set.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{}); err != nil {
		return err
	}
	// Pods need it, and its controller makes it a moment after the namespace.
	account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}
	if _, err := cluster.Set.CoreV1().ServiceAccounts(ns).Create(ctx, account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		return err
	}
	numbers := make(chan int)
	var (
		group sync.WaitGroup
		once  sync.Once
		first error
	)
	for range 32 {
		group.Go(func() {
			for i := range numbers {
				pod := &corev1.Pod{
					ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("many-%05d", i), Labels: map[string]string{"app": "many", "shard": fmt.Sprint(i % 100)}},
					Spec:       corev1.PodSpec{SchedulerName: "none", Containers: []corev1.Container{{Name: "app", Image: "registry.example/app:1"}}},
				}
				if _, err := cluster.Set.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
					once.Do(func() { first = fmt.Errorf("pod %d: %w", i, err) })
				}
			}
		})
	}
	for i := range pods {
		numbers <- i
	}
	close(numbers)
	group.Wait()
	return first
}
