// Package cronjob creates Jobs at the times of CronJobs' schedules.
package cronjob

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// never is a deadline in seconds, a hundred years, that no Job misses. A time.Duration has only 292.
const never = 100 * 365 * 24 * 60 * 60

var controllerKind = batchv1.SchemeGroupVersion.WithKind("CronJob")

// delta is added to the time until the next Job, as upstream does, so that a clock that is corrected a little meanwhile has reached it.
const delta = 100 * time.Millisecond

// Config has the dependencies and the settings of the controller.
type Config struct {
	Client   *client.Client
	Recorder record.EventRecorder
	// Now is the clock; nil means the real one.
	Now func() time.Time
	// CheckClock is how often the controller looks whether the clock was set; 0 means 10 s.
	CheckClock time.Duration
}

type reconciler struct {
	Config
	mu        sync.Mutex
	schedules map[controller.Key]known
	// real and shown are the time and what the clock showed when watchClock looked last. They are taken before the first
	// CronJob is synchronized, so that no change of the clock goes unseen after that.
	real, shown time.Time
}

// known is a CronJob's schedule as it was last seen.
type known struct {
	job            types.UID
	schedule, zone string
	// since is when it was seen to have changed; zero if it was not. No Job starts for a time of the new schedule before that.
	since time.Time
}

// New returns the controller.
func New(config Config) *controller.Controller {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.CheckClock == 0 {
		config.CheckClock = 10 * time.Second
	}
	r := &reconciler{Config: config, schedules: map[controller.Key]known{}, real: time.Now(), shown: config.Now()}
	return &controller.Controller{
		Name: "cronjob", Watches: []client.Object{&batchv1.CronJob{}, &batchv1.Job{}}, Workers: 5,
		Start: enqueueAll, Enqueue: r.enqueue, Reconcile: r.reconcile, Source: r.watchClock,
	}
}

func enqueueAll(v client.View, enqueue func(controller.Key)) {
	client.Each(v, "", func(cj *batchv1.CronJob) bool {
		enqueue(controller.KeyOf(cj))
		return true
	})
}

func (r *reconciler) enqueue(_ client.View, event client.Event, enqueue func(controller.Key)) {
	switch obj := event.Object().(type) {
	case *batchv1.CronJob:
		enqueue(controller.KeyOf(obj))
	case *batchv1.Job:
		for _, obj := range []client.Object{event.Old, event.New} {
			if obj == nil {
				continue
			}
			if ref := metav1.GetControllerOfNoCopy(obj); ref != nil && ref.Kind == controllerKind.Kind {
				enqueue(controller.Key{Namespace: obj.GetNamespace(), Name: ref.Name})
			}
		}
	}
}

// watchClock wakes all CronJobs when the clock has been set, because they wait for a duration and not for a time of day.
func (r *reconciler) watchClock(ctx context.Context, enqueue func(controller.Key)) error {
	ticker := time.NewTicker(r.CheckClock)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
		passed := time.Since(r.real) // by the monotonic clock, which nobody sets
		shows := r.Now()
		set := shows.Round(0).Sub(r.shown.Round(0)) - passed
		r.real, r.shown = r.real.Add(passed), shows
		if set.Abs() > time.Second {
			enqueueAll(r.Client.View(), enqueue)
		}
	}
}

// rescheduled returns since when a CronJob has its present schedule, if that was changed while the controller ran.
func (r *reconciler) rescheduled(key controller.Key, cj *batchv1.CronJob) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := known{job: cj.UID, schedule: cj.Spec.Schedule, zone: ptr.Deref(cj.Spec.TimeZone, "")}
	if before, ok := r.schedules[key]; ok && before.job == seen.job {
		seen.since = before.since
		if before.schedule != seen.schedule || before.zone != seen.zone {
			seen.since = r.Now()
		}
	}
	r.schedules[key] = seen
	return seen.since
}

func (r *reconciler) forget(key controller.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.schedules, key)
}

// jobsOf finds Jobs by the UID of their controller.
var jobsOf = client.NewIndex(func(j *batchv1.Job, add func(string)) {
	if ref := metav1.GetControllerOfNoCopy(j); ref != nil {
		add(string(ref.UID))
	}
})

func (r *reconciler) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	stored, ok := client.Get[*batchv1.CronJob](v, key.Namespace, key.Name)
	if !ok {
		r.forget(key)
		return controller.Result{}, nil
	}
	s := &syncing{reconciler: r, cj: stored.DeepCopy(), jobs: jobsOf.Any(v, string(stored.UID)), rescheduled: r.rescheduled(key, stored)}
	s.trimHistory(ctx)
	s.follow()
	after, err := s.start(ctx)
	if s.changed {
		if _, updateErr := client.UpdateStatus(ctx, r.Client, s.cj); updateErr != nil {
			return controller.Result{}, updateErr
		}
	}
	return controller.Result{After: after}, err
}

