package job_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/job"
	"github.com/kontiki/kontiki/controller/pods"
	"github.com/kontiki/kontiki/test/harness"
)

type bed struct {
	*harness.Harness
	t        testing.TB
	recorder *controllertest.Recorder
	ahead    atomic.Int64 // how much the controller's clock is ahead of the real one
}

// start runs the controller. Failed pods are replaced at once.
func start(t testing.TB) *bed {
	t.Helper()
	b := &bed{Harness: harness.New(t), t: t, recorder: controllertest.NewRecorder()}
	controllertest.Run(t, b.Client, job.New(job.Config{Client: b.Client, Recorder: b.recorder, FirstBackoff: time.Nanosecond, LongestBackoff: time.Nanosecond,
		Now: func() time.Time { return time.Now().Add(time.Duration(b.ahead.Load())) }})...)
	return b
}

func newJob(change func(*batchv1.JobSpec)) *batchv1.Job {
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "j"}, Spec: batchv1.JobSpec{
		Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}},
			Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}}
	change(&j.Spec)
	return j
}

func asIndexed(completions, parallelism int32) func(*batchv1.JobSpec) {
	return func(s *batchv1.JobSpec) {
		s.Completions, s.Parallelism, s.CompletionMode = &completions, &parallelism, ptr.To(batchv1.IndexedCompletion)
	}
}

func (b *bed) create(change func(*batchv1.JobSpec)) *batchv1.Job {
	b.t.Helper()
	return controllertest.Create(b.t, b.Client, newJob(change))
}

func (b *bed) change(change func(*batchv1.Job)) *batchv1.Job {
	b.t.Helper()
	return controllertest.Change(b.t, b.Client, "default", "j", change)
}

func (b *bed) await(what string, holds func(*batchv1.Job) bool) *batchv1.Job {
	b.t.Helper()
	return controllertest.Await(b.t, b.Client, "default", "j", what, holds)
}

// running waits until exactly so many pods are active, all of them known to the Job, and returns them in the order of their indexes.
func (b *bed) running(count int) (active []*corev1.Pod) {
	b.t.Helper()
	controllertest.AwaitView(b.t, b.Client, []client.Object{&corev1.Pod{}, &batchv1.Job{}}, func(v client.View) string {
		active = nil
		client.Each(v, "default", func(p *corev1.Pod) bool {
			if pods.Active(p) {
				active = append(active, p)
			}
			return true
		})
		j, ok := client.Get[*batchv1.Job](v, "default", "j")
		if len(active) != count || ok && j.Status.Active != int32(count) {
			return fmt.Sprintf("%d pods are active, want %d; %+v", len(active), count, j)
		}
		return ""
	})
	slices.SortFunc(active, func(x, y *corev1.Pod) int {
		return strings.Compare(x.Annotations[batchv1.JobCompletionIndexAnnotation], y.Annotations[batchv1.JobCompletionIndexAnnotation])
	})
	return active
}

// end ends pods with an exit code.
func (b *bed) end(exitCode int32, list ...*corev1.Pod) {
	b.t.Helper()
	for _, p := range list {
		controllertest.ChangeStatus(b.t, b.Client, "default", p.Name, func(p *corev1.Pod) { controllertest.Terminate(p, exitCode) })
	}
}

