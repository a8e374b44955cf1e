package cronjob_test

import (
	"context"
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/controller/cronjob"
	"github.com/kontiki/kontiki/test/harness"
)

type bed struct {
	*harness.Harness
	t        testing.TB
	recorder *controllertest.Recorder
	clock    *controllertest.Clock
	synced   chan int64 // the generation of each CronJob that was synchronized
}

// start runs the controller with a clock that shows now.
func start(t testing.TB, now string) *bed {
	t.Helper()
	at, err := time.Parse(time.RFC3339, now)
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{harness.New(t), t, controllertest.NewRecorder(), controllertest.NewClock(at), make(chan int64, 1000)}
	c := cronjob.New(cronjob.Config{Client: b.Client, Recorder: b.recorder, Now: b.clock.Now, CheckClock: 5 * time.Millisecond})
	reconcile := c.Reconcile
	c.Reconcile = func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
		result, err := reconcile(ctx, v, key)
		if cj, ok := client.Get[*batchv1.CronJob](v, key.Namespace, key.Name); ok {
			b.synced <- cj.Generation
		}
		return result, err
	}
	controllertest.Run(t, b.Client, c)
	return b
}

// awaitSync waits until the CronJob was synchronized as it is now.
func (b *bed) awaitSync() {
	b.t.Helper()
	cj, _ := client.Get[*batchv1.CronJob](b.Client.View(), "default", "c")
	deadline := time.After(30 * time.Second)
	for {
		select {
		case generation := <-b.synced:
			if generation == cj.Generation {
				return
			}
		case <-deadline:
			b.t.Fatal("it was not synchronized")
		}
	}
}

// create creates a CronJob that was last scheduled when the clock started.
func (b *bed) create(schedule string, change func(*batchv1.CronJobSpec)) {
	b.t.Helper()
	cj := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "c"}, Spec: batchv1.CronJobSpec{Schedule: schedule, Suspend: new(true),
		JobTemplate: batchv1.JobTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "x"}, Annotations: map[string]string{"a": "b"}},
			Spec: batchv1.JobSpec{Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}}}}
	change(&cj.Spec)
	controllertest.Create(b.t, b.Client, cj)
	last := metav1.NewTime(b.clock.Now())
	controllertest.ChangeStatus(b.t, b.Client, "default", "c", func(cj *batchv1.CronJob) { cj.Status.LastScheduleTime = &last })
	b.change(func(cj *batchv1.CronJob) { cj.Spec.Suspend = new(false) })
}

func (b *bed) change(change func(*batchv1.CronJob)) {
	b.t.Helper()
	controllertest.Change(b.t, b.Client, "default", "c", change)
}

// scheduled waits until the last Job was scheduled at a time, and returns it.
func (b *bed) scheduled(at string) *batchv1.Job {
	b.t.Helper()
	want, err := time.Parse(time.RFC3339, at)
	if err != nil {
		b.t.Fatal(err)
	}
	controllertest.Await(b.t, b.Client, "default", "c", "scheduled at "+at, func(cj *batchv1.CronJob) bool {
		return cj.Status.LastScheduleTime != nil && cj.Status.LastScheduleTime.Time.Equal(want)
	})
	return controllertest.Await(b.t, b.Client, "default", fmt.Sprint("c-", want.Unix()/60), "created", func(*batchv1.Job) bool { return true })
}

func (b *bed) jobs() (names []string) {
	for _, j := range client.List[*batchv1.Job](b.Client.View(), "default", nil) {
		if j.DeletionTimestamp == nil {
			names = append(names, j.Name)
		}
	}
	return names
}