// syncing is one synchronization of a CronJob.
type syncing struct {
	*reconciler
	cj      *batchv1.CronJob // a copy, whose status is changed
	jobs    []*batchv1.Job
	changed bool // the status has changed
	// rescheduled is when the schedule was changed; zero if it was not.
	rescheduled time.Time
}

// finishedAs returns whether a Job has ended, and how.
func finishedAs(j *batchv1.Job) (batchv1.JobConditionType, bool) {
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type, true
		}
	}
	return "", false
}

// trimHistory deletes the oldest Jobs that have ended, beyond the limits.
func (s *syncing) trimHistory(ctx context.Context) {
	for kind, limit := range map[batchv1.JobConditionType]*int32{
		batchv1.JobComplete: s.cj.Spec.SuccessfulJobsHistoryLimit, batchv1.JobFailed: s.cj.Spec.FailedJobsHistoryLimit,
	} {
		if limit == nil {
			continue
		}
		var ended []*batchv1.Job
		for _, j := range s.jobs {
			if as, _ := finishedAs(j); as == kind && j.DeletionTimestamp == nil {
				ended = append(ended, j)
			}
		}
		slices.SortFunc(ended, byStart)
		for _, j := range ended[:max(0, len(ended)-int(*limit))] {
			_ = s.delete(ctx, j) // the event tells; it is tried again with the next change
		}
	}
}

// byStart orders Jobs by when they were started; those that were not come last.
func byStart(a, b *batchv1.Job) int {
	x, y := a.Status.StartTime, b.Status.StartTime
	switch {
	case x == nil && y != nil:
		return 1
	case x != nil && y == nil:
		return -1
	case x.Equal(y):
		return strings.Compare(a.Name, b.Name)
	}
	return x.Compare(y.Time)
}

