package job_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/job"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/test/harness"
)

// crashing is a store whose writes to Jobs and pods fail when asked, before or after they are committed.
type crashing struct {
	objects.Store
	mu      sync.Mutex
	random  *rand.Rand
	enabled bool
	crashed chan struct{} // a write has failed
}

func (c *crashing) Propose(ctx context.Context, command *kv.Command) (kv.Result, error) {
	before, after := c.decide(ctx, command)
	if before {
		return kv.Result{}, kv.ErrOutcomeUnknown
	}
	result, err := c.Store.Propose(ctx, command)
	if after && err == nil {
		return kv.Result{}, kv.ErrOutcomeUnknown
	}
	return result, err
}

func (c *crashing) decide(ctx context.Context, command *kv.Command) (before, after bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.enabled || ctx.Value(safe{}) != nil || !strings.HasPrefix(command.Ops[0].Key, "/batch/jobs/") && !strings.Contains(command.Ops[0].Key, "/pods/") {
		return false, false
	}
	switch c.random.IntN(25) {
	case 0:
		before = true
	case 1:
		after = true
	default:
		return false, false
	}
	select {
	case c.crashed <- struct{}{}:
	default:
	}
	return before, after
}

// safe marks contexts whose writes do not fail.
type safe struct{}

// TestAJobCountsExactly crashes the controller at random writes, committed or not, and starts it again. At no revision does the Job count
// a pod that has not ended, or one twice; in the end it has counted every one.
func TestAJobCountsExactly(t *testing.T) {
	for _, mode := range []batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion} {
		for seed := range uint64(3) {
			t.Run(fmt.Sprint(mode, seed), func(t *testing.T) { countExactly(t, mode, seed) })
		}
	}
}

func countExactly(t *testing.T, mode batchv1.CompletionMode, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 7))
	store := &crashing{random: random, crashed: make(chan struct{}, 1)}
	h := harness.NewOver(t, func(inner objects.Store) objects.Store {
		store.Store = inner
		return store
	})
	// The pods that have succeeded and failed, at each revision.
	succeeded, failed, indexes := map[types.UID]bool{}, map[types.UID]bool{}, map[string]bool{}
	controllertest.Follow(t, h.Client, []client.Object{&batchv1.Job{}, &corev1.Pod{}}, func(client.View) {}, func(events []client.Event) {
		for _, e := range events {
			switch obj := e.Object().(type) {
			case *corev1.Pod:
				switch {
				case obj.Status.Phase == corev1.PodSucceeded:
					succeeded[obj.UID] = true
					indexes[obj.Annotations[batchv1.JobCompletionIndexAnnotation]] = true
				case obj.Status.Phase == corev1.PodFailed:
					failed[obj.UID] = true
				}
			case *batchv1.Job:
				want := len(succeeded)
				if mode == batchv1.IndexedCompletion {
					want = len(indexes)
				}
				st := obj.Status
				if u := st.UncountedTerminatedPods; u != nil {
					st.Succeeded += int32(len(u.Succeeded))
					st.Failed += int32(len(u.Failed))
				}
				if int(st.Succeeded) > want || int(st.Failed) > len(failed) {
					t.Errorf("%d and %d pods have ended, but the Job counts %+v", want, len(failed), obj.Status)
				}
			}
		}
	})
	// Every fourth pod fails. The kubelet's own writes may fail, too: it is retried.
	controllertest.StartKubelet(t, h.Client, controllertest.End(func(p *corev1.Pod) (int32, bool) {
		if p.UID[0]%4 == 0 {
			return 1, true
		}
		return 0, true
	}))
	const completions = 60
	store.enabled = true
	run := func() (stop func()) {
		return controllertest.Run(t, h.Client, job.New(job.Config{Client: h.Client, Recorder: controllertest.NewRecorder(), FirstBackoff: time.Nanosecond, LongestBackoff: time.Nanosecond})...)
	}
	stop := run()
	made := newJob(func(s *batchv1.JobSpec) {
		s.Completions, s.Parallelism, s.BackoffLimit, s.CompletionMode = ptr.To[int32](completions), ptr.To[int32](20), ptr.To[int32](1000), &mode
	})
	if _, err := client.Create(context.WithValue(context.Background(), safe{}, true), h.Client, made); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = h.Client.ViewAndWatch(ctx, []client.Object{&batchv1.Job{}}, func(client.View) error { return nil }, func(events []client.Event) error {
			for _, e := range events {
				if j := e.Object().(*batchv1.Job); condition(j, batchv1.JobComplete) != nil || condition(j, batchv1.JobFailed) != nil {
					return context.Canceled
				}
			}
			return nil
		})
	}()
	crashes := 0
	for ended := false; !ended; {
		select {
		case <-done:
			ended = true
		case <-store.crashed:
			crashes++
			stop()
			stop = run()
		}
	}
	b := &bed{Harness: h, t: t}
	j := b.ended(batchv1.JobComplete, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
	ended := map[corev1.PodPhase]int{}
	for _, p := range client.List[*corev1.Pod](h.Client.View(), "default", nil) {
		ended[p.Status.Phase]++
	}
	if int(j.Status.Succeeded) != completions || ended[corev1.PodSucceeded] != completions || int(j.Status.Failed) != ended[corev1.PodFailed] || len(ended) != 2 {
		t.Errorf("of pods %v it counted %d and %d", ended, j.Status.Succeeded, j.Status.Failed)
	}
	if crashes < 3 {
		t.Errorf("only %d crashes", crashes)
	}
}

