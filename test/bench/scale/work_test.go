package scale_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

// BenchmarkRollout replaces all pods of a Deployment of 1,000 replicas (or PODS, if these are fewer).
func BenchmarkRollout(b *testing.B) {
	for range b.N {
		ctx := limited(b)
		deployments := cluster.Set.AppsV1().Deployments(newNamespace(ctx, b, "rollout"))
		replicas := int32(min(1000, podsOf()))
		b.ReportMetric(awaitRollout(ctx, b, deployments.Watch, func() (*appsv1.Deployment, error) {
			return deployments.Create(ctx, deployment("web", replicas), metav1.CreateOptions{})
		}, replicas).Seconds(), "s-first")
		b.ReportMetric(awaitRollout(ctx, b, deployments.Watch, func() (*appsv1.Deployment, error) {
			d, err := deployments.Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				return nil, err
			}
			d.Spec.Template.Spec.Containers[0].Image = "example/app:2"
			return deployments.Update(ctx, d, metav1.UpdateOptions{})
		}, replicas).Seconds(), "s-rollout")
	}
}

func deployment(name string, replicas int32) *appsv1.Deployment {
	p := newPod("")
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: alike("scale"),
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: p.Labels}, Spec: p.Spec}}}
}

// awaitRollout changes a Deployment and returns how long it takes until all its pods are new and available.
func awaitRollout(ctx context.Context, b *testing.B, watchAll func(context.Context, metav1.ListOptions) (watch.Interface, error), change func() (*appsv1.Deployment, error), replicas int32) time.Duration {
	b.Helper()
	w, err := watchAll(ctx, metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	defer w.Stop()
	begin := time.Now()
	changed, err := change()
	if err != nil {
		b.Fatal(err)
	}
	for event := range w.ResultChan() {
		d, ok := event.Object.(*appsv1.Deployment)
		if ok && d.Status.ObservedGeneration >= changed.Generation && d.Status.UpdatedReplicas == replicas && d.Status.Replicas == replicas && d.Status.AvailableReplicas == replicas {
			return time.Since(begin)
		}
	}
	b.Fatal("the watch of the Deployment ended")
	return 0
}

// BenchmarkNamespaceDeletion deletes a namespace of many ConfigMaps.
func BenchmarkNamespaceDeletion(b *testing.B) {
	for range b.N {
		ctx := limited(b)
		namespace, n := newNamespace(ctx, b, "objects"), objects()
		begin := time.Now()
		if err := each(ctx, n, func(i int) error {
			_, err := cluster.Set.CoreV1().ConfigMaps(namespace).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c-", i)},
				Data: map[string]string{"key": "value"}}, metav1.CreateOptions{})
			return err
		}); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(n)/time.Since(begin).Seconds(), "created/s")
		begin = time.Now()
		if err := removeNamespace(ctx, namespace); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(n)/time.Since(begin).Seconds(), "deleted/s")
		b.ReportMetric(time.Since(begin).Seconds(), "s-deletion")
	}
}

// BenchmarkJob runs a Job of many pods that end at once, and reports how many a second are completed and counted, the masters' peak memory
// together, what a master's folder of Raft logs has grown to, and how long a follower takes from its start to its readiness after that.
func BenchmarkJob(b *testing.B) {
	want := int32(number("JOBPODS", podsOf()))
	for range b.N {
		ctx := limited(b)
		namespace := newNamespace(ctx, b, "job")
		p := newPod("")
		p.Spec.RestartPolicy, p.Spec.Containers[0].Command = corev1.RestartPolicyNever, []string{"true"}
		jobs := cluster.Set.BatchV1().Jobs(namespace)
		w, err := jobs.Watch(ctx, metav1.ListOptions{})
		if err != nil {
			b.Fatal(err)
		}
		defer w.Stop()
		if err := resetPeak(); err != nil {
			b.Fatal(err)
		}
		begin, parallel := time.Now(), min(want, 1000)
		if _, err := jobs.Create(ctx, &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j"}, Spec: batchv1.JobSpec{Completions: &want, Parallelism: &parallel,
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: p.Labels}, Spec: p.Spec}}}, metav1.CreateOptions{}); err != nil {
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
		if !done {
			b.Fatal("the watch of the Job ended")
		}
		b.ReportMetric(float64(want)/time.Since(begin).Seconds(), "completed/s")
		used, err := mastersUse()
		if err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(used.peak)/float64(len(masters))/(1<<20), "MiB-peak/master")
		restart(ctx, b)
	}
}