// finish ends a Job at the clock's time.
func (b *bed) finish(j *batchv1.Job, as batchv1.JobConditionType) {
	b.t.Helper()
	before := batchv1.JobSuccessCriteriaMet
	if as == batchv1.JobFailed {
		before = batchv1.JobFailureTarget
	}
	now := metav1.NewTime(b.clock.Now())
	controllertest.ChangeStatus(b.t, b.Client, "default", j.Name, func(j *batchv1.Job) {
		j.Status.StartTime = &now
		if as == batchv1.JobComplete {
			j.Status.CompletionTime = &now
		}
		for _, kind := range []batchv1.JobConditionType{before, as} {
			j.Status.Conditions = append(j.Status.Conditions, batchv1.JobCondition{Type: kind, Status: corev1.ConditionTrue, LastProbeTime: now, LastTransitionTime: now})
		}
	})
}

func (b *bed) active(count int) *batchv1.CronJob {
	b.t.Helper()
	return controllertest.Await(b.t, b.Client, "default", "c", fmt.Sprint(count, " active"), func(cj *batchv1.CronJob) bool { return len(cj.Status.Active) == count })
}

func TestAJobIsCreatedWhenItIsTime(t *testing.T) {
	b := start(t, "2027-05-01T10:02:00Z")
	b.create("*/5 * * * *", func(s *batchv1.CronJobSpec) { s.TimeZone = ptr.To("Europe/Berlin") })
	b.clock.Advance(4 * time.Minute)
	j := b.scheduled("2027-05-01T10:05:00Z")
	cj := b.active(1)
	ref := metav1.GetControllerOf(j)
	if ref == nil || ref.UID != cj.UID || ref.Kind != "CronJob" || ref.APIVersion != "batch/v1" || j.Labels["app"] != "x" || j.Annotations["a"] != "b" ||
		j.Annotations[batchv1.CronJobScheduledTimestampAnnotation] != "2027-05-01T12:05:00+02:00" {
		t.Errorf("job %+v", j.ObjectMeta)
	}
	if got := cj.Status.Active[0]; got.Name != j.Name || got.UID != j.UID || got.Kind != "Job" || got.APIVersion != "batch/v1" || got.Namespace != "default" {
		t.Errorf("active %+v", got)
	}
	b.recorder.Await(t, "Normal SuccessfulCreate Created job "+j.Name)
	b.clock.Advance(time.Minute)
	b.finish(j, batchv1.JobComplete)
	cj = b.active(0)
	if cj.Status.LastSuccessfulTime == nil || !cj.Status.LastSuccessfulTime.Time.Equal(b.clock.Now()) {
		t.Errorf("status %+v", cj.Status)
	}
	b.recorder.Await(t, fmt.Sprintf("Normal SawCompletedJob Saw completed job: %s, condition: Complete", j.Name))
	if got := b.jobs(); len(got) != 1 {
		t.Errorf("jobs %v", got)
	}
}

// A Job of one time is created once, though the controller ends before it can store that.
func TestAJobThatWasNotNotedIsFound(t *testing.T) {
	b := start(t, "2027-05-01T10:02:00Z")
	b.create("*/5 * * * *", func(*batchv1.CronJobSpec) {})
	b.clock.Advance(4 * time.Minute)
	j := b.scheduled("2027-05-01T10:05:00Z")
	b.active(1)
	last := metav1.NewTime(b.clock.Now().Add(-4 * time.Minute))
	controllertest.ChangeStatus(t, b.Client, "default", "c", func(cj *batchv1.CronJob) { cj.Status.Active, cj.Status.LastScheduleTime = nil, &last })
	b.scheduled("2027-05-01T10:05:00Z")
	if cj := b.active(1); cj.Status.Active[0].UID != j.UID {
		t.Errorf("active %+v", cj.Status.Active)
	}
	b.recorder.Await(t, "Warning UnexpectedJob Saw a job that the controller did not create or forgot: "+j.Name)
	// One that vanishes is no longer active.
	if err := b.Client.Delete(context.Background(), j, client.Propagation(metav1.DeletePropagationBackground)); err != nil {
		t.Fatal(err)
	}
	b.active(0)
	b.recorder.Await(t, "Normal MissingJob Active job went missing: "+j.Name)
}

