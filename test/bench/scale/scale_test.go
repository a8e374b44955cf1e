// Package scale_test measures a whole cluster with many simulated workers (`kontiki dev --hollow`): the real binary, three masters, and
// workers that are real in all that masters see. Nothing is asserted about time. Run it with `make bench-scale`; HOLLOW and PODS set the
// numbers of workers and pods.
package scale_test

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"

	"github.com/kontiki/kontiki/test/devcluster"
)

// clients is how many clients create pods at a time.
const clients = 32

var cluster *devcluster.Cluster

func number(variable string, otherwise int) int {
	if n, err := strconv.Atoi(os.Getenv(variable)); err == nil && n > 0 {
		return n
	}
	return otherwise
}

func TestMain(m *testing.M) {
	if os.Getenv("KONTIKI") == "" {
		fmt.Println("KONTIKI is not set: these benchmarks are run by `make bench-scale`")
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	cluster, err = devcluster.Start(os.Stderr, 3, 0, "--hollow", strconv.Itoa(number("HOLLOW", 200)))
	defer cluster.Stop() // what it leaves behind shows at the next start
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

// shapes are the constraints of the pods, as in upstream's scheduler_perf.
var shapes = []struct {
	name string
	set  func(*corev1.PodSpec)
}{
	{"basic", func(*corev1.PodSpec) {}},
	{"spread", func(s *corev1.PodSpec) {
		s.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 5, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: alike()}}
	}},
	{"preferred-anti-affinity", func(s *corev1.PodSpec) {
		s.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
			{Weight: 1, PodAffinityTerm: corev1.PodAffinityTerm{TopologyKey: corev1.LabelHostname, LabelSelector: alike()}}}}}
	}},
	{"required-affinity", func(s *corev1.PodSpec) {
		s.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{
			{TopologyKey: corev1.LabelOSStable, LabelSelector: alike()}}}}
	}},
}

func alike() *metav1.LabelSelector {
	return &metav1.LabelSelector{MatchLabels: map[string]string{"bench": "scale"}}
}

func template(set func(*corev1.PodSpec)) corev1.PodTemplateSpec {
	t := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"bench": "scale"}}, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: new(int64),
		Containers: []corev1.Container{{Name: "c", Image: "example/app:1", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("100m"), corev1.ResourceMemory: resource.MustParse("128Mi")}}}},
	}}
	set(&t.Spec)
	return t
}

// BenchmarkPods creates pods on all workers, and reports how many a second are bound and run, from the first creation to the last binding
// and the last report that one runs; and how long the deletion of their namespace takes.
func BenchmarkPods(b *testing.B) {
	for _, shape := range shapes {
		b.Run(shape.name, func(b *testing.B) {
			for i := range b.N {
				pods(b, fmt.Sprintf("%s-%d-%d", shape.name, b.N, i), shape.set)
			}
		})
	}
}

func pods(b *testing.B, namespace string, set func(*corev1.PodSpec)) {
	ctx := context.Background()
	core, want := cluster.Set.CoreV1(), number("PODS", 2000)
	if _, err := core.Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	seen := follow(b, namespace, want)
	begin := time.Now()
	var next atomic.Int64
	var callers sync.WaitGroup
	for range clients {
		callers.Go(func() {
			for i := int(next.Add(1)); i <= want; i = int(next.Add(1)) {
				t := template(set)
				p := &corev1.Pod{ObjectMeta: t.ObjectMeta, Spec: t.Spec}
				p.Name = fmt.Sprint("p-", i)
				if _, err := core.Pods(namespace).Create(ctx, p, metav1.CreateOptions{}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	callers.Wait()
	times := <-seen
	if times.err != nil {
		b.Fatal(times.err)
	}
	b.ReportMetric(float64(want)/times.bound.Sub(begin).Seconds(), "bound/s")
	b.ReportMetric(float64(want)/times.running.Sub(begin).Seconds(), "running/s")
	removed := time.Now()
	removeNamespace(b, cluster.Set, namespace)
	b.ReportMetric(float64(want)/time.Since(removed).Seconds(), "deleted/s")
}

// times are when the last of all pods was seen bound, and running.
type times struct {
	bound, running time.Time
	err            error
}

// follow watches the pods of a namespace until as many as wanted run.
func follow(b *testing.B, namespace string, want int) <-chan times {
	w, err := cluster.Set.CoreV1().Pods(namespace).Watch(context.Background(), metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	out := make(chan times, 1)
	go func() {
		defer w.Stop()
		var t times
		bound, running := map[string]bool{}, map[string]bool{}
		for event := range w.ResultChan() {
			p, ok := event.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			if p.Spec.NodeName != "" && !bound[p.Name] {
				bound[p.Name], t.bound = true, time.Now()
			}
			if p.Status.Phase == corev1.PodRunning && !running[p.Name] {
				running[p.Name], t.running = true, time.Now()
			}
			if len(running) == want {
				out <- t
				return
			}
		}
		t.err = fmt.Errorf("the watch ended when %d of %d pods were bound and %d ran", len(bound), want, len(running))
		out <- t
	}()
	return out
}

func removeNamespace(b *testing.B, set kubernetes.Interface, name string) {
	ctx := context.Background()
	w, err := set.CoreV1().Namespaces().Watch(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	if err := set.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	for event := range w.ResultChan() {
		if event.Type == watch.Deleted {
			return
		}
	}
	b.Fatalf("the watch of namespace %s ended", name)
}

// BenchmarkJob runs a Job of many pods that end at once, and reports how many a second are completed and counted.
func BenchmarkJob(b *testing.B) {
	ctx := context.Background()
	want := int32(number("PODS", 2000))
	for i := range b.N {
		namespace := fmt.Sprintf("job-%d-%d", b.N, i)
		if _, err := cluster.Set.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		t := template(func(s *corev1.PodSpec) {
			s.RestartPolicy, s.Containers[0].Command = corev1.RestartPolicyNever, []string{"true"}
		})
		jobs := cluster.Set.BatchV1().Jobs(namespace)
		w, err := jobs.Watch(ctx, metav1.ListOptions{})
		if err != nil {
			b.Fatal(err)
		}
		begin := time.Now()
		parallel := min(want, 1000)
		if _, err := jobs.Create(ctx, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j"}, Spec: batchv1.JobSpec{
			Completions: &want, Parallelism: &parallel, Template: t}}, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		done := false
		for event := range w.ResultChan() {
			if j, ok := event.Object.(*batchv1.Job); ok && j.Status.CompletionTime != nil {
				if j.Status.Succeeded != want {
					b.Errorf("the Job counts %d, want %d", j.Status.Succeeded, want)
				}
				done = true
				break
			}
		}
		w.Stop()
		if !done {
			b.Fatal("the watch of the Job ended")
		}
		b.ReportMetric(float64(want)/time.Since(begin).Seconds(), "completed/s")
		removeNamespace(b, cluster.Set, namespace)
	}
}
