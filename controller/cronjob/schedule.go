package cronjob

import (
	"errors"
	"strings"
	"time"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/kubernetes/pkg/util/parsers"
)

// manyMissed is the number of missed times above which a warning says that something is wrong with the clock or the CronJob.
const manyMissed = 100

// errNever is upstream's error for a schedule of dates that do not exist, such as February 31.
var errNever = errors.New("time difference between two schedules is less than 1 second")

// parse returns a CronJob's schedule in its time zone.
func parse(cj *batchv1.CronJob) (cron.Schedule, error) {
	text := cj.Spec.Schedule
	if cj.Spec.TimeZone != nil && !namesZone(cj) {
		text = "TZ=" + *cj.Spec.TimeZone + " " + text
	}
	return parsers.ParseCronScheduleWithPanicRecovery(text)
}

// namesZone says whether the schedule itself has a time zone, which the API no longer accepts.
func namesZone(cj *batchv1.CronJob) bool { return strings.Contains(cj.Spec.Schedule, "TZ") }

// due returns the latest time of a schedule after since and not after now; zero if there is none. missed is how many such times there
// are, but at most one more than manyMissed.
func due(schedule cron.Schedule, since, now time.Time) (latest time.Time, missed int, err error) {
	next := schedule.Next(since)
	if next.IsZero() {
		return time.Time{}, 0, errNever
	}
	for ; !next.IsZero() && !next.After(now); next = schedule.Next(next) {
		latest = next
		if missed++; missed > manyMissed {
			return lastBefore(schedule, latest, now), missed, nil
		}
	}
	return latest, missed, nil
}

// lastBefore returns the latest time of a schedule that is not after now, given an earlier one. It takes a number of steps that does
// not depend on how many times lie between.
func lastBefore(schedule cron.Schedule, since, now time.Time) time.Time {
	if every, ok := schedule.(cron.ConstantDelaySchedule); ok {
		return since.Add(now.Sub(since).Truncate(every.Delay))
	}
	// The time after a moment is the latest one if the moment is the last whose next time is not after now.
	low, high := int64(0), int64(now.Sub(since)/time.Second)+1
	for high-low > 1 {
		middle := low + (high-low)/2
		if next := schedule.Next(since.Add(time.Duration(middle) * time.Second)); next.IsZero() || next.After(now) {
			high = middle
		} else {
			low = middle
		}
	}
	return schedule.Next(since.Add(time.Duration(low) * time.Second))
}