func TestConcurrency(t *testing.T) {
	for policy, check := range map[batchv1.ConcurrencyPolicy]func(*bed, *batchv1.Job){
		batchv1.AllowConcurrent: func(b *bed, first *batchv1.Job) {
			second := b.scheduled("2027-05-01T10:10:00Z")
			b.active(2)
			if got := b.jobs(); !slices.Equal(got, []string{first.Name, second.Name}) {
				b.t.Errorf("jobs %v", got)
			}
		},
		batchv1.ForbidConcurrent: func(b *bed, first *batchv1.Job) {
			b.recorder.Await(b.t, "Normal JobAlreadyActive Not starting job because prior execution is running and concurrency policy is Forbid")
			if got := b.jobs(); len(got) != 1 {
				b.t.Errorf("jobs %v", got)
			}
			b.finish(first, batchv1.JobFailed) // then the one that was missed is started
			b.scheduled("2027-05-01T10:10:00Z")
			b.active(1)
		},
		batchv1.ReplaceConcurrent: func(b *bed, first *batchv1.Job) {
			second := b.scheduled("2027-05-01T10:10:00Z")
			if cj := b.active(1); cj.Status.Active[0].UID != second.UID {
				b.t.Errorf("active %+v", cj.Status.Active)
			}
			b.recorder.Await(b.t, "Normal SuccessfulDelete Deleted job "+first.Name)
			controllertest.AwaitGone[*batchv1.Job](b.t, b.Client, "default", first.Name)
		},
	} {
		t.Run(string(policy), func(t *testing.T) {
			b := start(t, "2027-05-01T10:02:00Z")
			b.create("*/5 * * * *", func(s *batchv1.CronJobSpec) { s.ConcurrencyPolicy = policy })
			b.clock.Advance(4 * time.Minute)
			first := b.scheduled("2027-05-01T10:05:00Z")
			b.active(1)
			b.clock.Advance(5 * time.Minute)
			check(b, first)
		})
	}
}

func TestHistoryIsLimited(t *testing.T) {
	b := start(t, "2027-05-01T10:04:30Z")
	b.create("*/5 * * * *", func(s *batchv1.CronJobSpec) {
		s.SuccessfulJobsHistoryLimit, s.FailedJobsHistoryLimit = ptr.To[int32](2), ptr.To[int32](1)
	})
	var made []*batchv1.Job
	for i := range 6 {
		b.clock.Advance(5 * time.Minute)
		j := b.scheduled(b.clock.Now().Truncate(5 * time.Minute).Format(time.RFC3339))
		b.active(1)
		as := batchv1.JobComplete
		if i%2 == 1 {
			as = batchv1.JobFailed
		}
		b.finish(j, as)
		b.active(0)
		made = append(made, j)
	}
	for _, i := range []int{0, 1, 3} {
		controllertest.AwaitGone[*batchv1.Job](t, b.Client, "default", made[i].Name)
	}
	if got := b.jobs(); !slices.Equal(got, []string{made[2].Name, made[4].Name, made[5].Name}) {
		t.Errorf("jobs %v", got)
	}
	b.recorder.Await(t, "Normal SuccessfulDelete Deleted job "+made[0].Name)
}

