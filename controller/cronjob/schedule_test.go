package cronjob

import (
	"fmt"
	"slices"
	"testing"
	"time"
	_ "time/tzdata" // the tests need time zones

	batchv1 "k8s.io/api/batch/v1"
)

func spec(schedule, zone string) *batchv1.CronJob {
	cj := &batchv1.CronJob{Spec: batchv1.CronJobSpec{Schedule: schedule}}
	if zone != "" {
		cj.Spec.TimeZone = &zone
	}
	return cj
}

func at(t *testing.T, text string) time.Time {
	t.Helper()
	parsed, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// Over both changes of daylight saving time, in the zones of Berlin (at 1:00 UTC) and New York (at 2:00 of local time), and in one
// without any.
func TestSchedulesOverDaylightSaving(t *testing.T) {
	for _, c := range []struct {
		schedule, zone, from string
		want                 []string
	}{
		// 2:30 does not exist on March 28: no Job runs on that day.
		{"30 2 * * *", "Europe/Berlin", "2027-03-26T12:00:00Z", []string{"2027-03-27T01:30:00Z", "2027-03-29T00:30:00Z"}},
		{"30 3 * * *", "Europe/Berlin", "2027-03-27T12:00:00Z", []string{"2027-03-28T01:30:00Z", "2027-03-29T01:30:00Z"}},
		// 2:30 is there twice on October 31, and the Job runs twice, as it does with upstream's controller.
		{"30 2 * * *", "Europe/Berlin", "2027-10-30T12:00:00Z", []string{"2027-10-31T00:30:00Z", "2027-10-31T01:30:00Z", "2027-11-01T01:30:00Z"}},
		// What runs every half hour does so all the time.
		{"*/30 * * * *", "Europe/Berlin", "2027-10-31T00:15:00Z", []string{"2027-10-31T00:30:00Z", "2027-10-31T01:00:00Z", "2027-10-31T01:30:00Z", "2027-10-31T02:00:00Z"}},
		{"*/30 * * * *", "Europe/Berlin", "2027-03-28T00:15:00Z", []string{"2027-03-28T00:30:00Z", "2027-03-28T01:00:00Z", "2027-03-28T01:30:00Z"}},
		{"0 0 * * *", "America/New_York", "2027-03-13T12:00:00Z", []string{"2027-03-14T05:00:00Z", "2027-03-15T04:00:00Z"}},
		{"0 0 * * *", "America/New_York", "2027-11-06T12:00:00Z", []string{"2027-11-07T04:00:00Z", "2027-11-08T05:00:00Z"}},
		{"30 2 * * *", "Etc/UTC", "2027-03-27T12:00:00Z", []string{"2027-03-28T02:30:00Z", "2027-03-29T02:30:00Z"}},
	} {
		schedule, err := parse(spec(c.schedule, c.zone))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for next := at(t, c.from); len(got) < len(c.want); {
			next = schedule.Next(next)
			got = append(got, next.UTC().Format(time.RFC3339))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s in %s after %s: %v, want %v", c.schedule, c.zone, c.from, got, c.want)
		}
	}
}

// The latest of many times is the one that counting through all of them finds.
func TestTheLatestMissedTime(t *testing.T) {
	for _, text := range []string{"* * * * *", "*/7 3-5 * * *", "30 6-16/4 * * 1-5", "30 2 * * *", "0 0 1 * *", "@every 1h30m", "@hourly"} {
		for _, zone := range []string{"", "Europe/Berlin", "America/New_York"} {
			if zone != "" && text[0] == '@' && text[1] == 'e' {
				zone = "" // an interval has no zone
			}
			schedule, err := parse(spec(text, zone))
			if err != nil {
				t.Fatal(err)
			}
			since := at(t, "2027-02-01T00:00:10Z")
			var want time.Time
			next, count := schedule.Next(since), 0
			for _, days := range []int{1, 20, 54, 110} {
				now := since.Add(time.Duration(days)*24*time.Hour + 17*time.Minute)
				for ; !next.After(now); next = schedule.Next(next) {
					want, count = next, count+1
				}
				got, missed, err := due(schedule, since, now)
				if err != nil || !got.Equal(want) || missed != min(count, manyMissed+1) {
					t.Errorf("%s in %q, of %d until %s: %s, %d, %v; want %s", text, zone, count, now, got, missed, err, want)
				}
			}
		}
	}
}

func TestScheduledNever(t *testing.T) {
	schedule, err := parse(spec("59 23 31 2 *", ""))
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	if _, _, err := due(schedule, now.Add(-time.Hour), now); fmt.Sprint(err) != "time difference between two schedules is less than 1 second" {
		t.Errorf("%v", err)
	}
}