func condition(j *batchv1.Job, kind batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range j.Status.Conditions {
		if c := &j.Status.Conditions[i]; c.Type == kind && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

// ended waits until the Job is complete or failed, and checks what is true of every such Job.
func (b *bed) ended(as batchv1.JobConditionType, reason, message string) *batchv1.Job {
	b.t.Helper()
	j := b.await("ended as "+string(as), func(j *batchv1.Job) bool { return condition(j, as) != nil })
	before := map[batchv1.JobConditionType]batchv1.JobConditionType{batchv1.JobComplete: batchv1.JobSuccessCriteriaMet, batchv1.JobFailed: batchv1.JobFailureTarget}[as]
	for _, kind := range []batchv1.JobConditionType{before, as} {
		if c := condition(j, kind); c == nil || c.Reason != reason || c.Message != message {
			b.t.Errorf("condition %s is %+v", kind, c)
		}
	}
	if j.Status.Active != 0 || *j.Status.Ready != 0 || *j.Status.Terminating != 0 || len(j.Status.UncountedTerminatedPods.Succeeded)+len(j.Status.UncountedTerminatedPods.Failed) != 0 {
		b.t.Errorf("status %+v", j.Status)
	}
	if (j.Status.CompletionTime != nil) != (as == batchv1.JobComplete) {
		b.t.Errorf("completed at %v", j.Status.CompletionTime)
	}
	for _, p := range client.List[*corev1.Pod](b.Client.View(), "default", nil) {
		if slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) {
			b.t.Errorf("pod %s is still tracked", p.Name)
		}
	}
	return j
}

func TestPodsRunUntilEnoughHaveSucceeded(t *testing.T) {
	b := start(t)
	j := b.create(func(s *batchv1.JobSpec) { s.Completions, s.Parallelism = ptr.To[int32](3), ptr.To[int32](2) })
	first := b.running(2)
	for _, p := range first {
		ref := metav1.GetControllerOf(p)
		if ref == nil || ref.UID != j.UID || ref.Kind != "Job" || ref.APIVersion != "batch/v1" || !slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) ||
			p.Labels[batchv1.JobNameLabel] != "j" || p.Labels[batchv1.ControllerUidLabel] != string(j.UID) || p.Labels["app"] != "x" || !strings.HasPrefix(p.Name, "j-") {
			t.Errorf("pod %+v", p.ObjectMeta)
		}
	}
	controllertest.ChangeStatus(t, b.Client, "default", first[0].Name, func(p *corev1.Pod) { controllertest.MakeReady(p, true) })
	b.await("one ready", func(j *batchv1.Job) bool { return ptr.Deref(j.Status.Ready, 0) == 1 && j.Status.StartTime != nil })
	b.end(0, first[0])
	b.await("one counted", func(j *batchv1.Job) bool {
		return j.Status.Succeeded == 1 && len(j.Status.UncountedTerminatedPods.Succeeded) == 0
	})
	second := b.running(2)
	b.end(1, second[0])
	b.await("a failure counted", func(j *batchv1.Job) bool { return j.Status.Failed == 1 })
	b.end(0, b.running(2)...)
	j = b.ended(batchv1.JobComplete, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
	if j.Status.Succeeded != 3 || j.Status.Failed != 1 {
		t.Errorf("status %+v", j.Status)
	}
	b.recorder.Await(t, "Normal Completed Job completed")
	if n := len(b.recorder.Events("Normal SuccessfulCreate Created pod: j-")); n != 4 {
		t.Errorf("%d events for four pods", n)
	}
	if n := len(client.List[*corev1.Pod](b.Client.View(), "default", nil)); n != 4 {
		t.Errorf("%d pods are left: ended ones are kept", n)
	}
}

func TestWithoutCompletionsOneSuccessIsEnough(t *testing.T) {
	b := start(t)
	b.create(func(s *batchv1.JobSpec) { s.Parallelism = ptr.To[int32](3) })
	three := b.running(3)
	b.end(0, three[0])
	b.await("one succeeded", func(j *batchv1.Job) bool { return j.Status.Succeeded == 1 && j.Status.Active == 2 })
	b.end(1, three[1]) // is not replaced
	b.running(1)
	b.end(0, three[2])
	if j := b.ended(batchv1.JobComplete, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods"); j.Status.Succeeded != 2 || j.Status.Failed != 1 {
		t.Errorf("status %+v", j.Status)
	}
}

func TestNothingToDoIsComplete(t *testing.T) {
	b := start(t)
	b.create(func(s *batchv1.JobSpec) { s.Completions = ptr.To[int32](0) })
	b.ended(batchv1.JobComplete, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
}

func TestEachIndexSucceedsOnce(t *testing.T) {
	b := start(t)
	b.create(asIndexed(4, 3))
	three := b.running(3)
	for i, p := range three {
		index := fmt.Sprint(i)
		env := p.Spec.Containers[0].Env
		if p.Annotations[batchv1.JobCompletionIndexAnnotation] != index || p.Labels[batchv1.JobCompletionIndexAnnotation] != index || p.Spec.Hostname != "j-"+index ||
			!strings.HasPrefix(p.Name, "j-"+index+"-") || len(env) != 1 || env[0].Name != "JOB_COMPLETION_INDEX" ||
			env[0].ValueFrom.FieldRef.FieldPath != "metadata.labels['batch.kubernetes.io/job-completion-index']" {
			t.Errorf("pod %d: %+v, %+v", i, p.ObjectMeta, env)
		}
	}
	b.end(0, three[0], three[2])
	j := b.await("0 and 2 succeeded", func(j *batchv1.Job) bool { return j.Status.CompletedIndexes == "0,2" && j.Status.Active == 2 })
	if j.Status.Succeeded != 2 {
		t.Errorf("status %+v", j.Status)
	}
	b.end(1, three[1]) // its index gets another pod
	two := b.running(2)
	if two[0].Annotations[batchv1.JobCompletionIndexAnnotation] != "1" || two[1].Annotations[batchv1.JobCompletionIndexAnnotation] != "3" {
		t.Errorf("pods for %v and %v", two[0].Annotations, two[1].Annotations)
	}
	b.end(0, two...)
	if j := b.ended(batchv1.JobComplete, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods"); j.Status.CompletedIndexes != "0-3" || j.Status.Succeeded != 4 || j.Status.Failed != 1 {
		t.Errorf("status %+v", j.Status)
	}
}

// The completions of an Indexed Job change with its parallelism: what is beyond them does not count.
func TestAnIndexedJobIsElastic(t *testing.T) {
	b := start(t)
	controllertest.StartKubelet(t, b.Client)
	resize := func(n int32) { b.change(func(j *batchv1.Job) { j.Spec.Completions, j.Spec.Parallelism = &n, &n }) }
	b.create(asIndexed(4, 4))
	b.end(0, b.running(4)[3])
	b.await("3 succeeded", func(j *batchv1.Job) bool { return j.Status.CompletedIndexes == "3" && j.Status.Active == 3 })
	resize(2)
	j := b.await("two are left", func(j *batchv1.Job) bool {
		return j.Status.CompletedIndexes == "" && j.Status.Succeeded == 0 && j.Status.Active == 2
	})
	if j.Status.Failed != 0 {
		t.Errorf("what is not needed any more has failed: %+v", j.Status)
	}
	resize(3)
	three := b.running(3)
	if three[2].Annotations[batchv1.JobCompletionIndexAnnotation] != "2" {
		t.Errorf("pod %+v", three[2].ObjectMeta)
	}
	b.end(0, three...)
	if j := b.ended(batchv1.JobComplete, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods"); j.Status.CompletedIndexes != "0-2" {
		t.Errorf("status %+v", j.Status)
	}
}

// Of several pods with one index, and of pods without any, one is left for each index.
func TestOnePodAnIndex(t *testing.T) {
	b := start(t)
	b.create(asIndexed(2, 2))
	two := b.running(2)
	for i, index := range []string{"1", "", "7"} {
		p := two[1].DeepCopy()
		p.ObjectMeta = metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("extra", i), Labels: two[1].Labels, Finalizers: two[1].Finalizers, OwnerReferences: two[1].OwnerReferences,
			Annotations: map[string]string{batchv1.JobCompletionIndexAnnotation: index}}
		p.Spec.NodeName = ""
		controllertest.Create(t, b.Client, p)
	}
	for _, name := range []string{"extra1", "extra2"} {
		controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", name)
	}
	left := b.running(2)
	if left[0].Annotations[batchv1.JobCompletionIndexAnnotation] != "0" || left[1].Annotations[batchv1.JobCompletionIndexAnnotation] != "1" {
		t.Errorf("left are %v and %v", left[0].Annotations, left[1].Annotations)
	}
	if j := b.await("two active", func(j *batchv1.Job) bool { return j.Status.Active == 2 }); j.Status.Failed != 0 {
		t.Errorf("status %+v", j.Status)
	}
}

func TestTooManyFailures(t *testing.T) {
	b := start(t)
	controllertest.StartKubelet(t, b.Client)
	b.create(func(s *batchv1.JobSpec) {
		s.BackoffLimit, s.Parallelism, s.Completions = ptr.To[int32](1), ptr.To[int32](2), ptr.To[int32](5)
	})
	two := b.running(2)
	b.end(1, two[0])
	b.await("one failed", func(j *batchv1.Job) bool { return j.Status.Failed == 1 && j.Status.Active == 2 })
	b.end(1, two[1])
	j := b.ended(batchv1.JobFailed, batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	if j.Status.Failed != 3 {
		t.Errorf("a pod that was stopped because of that has failed, too: %+v", j.Status)
	}
	b.recorder.Await(t, "Warning BackoffLimitExceeded Job has reached the specified backoff limit")
}

func TestContainersRestartedTooOften(t *testing.T) {
	b := start(t)
	controllertest.StartKubelet(t, b.Client)
	b.create(func(s *batchv1.JobSpec) {
		s.BackoffLimit = ptr.To[int32](2)
		s.Template.Spec.RestartPolicy = corev1.RestartPolicyOnFailure
	})
	controllertest.ChangeStatus(t, b.Client, "default", b.running(1)[0].Name, func(p *corev1.Pod) {
		p.Status.Phase = corev1.PodRunning
		p.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c", RestartCount: 2}}
	})
	b.ended(batchv1.JobFailed, batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
}

// A failed pod is replaced after a delay that doubles, also by a controller that has just been started.
func TestReplacementsAreDelayed(t *testing.T) {
	h := harness.New(t)
	clock := controllertest.NewClock(time.Now())
	run := func() (stop func()) {
		return controllertest.Run(t, h.Client, job.New(job.Config{Client: h.Client, Recorder: controllertest.NewRecorder(), Now: clock.Now, FirstBackoff: time.Hour, LongestBackoff: 3 * time.Hour})...)
	}
	stop := run()
	b := &bed{Harness: h, t: t}
	b.create(func(s *batchv1.JobSpec) {})
	for failures, delay := range []time.Duration{time.Hour, 2 * time.Hour, 3 * time.Hour} {
		b.end(1, b.running(1)...)
		b.await("counted", func(j *batchv1.Job) bool { return int(j.Status.Failed) == failures+1 && j.Status.Active == 0 })
		clock.Advance(delay - time.Minute - time.Until(clock.Now()))
		if failures == 1 { // the new one knows of the failures only by the pods
			stop()
			stop = run()
		}
		// The Job is synchronized, since its other part is done, but has no pod.
		b.change(func(j *batchv1.Job) { metav1.SetMetaDataAnnotation(&j.ObjectMeta, "poke", fmt.Sprint(failures)) })
		b.running(0)
		clock.Advance(2 * time.Minute)
		b.change(func(j *batchv1.Job) {
			metav1.SetMetaDataAnnotation(&j.ObjectMeta, "poke", fmt.Sprint("again ", failures))
		})
	}
	b.running(1)
}

// The end of a pod, as its node tells it, delays its replacement no longer than the back-off, however far the node's clock is ahead.
func TestAClockThatIsAheadDelaysNothing(t *testing.T) {
	for name, change := range map[string]func(*batchv1.JobSpec){
		"in total": func(*batchv1.JobSpec) {}, "per index": func(s *batchv1.JobSpec) { asIndexed(1, 1)(s); s.BackoffLimitPerIndex = ptr.To[int32](5) },
	} {
		t.Run(name, func(t *testing.T) {
			b := start(t)
			b.create(change)
			first := b.running(1)[0]
			controllertest.ChangeStatus(t, b.Client, "default", first.Name, func(p *corev1.Pod) {
				controllertest.Terminate(p, 1)
				p.Status.ContainerStatuses[0].State.Terminated.FinishedAt = metav1.NewTime(time.Now().Add(time.Hour))
			})
			b.await("counted and replaced", func(j *batchv1.Job) bool { return j.Status.Failed == 1 && j.Status.Active == 1 })
		})
	}
}

func TestTheDeadline(t *testing.T) {
	b := start(t)
	controllertest.StartKubelet(t, b.Client)
	b.create(func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds = ptr.To[int64](60) })
	b.running(1)
	b.ahead.Add(int64(59 * time.Second))
	b.change(func(j *batchv1.Job) {
		j.Spec.Parallelism = ptr.To[int32](2)
		j.Spec.ActiveDeadlineSeconds = ptr.To[int64](90)
	})
	b.ahead.Add(int64(40 * time.Second))
	b.change(func(j *batchv1.Job) { metav1.SetMetaDataAnnotation(&j.ObjectMeta, "poke", "") })
	b.ended(batchv1.JobFailed, batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
	b.recorder.Await(t, "Warning DeadlineExceeded Job was active longer than specified deadline")
}

func TestADeadlineOfManyYears(t *testing.T) {
	b := start(t)
	controllertest.StartKubelet(t, b.Client)
	b.create(func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds = ptr.To[int64](math.MaxInt64) })
	b.end(0, b.running(1)...)
	b.await("complete", func(j *batchv1.Job) bool { return condition(j, batchv1.JobComplete) != nil })
}

// The controller itself wakes up for a deadline.
func TestTheDeadlineIsAwaited(t *testing.T) {
	h := harness.New(t)
	controllertest.Run(t, h.Client, job.New(job.Config{Client: h.Client, Recorder: controllertest.NewRecorder()})...)
	b := &bed{Harness: h, t: t}
	controllertest.StartKubelet(t, b.Client)
	b.create(func(s *batchv1.JobSpec) { s.ActiveDeadlineSeconds = ptr.To[int64](1) })
	b.ended(batchv1.JobFailed, batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
}

func TestSuspendAndResume(t *testing.T) {
	b := start(t)
	controllertest.StartKubelet(t, b.Client)
	b.create(func(s *batchv1.JobSpec) {
		s.Suspend, s.ActiveDeadlineSeconds, s.Parallelism, s.Completions = new(true), ptr.To[int64](60), ptr.To[int32](2), ptr.To[int32](2)
	})
	b.await("suspended", func(j *batchv1.Job) bool {
		return condition(j, batchv1.JobSuspended) != nil && j.Status.StartTime == nil
	})
	b.recorder.Await(t, "Normal Suspended Job suspended")
	b.change(func(j *batchv1.Job) { j.Spec.Suspend = new(false) })
	b.await("resumed", func(j *batchv1.Job) bool {
		return condition(j, batchv1.JobSuspended) == nil && j.Status.StartTime != nil
	})
	b.recorder.Await(t, "Normal Resumed Job resumed")
	b.end(0, b.running(2)[0])
	b.await("one counted", func(j *batchv1.Job) bool { return j.Status.Succeeded == 1 })
	b.change(func(j *batchv1.Job) { j.Spec.Suspend = new(true) })
	j := b.await("suspended again", func(j *batchv1.Job) bool {
		return condition(j, batchv1.JobSuspended) != nil && j.Status.Active == 0 && *j.Status.Terminating == 0
	})
	if j.Status.Failed != 0 || j.Status.Succeeded != 1 || j.Status.StartTime != nil {
		t.Errorf("a suspended pod has not failed: %+v", j.Status)
	}
	b.ahead.Add(int64(time.Hour)) // which is no part of the deadline
	b.change(func(j *batchv1.Job) { j.Spec.Suspend = new(false) })
	b.end(0, b.running(1)...)
	b.ended(batchv1.JobComplete, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods")
}

func TestAJobOfAnotherControllerIsLeftAlone(t *testing.T) {
	b := start(t)
	controllertest.Create(t, b.Client, func() *batchv1.Job {
		j := newJob(func(s *batchv1.JobSpec) { s.ManagedBy = new("example.com/other") })
		j.Name = "other"
		return j
	}())
	b.create(func(s *batchv1.JobSpec) { s.ManagedBy = new(batchv1.JobControllerName) })
	b.running(1)
	if j, _ := client.Get[*batchv1.Job](b.Client.View(), "default", "other"); j.Status.StartTime != nil || j.Status.Active != 0 {
		t.Errorf("status %+v", j.Status)
	}
}

func TestAPodIsReplacedWhenItHasEnded(t *testing.T) {
	for policy, early := range map[batchv1.PodReplacementPolicy]bool{batchv1.TerminatingOrFailed: true, batchv1.Failed: false} {
		t.Run(string(policy), func(t *testing.T) {
			b := start(t)
			kubelet := controllertest.StartKubelet(t, b.Client, controllertest.Keep(func(*corev1.Pod) bool { return true }))
			b.create(func(s *batchv1.JobSpec) { s.PodReplacementPolicy = &policy })
			p := controllertest.Await(t, b.Client, "default", b.running(1)[0].Name, "runs", pods.Ready)
			if err := b.Client.Delete(context.Background(), p); err != nil {
				t.Fatal(err)
			}
			if early {
				j := b.await("replaced, and counted", func(j *batchv1.Job) bool {
					return j.Status.Active == 1 && j.Status.Failed == 1 && *j.Status.Terminating == 1
				})
				b.running(int(j.Status.Active))
			} else {
				j := b.await("terminating", func(j *batchv1.Job) bool { return *j.Status.Terminating == 1 })
				if j.Status.Active != 0 || j.Status.Failed != 0 {
					t.Errorf("status %+v", j.Status)
				}
			}
			kubelet.Set(controllertest.Keep(func(*corev1.Pod) bool { return false }))
			// A change makes the kubelet look again, unless something else already has.
			if now, ok := client.Get[*corev1.Pod](b.Client.View(), "default", p.Name); ok {
				now = now.DeepCopy()
				metav1.SetMetaDataAnnotation(&now.ObjectMeta, "poke", "")
				if _, err := client.Update(context.Background(), b.Client, now); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
					t.Fatal(err)
				}
			}
			b.await("replaced once", func(j *batchv1.Job) bool {
				return j.Status.Active == 1 && j.Status.Failed == 1 && *j.Status.Terminating == 0
			})
			controllertest.AwaitGone[*corev1.Pod](t, b.Client, "default", p.Name)
			b.running(1)
		})
	}
}

func TestOrphansAndStrangers(t *testing.T) {
	b := start(t)
	j := b.create(func(s *batchv1.JobSpec) { s.Parallelism, s.Completions = ptr.To[int32](2), ptr.To[int32](3) })
	two := b.running(2)
	// A pod that stops matching is released, without the finalizer, and replaced.
	controllertest.Change(t, b.Client, "default", two[0].Name, func(p *corev1.Pod) { p.Labels = map[string]string{"free": "yes"} })
	free := controllertest.Await(t, b.Client, "default", two[0].Name, "released", func(p *corev1.Pod) bool { return len(p.OwnerReferences) == 0 })
	if len(free.Finalizers) != 0 {
		t.Errorf("finalizers %v", free.Finalizers)
	}
	b.await("replaced", func(j *batchv1.Job) bool { return j.Status.Active == 2 })
	// An orphan that matches is adopted and counted.
	controllertest.Change(t, b.Client, "default", two[1].Name, func(p *corev1.Pod) { p.OwnerReferences, p.Finalizers = nil, nil })
	controllertest.Await(t, b.Client, "default", two[1].Name, "adopted", func(p *corev1.Pod) bool {
		return pods.ControlledBy(p, j) && slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer)
	})
	b.end(0, two[1])
	b.await("counted", func(j *batchv1.Job) bool { return j.Status.Succeeded == 1 })
	// Without the Job nothing waits for its finalizer.
	if err := b.Client.Delete(context.Background(), j, client.Propagation(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
	controllertest.AwaitView(t, b.Client, []client.Object{&corev1.Pod{}}, func(v client.View) string {
		for _, p := range client.List[*corev1.Pod](v, "default", nil) {
			if len(p.Finalizers) > 0 {
				return p.Name + " is still tracked"
			}
		}
		return ""
	})
}
