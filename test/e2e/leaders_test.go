package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand"
	"os"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/test/await"
)

// TestLeadersDieAtWork: the leading master is killed, at random points, while pods preempt others, while gangs do, and while a namespace
// with many objects is deleted. The next leader brings each to its end: as many pods are preempted as need room and no more, a gang is
// placed in one instant, and the namespace is gone.
func TestLeadersDieAtWork(t *testing.T) {
	const workers, perWorker, rounds, preempting = 6, 4, 2, 5
	ownCluster(t, os.Getenv("KONTIKI"), 3, 0, "--hollow", fmt.Sprint(workers))
	seed := time.Now().UnixNano()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewSource(seed))
	must(t, "kubectl", "create", "priorityclass", "low", "--value=1")
	must(t, "kubectl", "create", "priorityclass", "high", "--value=100")
	// The workers are full of pods that may be preempted.
	var low []*corev1.Pod
	for i := range workers * perWorker {
		low = append(low, filling("low", fmt.Sprint("low-", i)))
	}
	createAll(t, low)
	placedAll(t, "low", workers*perWorker)
	left := workers * perWorker
	preempted := func(by string, n int) {
		t.Helper()
		left -= n
		placedAll(t, by, n)
		await.That(t, "the victims to be gone, and no others", func() error {
			list, err := listed("app=low")
			if err != nil {
				return err
			}
			if len(list) < left {
				t.Fatalf("%d pods are left of those that may be preempted, want %d", len(list), left)
			}
			for i := range list {
				if len(list) == left && list[i].DeletionTimestamp != nil {
					t.Fatalf("%s is deleted for nothing", list[i].Name)
				}
			}
			if len(list) > left {
				return fmt.Errorf("%d are left, want %d", len(list), left)
			}
			return nil
		})
	}
	t.Run("preemption", func(t *testing.T) {
		for round := range rounds {
			app := fmt.Sprint("high-", round)
			var high []*corev1.Pod
			for i := range preempting {
				high = append(high, filling("high", fmt.Sprint(app, "-", i), "app", app))
			}
			leaderDies(t, random, 300*time.Millisecond, func() { createAll(t, high) })
			preempted(app, preempting)
		}
	})
	t.Run("a gang", func(t *testing.T) {
		for round := range rounds {
			app := fmt.Sprint("gang-", round)
			var members []*corev1.Pod
			for i := range preempting {
				p := filling("high", fmt.Sprint(app, "-", i), "app", app, "kontiki.io/gang", app)
				p.Annotations = map[string]string{"kontiki.io/gang-size": fmt.Sprint(preempting)}
				members = append(members, p)
			}
			whole := neverHalf(t, app, preempting)
			leaderDies(t, random, 300*time.Millisecond, func() { createAll(t, members) })
			preempted(app, preempting)
			whole()
		}
	})
	t.Run("deletion of a namespace", func(t *testing.T) {
		const objects = 1000
		ctx := t.Context()
		for round := range rounds {
			name := fmt.Sprint("full-", round)
			must(t, "kubectl", "create", "namespace", name)
			each(t, objects, func(i int) error {
				_, err := env.Set.CoreV1().ConfigMaps(name).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("c", i)}}, metav1.CreateOptions{})
				return err
			})
			leaderDies(t, random, 500*time.Millisecond, func() {
				each(t, 1, func(int) error {
					err := env.Set.CoreV1().Namespaces().Delete(ctx, name, metav1.DeleteOptions{})
					if apierrors.IsNotFound(err) || apierrors.IsConflict(err) { // an earlier try was carried out
						return nil
					}
					return err
				})
			})
			await.That(t, "the namespace to be gone", func() error {
				n, err := env.Set.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
				if apierrors.IsNotFound(err) {
					return nil
				}
				if err == nil {
					err = fmt.Errorf("its conditions are %+v", n.Status.Conditions)
				}
				return err
			})
			await.That(t, "a list of what was in it", func() error {
				list, err := env.Set.CoreV1().ConfigMaps(name).List(ctx, metav1.ListOptions{})
				if err == nil && len(list.Items) > 0 {
					t.Fatalf("%d objects are left of a namespace that is gone", len(list.Items))
				}
				return err
			})
		}
	})
}