// restart kills a follower, starts it again, and reports how long it takes to be ready and how large its logs are.
func restart(ctx context.Context, b *testing.B) {
	b.Helper()
	leader, err := cluster.Leader()
	if err != nil {
		b.Fatal(err)
	}
	follower := masters[0]
	if follower == leader {
		follower = masters[1]
	}
	size, err := logSize(follower)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(size)/(1<<20), "MiB-raft")
	if _, err := cluster.Run("dev", "kill", follower); err != nil {
		b.Fatal(err)
	}
	begin := time.Now()
	if _, err := cluster.Run("dev", "start", follower); err != nil {
		b.Fatal(err)
	}
	for {
		if _, err = cluster.Run("cluster", "status"); err == nil {
			break
		}
		select {
		case <-time.After(100 * time.Millisecond): // another process: there is no event to wait for
		case <-ctx.Done():
			b.Fatal(err)
		}
	}
	b.ReportMetric(time.Since(begin).Seconds(), "s-restart")
}

// silentLimit is how long a pod may be Pending without a condition that says why.
const silentLimit = time.Minute

// BenchmarkFlaps drains nodes and deletes their Node objects, which their workers register again, while a Deployment keeps its pods. It
// reports how long that takes until all pods are available again, and the longest time that one was Pending without a reason.
func BenchmarkFlaps(b *testing.B) {
	for range b.N {
		ctx := limited(b)
		namespace, flaps := newNamespace(ctx, b, "flaps"), number("FLAPS", 200)
		deployments := cluster.Set.AppsV1().Deployments(namespace)
		replicas := int32(min(1000, podsOf()))
		awaitRollout(ctx, b, deployments.Watch, func() (*appsv1.Deployment, error) {
			return deployments.Create(ctx, deployment("web", replicas), metav1.CreateOptions{})
		}, replicas)
		silent := followPending(ctx, b, namespace)
		begin := time.Now()
		if err := each(ctx, flaps, func(i int) error { return flap(ctx, namespace, fmt.Sprintf("hollow-%05d", 1+i%hollow())) }); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(float64(flaps)/time.Since(begin).Seconds(), "flaps/s")
		awaitRollout(ctx, b, deployments.Watch, func() (*appsv1.Deployment, error) {
			return deployments.Get(ctx, "web", metav1.GetOptions{})
		}, replicas)
		b.ReportMetric(time.Since(begin).Seconds(), "s-until-available")
		longest, pod := silent()
		b.ReportMetric(longest.Seconds(), "s-silent-max")
		if longest > silentLimit {
			b.Errorf("pod %s was Pending for %s without a reason", pod, longest)
		}
	}
}

// flap cordons a node, evicts the namespace's pods there, and deletes the Node. Its worker registers it again.
func flap(ctx context.Context, namespace, node string) error {
	core := cluster.Set.CoreV1()
	if n, err := core.Nodes().Get(ctx, node, metav1.GetOptions{}); err == nil {
		n.Spec.Unschedulable = true
		if _, err := core.Nodes().Update(ctx, n, metav1.UpdateOptions{}); err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return err
		}
	}
	pods, err := core.Pods(namespace).List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + node})
	if err != nil {
		return err
	}
	for _, p := range pods.Items {
		err := core.Pods(namespace).EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: p.Name, Namespace: namespace}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsTooManyRequests(err) {
			return err
		}
	}
	if err := core.Nodes().Delete(ctx, node, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	return nil
}

// followPending watches a namespace's pods. The function that it returns ends that, and returns the longest time for which one was Pending
// and no condition said why, and its name.
func followPending(ctx context.Context, b *testing.B, namespace string) func() (time.Duration, string) {
	w, err := cluster.Set.CoreV1().Pods(namespace).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		b.Fatal(err)
	}
	var mu sync.Mutex
	since := map[string]time.Time{}
	var longest time.Duration
	var whose string
	note := func(pod string) {
		if began, ok := since[pod]; ok && time.Since(began) > longest {
			longest, whose = time.Since(began), pod
		}
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for event := range w.ResultChan() {
			p, ok := event.Object.(*corev1.Pod)
			if !ok {
				continue
			}
			mu.Lock()
			if event.Type != watch.Deleted && p.Status.Phase == corev1.PodPending && !explained(p) {
				if _, ok := since[p.Name]; !ok {
					since[p.Name] = time.Now()
				}
			} else {
				note(p.Name)
				delete(since, p.Name)
			}
			mu.Unlock()
		}
	}()
	return func() (time.Duration, string) {
		w.Stop()
		<-ended
		mu.Lock()
		defer mu.Unlock()
		for pod := range since {
			note(pod)
		}
		return longest, whose
	}
}

// explained says whether a condition says why a pod is not placed.
func explained(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse && c.Message != "" {
			return true
		}
	}
	return false
}