// delete deletes a Job with its pods, and removes it from the list of active ones.
func (s *syncing) delete(ctx context.Context, j *batchv1.Job) error {
	err := s.Client.Delete(ctx, j, client.IfUID(j.UID), client.Propagation(metav1.DeletePropagationBackground))
	if err != nil && !apierrors.IsNotFound(err) {
		s.Recorder.Eventf(s.cj, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return fmt.Errorf("delete job %s: %w", j.Name, err)
	}
	s.forget(j.UID)
	s.Recorder.Eventf(s.cj, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", j.Name)
	return nil
}

func (s *syncing) active(uid types.UID) bool {
	return slices.ContainsFunc(s.cj.Status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == uid })
}

// forget removes a Job from the list of active ones.
func (s *syncing) forget(uid types.UID) {
	if s.active(uid) {
		s.cj.Status.Active = slices.DeleteFunc(s.cj.Status.Active, func(ref corev1.ObjectReference) bool { return ref.UID == uid })
		s.changed = true
	}
}

// follow brings the list of active Jobs, and the time of the last success, in line with the Jobs.
func (s *syncing) follow() {
	exist := map[types.UID]bool{}
	for _, j := range s.jobs {
		exist[j.UID] = true
		as, ended := finishedAs(j)
		switch {
		case !ended && !s.active(j.UID):
			s.Recorder.Eventf(s.cj, corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", j.Name)
		case ended && s.active(j.UID):
			s.forget(j.UID)
			s.Recorder.Eventf(s.cj, corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", j.Name, as)
		}
		if last := s.cj.Status.LastSuccessfulTime; as == batchv1.JobComplete && j.Status.CompletionTime != nil && (last == nil || last.Before(j.Status.CompletionTime)) {
			s.cj.Status.LastSuccessfulTime = j.Status.CompletionTime.DeepCopy()
			s.changed = true
		}
	}
	for _, ref := range slices.Clone(s.cj.Status.Active) {
		if !exist[ref.UID] {
			s.Recorder.Eventf(s.cj, corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
			s.forget(ref.UID)
		}
	}
}

// start starts the Job that is due, and returns how long it is until the next one; 0 if there is none.
func (s *syncing) start(ctx context.Context) (after time.Duration, err error) {
	cj := s.cj
	if cj.DeletionTimestamp != nil {
		return 0, nil
	}
	warn := func(reason, format string, args ...any) {
		s.Recorder.Eventf(cj, corev1.EventTypeWarning, reason, format, args...)
	}
	zone, err := time.LoadLocation(ptr.Deref(cj.Spec.TimeZone, ""))
	if err != nil {
		warn("UnknownTimeZone", "invalid timeZone: %q: %s", *cj.Spec.TimeZone, err)
		return 0, nil
	}
	if ptr.Deref(cj.Spec.Suspend, false) {
		return 0, nil
	}
	if namesZone(cj) {
		warn("UnsupportedSchedule", "CRON_TZ or TZ used in schedule %q is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", cj.Spec.Schedule)
	}
	schedule, err := parse(cj)
	if err != nil {
		warn("UnparseableSchedule", "unparseable schedule: %q : %s", cj.Spec.Schedule, err)
		return 0, nil
	}
	now, since := s.Now(), s.since()
	deadline := time.Duration(min(ptr.Deref(cj.Spec.StartingDeadlineSeconds, 0), never)) * time.Second
	considered := since
	if cj.Spec.StartingDeadlineSeconds != nil && now.Add(-deadline).After(since) {
		considered = now.Add(-deadline) // nothing before would be started
	}
	scheduled, missed, err := due(schedule, considered, now)
	if err != nil {
		warn("InvalidSchedule", "invalid schedule: %s : %s", cj.Spec.Schedule, err)
		return 0, nil
	}
	// The next time is the first after all that are over now, and after the last that was used if the clock was set back.
	from := since
	if latest, _, err := due(schedule, since, now); err == nil && !latest.IsZero() {
		from = latest
	}
	if next := schedule.Next(from); !next.IsZero() {
		after = max(next.Add(delta).Sub(now), delta)
	}
	if scheduled.IsZero() {
		return after, nil
	}
	if missed > manyMissed {
		warn("TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	name := fmt.Sprintf("%s-%d", cj.Name, scheduled.Unix()/60) // so that no other leader makes it twice
	switch {
	case cj.Spec.StartingDeadlineSeconds != nil && scheduled.Add(deadline).Before(now):
		warn("MissSchedule", "Missed scheduled time to start a job: %s", scheduled.UTC().Format(time.RFC1123Z))
		return after, nil
	case slices.ContainsFunc(cj.Status.Active, func(ref corev1.ObjectReference) bool { return ref.Name == name }):
		return after, nil
	case cj.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(cj.Status.Active) > 0:
		s.Recorder.Event(cj, corev1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
		return after, nil
	case cj.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent:
		for _, j := range s.jobs {
			if s.active(j.UID) {
				if err := s.delete(ctx, j); err != nil {
					return 0, err
				}
			}
		}
	}
	return after, s.create(ctx, name, scheduled, zone)
}

// since returns the time after which scheduled times are considered.
func (s *syncing) since() time.Time {
	since := s.cj.CreationTimestamp.Time
	if s.cj.Status.LastScheduleTime != nil {
		since = s.cj.Status.LastScheduleTime.Time
	}
	if s.rescheduled.After(since) {
		return s.rescheduled
	}
	return since
}

// create creates the Job of a time, or finds the one that was created before the status could be stored.
func (s *syncing) create(ctx context.Context, name string, scheduled time.Time, zone *time.Location) error {
	template := s.cj.Spec.JobTemplate.DeepCopy()
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: s.cj.Namespace, Name: name, Labels: template.Labels, Annotations: template.Annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(s.cj, controllerKind)},
		},
		Spec: template.Spec,
	}
	metav1.SetMetaDataAnnotation(&j.ObjectMeta, batchv1.CronJobScheduledTimestampAnnotation, scheduled.In(zone).Format(time.RFC3339))
	made, err := client.Create(ctx, s.Client, j)
	switch {
	case apierrors.IsAlreadyExists(err):
		existing, ok := client.Get[*batchv1.Job](s.Client.View(), s.cj.Namespace, name)
		if !ok || !metav1.IsControlledBy(existing, s.cj) {
			return nil // somebody else has made it
		}
		made = existing
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return err
	case err != nil:
		s.Recorder.Eventf(s.cj, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return err
	default:
		s.Recorder.Eventf(s.cj, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", made.Name)
	}
	s.cj.Status.Active = append(s.cj.Status.Active, corev1.ObjectReference{
		APIVersion: batchv1.SchemeGroupVersion.String(), Kind: "Job", Namespace: made.Namespace, Name: made.Name, UID: made.UID, ResourceVersion: made.ResourceVersion})
	s.cj.Status.LastScheduleTime = ptr.To(metav1.NewTime(scheduled))
	s.changed = true
	return nil
}