// A Job that was missed is started late, unless that is too late. Of many that were missed one is.
func TestMissedTimes(t *testing.T) {
	b := start(t, "2027-05-01T10:02:00Z")
	b.create("0 * * * *", func(*batchv1.CronJobSpec) {})
	b.clock.Advance(3 * time.Hour)
	b.scheduled("2027-05-01T13:00:00Z")
	b.change(func(cj *batchv1.CronJob) { cj.Spec.Suspend = new(true) })
	b.awaitSync() // a synchronization that began before would start a Job
	b.clock.Advance(10 * 24 * time.Hour)
	b.change(func(cj *batchv1.CronJob) { cj.Spec.Suspend = new(false) })
	b.scheduled("2027-05-11T13:00:00Z")
	b.recorder.Await(t, "Warning TooManyMissedTimes too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	if got := b.jobs(); len(got) != 2 {
		t.Errorf("jobs %v", got)
	}
	// It is 13:02 now; at 15:30 the Job of 15:00 would be too late, and that of 14:00 all the more.
	b.change(func(cj *batchv1.CronJob) {
		cj.Spec.Suspend, cj.Spec.StartingDeadlineSeconds = new(true), ptr.To[int64](600)
	})
	b.awaitSync()
	b.clock.Advance(148 * time.Minute)
	b.change(func(cj *batchv1.CronJob) { cj.Spec.Suspend = new(false) })
	b.clock.Advance(35 * time.Minute)
	b.scheduled("2027-05-11T16:00:00Z")
	if got := b.jobs(); len(got) != 3 {
		t.Errorf("jobs %v", got)
	}
}

func TestADeadlineOfManyYears(t *testing.T) {
	b := start(t, "2027-05-01T10:02:00Z")
	b.create("0 * * * *", func(s *batchv1.CronJobSpec) { s.StartingDeadlineSeconds = ptr.To[int64](math.MaxInt64) })
	b.clock.Advance(time.Hour)
	b.scheduled("2027-05-01T11:00:00Z")
}

// Jobs run by the clock of the day, however it is set.
func TestTheClockIsSet(t *testing.T) {
	b := start(t, "2027-05-01T10:02:00Z")
	b.create("0 * * * *", func(*batchv1.CronJobSpec) {})
	b.clock.Advance(58*time.Minute + time.Second)
	b.scheduled("2027-05-01T11:00:00Z")
	b.clock.Advance(-90 * time.Minute) // it is 9:30 again: nothing runs twice
	b.clock.Advance(85 * time.Minute)
	b.clock.Advance(66 * time.Minute)
	b.scheduled("2027-05-01T12:00:00Z")
	if got := b.jobs(); len(got) != 2 {
		t.Errorf("jobs %v", got)
	}
}

func TestOverDaylightSaving(t *testing.T) {
	b := start(t, "2027-03-27T12:00:00Z")
	b.create("30 2 * * *", func(s *batchv1.CronJobSpec) { s.TimeZone = ptr.To("Europe/Berlin") })
	b.clock.Advance(24 * time.Hour) // there was no 2:30 on March 28
	b.clock.Advance(24 * time.Hour)
	j := b.scheduled("2027-03-29T00:30:00Z")
	if got := j.Annotations[batchv1.CronJobScheduledTimestampAnnotation]; got != "2027-03-29T02:30:00+02:00" {
		t.Errorf("scheduled at %s", got)
	}
	if got := b.jobs(); len(got) != 1 {
		t.Errorf("jobs %v", got)
	}
}

// With a new schedule nothing is made up for.
func TestANewScheduleIsForTheFuture(t *testing.T) {
	b := start(t, "2027-05-01T10:02:00Z")
	b.create("0 0 1 1 *", func(*batchv1.CronJobSpec) {})
	b.awaitSync()
	b.clock.Advance(3 * time.Hour)
	b.change(func(cj *batchv1.CronJob) { cj.Spec.Schedule = "0 * * * *" })
	b.awaitSync()
	b.clock.Advance(time.Hour)
	b.scheduled("2027-05-01T14:00:00Z")
	if got := b.jobs(); len(got) != 1 {
		t.Errorf("jobs %v", got)
	}
}

func TestAScheduleOfNoDate(t *testing.T) {
	b := start(t, "2027-05-01T10:02:00Z")
	b.create("59 23 31 2 *", func(*batchv1.CronJobSpec) {})
	b.recorder.Await(t, "Warning InvalidSchedule invalid schedule: 59 23 31 2 * : time difference between two schedules is less than 1 second")
}