// A large Job is synchronized few times, its status stays small, and pods that were counted are not visited again.
func TestALargeJobCostsLittle(t *testing.T) {
	const completions = 600
	h := harness.New(t)
	writes, largest := 0, 0
	controllertest.Follow(t, h.Client, []client.Object{&batchv1.Job{}}, func(client.View) {}, func(events []client.Event) {
		for _, e := range events {
			writes++
			if j := e.Object().(*batchv1.Job); e.New != nil {
				largest = max(largest, j.Size())
			}
		}
	})
	controllertest.Run(t, h.Client, job.New(job.Config{Client: h.Client, Recorder: controllertest.NewRecorder()})...)
	controllertest.StartKubelet(t, h.Client, controllertest.End(func(*corev1.Pod) (int32, bool) { return 0, true }))
	b := &bed{Harness: h, t: t}
	b.create(func(s *batchv1.JobSpec) {
		s.Completions, s.Parallelism = ptr.To[int32](completions), ptr.To[int32](completions)
	})
	j := b.ended(batchv1.JobComplete, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
	if j.Status.Succeeded != completions {
		t.Errorf("status %+v", j.Status)
	}
	t.Logf("%d writes, up to %d bytes", writes, largest)
	if writes > completions/4 || largest > 50_000 {
		t.Errorf("%d writes of the Job, of up to %d bytes, for %d pods", writes, largest, completions)
	}
}

// BenchmarkJob runs Jobs whose pods all run at once, to their end: the time per pod must not grow with their number.
func BenchmarkJob(b *testing.B) {
	for _, completions := range []int32{1000, 10_000} {
		b.Run(fmt.Sprint("pods=", completions), func(b *testing.B) {
			for b.Loop() {
				h := harness.New(b)
				controllertest.Run(b, h.Client, job.New(job.Config{Client: h.Client, Recorder: controllertest.NewRecorder()})...)
				controllertest.StartKubelet(b, h.Client, controllertest.End(func(*corev1.Pod) (int32, bool) { return 0, true }))
				done := make(chan struct{})
				controllertest.Follow(b, h.Client, []client.Object{&batchv1.Job{}}, func(client.View) {}, func(events []client.Event) {
					for _, e := range events {
						if j := e.Object().(*batchv1.Job); condition(j, batchv1.JobComplete) != nil {
							close(done)
						}
					}
				})
				controllertest.Create(b, h.Client, newJob(func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = &completions, &completions }))
				<-done
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/float64(completions), "µs/pod")
		})
	}
}

// The cost of a Job depends on its own pods, however many others its namespace has, and not on those that were counted.
func TestAJobDoesNotScanTheNamespace(t *testing.T) {
	h, scans := harness.NewScanned(t, "pods", "jobs")
	const others = 300
	for i := range others {
		controllertest.Create(t, h.Client, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("other", i)},
			Spec: corev1.PodSpec{NodeName: "n2", Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
	}
	controllertest.Run(t, h.Client, job.New(job.Config{Client: h.Client, Recorder: controllertest.NewRecorder()})...)
	controllertest.StartKubelet(t, h.Client, controllertest.OnNode(func(p *corev1.Pod) string {
		if metav1.GetControllerOf(p) == nil {
			return ""
		}
		return "n1"
	}), controllertest.End(func(p *corev1.Pod) (int32, bool) { return 0, metav1.GetControllerOf(p) != nil }))
	for i, name := range []string{"first", "second", "third"} {
		if i == 1 {
			scans.Reset() // all indexes are made
		}
		j := newJob(func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = ptr.To[int32](20), ptr.To[int32](4) })
		j.Name = name
		controllertest.Create(t, h.Client, j)
		controllertest.Await(t, h.Client, "default", name, "complete", func(j *batchv1.Job) bool { return condition(j, batchv1.JobComplete) != nil })
	}
	if n := scans.Visited(); n >= others {
		t.Errorf("%d pods and Jobs were visited for forty", n)
	}
}