// filling returns a pod that takes a quarter of a simulated worker, with a label app, its class by default, and others.
func filling(class, name string, labels ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": class}}, Spec: corev1.PodSpec{
		PriorityClassName: class, TerminationGracePeriodSeconds: ptr.To[int64](1),
		Containers: []corev1.Container{{Name: "c", Image: "example/any", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("8")}}}}}}
	for i := 0; i < len(labels); i += 2 {
		p.Labels[labels[i]] = labels[i+1]
	}
	return p
}

// each calls a function for all numbers up to n, at the same time for several, and again as long as it fails: masters are being killed.
func each(t *testing.T, n int, call func(i int) error) {
	t.Helper()
	var callers sync.WaitGroup
	next := make(chan int)
	for range min(n, 16) {
		callers.Go(func() {
			for i := range next {
				var err error
				for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) { // no event tells that a master serves again
					if err = call(i); err == nil || time.Now().After(deadline) {
						break
					}
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	callers.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func createAll(t *testing.T, pods []*corev1.Pod) {
	t.Helper()
	each(t, len(pods), func(i int) error {
		_, err := env.Set.CoreV1().Pods("default").Create(t.Context(), pods[i], metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) { // by a try that seemed to fail
			return nil
		}
		return err
	})
}

func listed(selector string) ([]corev1.Pod, error) {
	list, err := env.Set.CoreV1().Pods("default").List(context.Background(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, err
	}
	return list.Items, nil
}

func placedAll(t *testing.T, app string, n int) {
	t.Helper()
	await.That(t, "the pods of "+app+" to be placed", func() error {
		list, err := listed("app=" + app)
		if err != nil {
			return err
		}
		if bound := boundOf(list); bound != n {
			return fmt.Errorf("%d of %d are", bound, n)
		}
		return nil
	})
}

func boundOf(list []corev1.Pod) (n int) {
	for i := range list {
		if list[i].Spec.NodeName != "" {
			n++
		}
	}
	return n
}

// leaderDies kills the leading master at a random time after something has begun, and starts it again when the others have a leader.
func leaderDies(t *testing.T, random *rand.Rand, within time.Duration, begin func()) {
	t.Helper()
	leader, err := env.Leader()
	if err != nil {
		t.Fatal(err)
	}
	delay := time.Duration(random.Int63n(int64(within)))
	killed := make(chan error, 1)
	go func() {
		time.Sleep(delay) // any point is as good as another: it is not awaited
		_, err := kontiki("dev", "kill", leader)
		killed <- err
	}()
	begin()
	if err := <-killed; err != nil {
		t.Fatal(err)
	}
	must(t, "dev", "start", leader)
	healthy(t)
}

// neverHalf watches the pods of a gang until the returned function is called, which fails the test if not all were bound at once: no
// list shows some of them bound, and all bindings have one resource version, that of the command that carried them out.
func neverHalf(t *testing.T, app string, size int) (whole func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	look := func() error {
		list, err := env.Set.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
		if err != nil {
			return nil // a master is being killed
		}
		if n := boundOf(list.Items); n != 0 && n != size {
			return fmt.Errorf("%d of %d pods of the gang are bound", n, size)
		}
		// Until the next failure, every change makes a list.
		watch, err := env.Set.CoreV1().Pods("default").Watch(ctx, metav1.ListOptions{LabelSelector: "app=" + app, ResourceVersion: list.ResourceVersion})
		if err != nil {
			return nil
		}
		defer watch.Stop()
		for range watch.ResultChan() {
			list, err := listed("app=" + app)
			if err != nil {
				return nil
			}
			if n := boundOf(list); n != 0 && n != size {
				return fmt.Errorf("%d of %d pods of the gang are bound", n, size)
			}
		}
		return nil
	}
	go func() {
		for ctx.Err() == nil {
			if err := look(); err != nil {
				done <- err
				return
			}
			select {
			case <-ctx.Done():
			case <-time.After(20 * time.Millisecond): // not in a loop while no master answers
			}
		}
		done <- nil
	}()
	return func() {
		t.Helper()
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
}
