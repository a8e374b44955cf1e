package podtrace

import (
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/internal/timeline"
)

var start = time.Date(2026, 8, 1, 12, 0, 0, 0, time.UTC)

func step(name, container string, at, took int) timeline.Step {
	began := start.Add(time.Duration(at) * time.Millisecond)
	return timeline.Step{Name: name, Container: container, Began: began, Ended: began.Add(time.Duration(took) * time.Millisecond)}
}

func whole() *timeline.Document {
	pull := step(timeline.PullImage, "web", 40, 900)
	pull.Detail = "example.com/web:1\x1b[2J"
	log := func(steps ...timeline.Step) timeline.Log {
		return timeline.Log{Since: start.Add(-time.Hour), Steps: steps}
	}
	return &timeline.Document{Namespace: "shop", Name: "web", Node: "worker-1", Phase: "Running", Ready: true, Created: start, Sources: []timeline.Source{
		{Role: timeline.Master, Host: "master-1", Log: log(step(timeline.Admit, "", 0, 3), step(timeline.Store, "", 3, 4))},
		{Role: timeline.Master, Host: "master-2", Log: log(step(timeline.Queue, "", 7, 0), step(timeline.Schedule, "", 7, 1), step(timeline.Bind, "", 8, 5), step(timeline.Deliver, "", 13, 1), step(timeline.Report, "", 1001, 4))},
		{Role: timeline.Worker, Host: "worker-1", Log: log(step(timeline.Receive, "", 15, 0), step(timeline.Volumes, "", 15, 2), step(timeline.Sandbox, "", 17, 13), step(timeline.Network, "", 30, 8),
			pull, step(timeline.Create, "web", 940, 30), step(timeline.Start, "web", 970, 30), step(timeline.Ready, "", 1000, 0))},
	}}
}

func text(t *testing.T, d *timeline.Document) string {
	t.Helper()
	var out strings.Builder
	if err := Print(&out, d); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func TestAWholeStart(t *testing.T) {
	got := text(t, whole())
	for _, want := range []string{
		"Pod shop/web on worker-1, ready 1s after it was requested\n",
		"40ms    900ms  pull      worker-1  web: example.com/web:1 [2J\n",
		"Longest: pull of container web, 900ms, 90 % of 1s. Between the steps: 3ms.",
		"Each host's times are by its own clock.",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	if strings.Contains(got, "Not known") || strings.Contains(got, "\x1b") {
		t.Error(got)
	}
	if at := strings.Index(got, "admit"); at < 0 || at > strings.Index(got, "bind") {
		t.Errorf("the steps are not in order:\n%s", got)
	}
}

func TestWhatIsNotKnownIsSaid(t *testing.T) {
	d := whole()
	d.Sources[1].Log = timeline.Log{Since: start.Add(time.Minute)}
	d.Sources[2].Log, d.Sources[2].Error = timeline.Log{}, "connection refused"
	got := text(t, d)
	for _, want := range []string{
		"Pod shop/web on worker-1, ready\n", "Not known: queue, schedule, bind, deliver.", "Not known: receive, volumes, sandbox, create, start.",
		"master master-2 was started at", "worker worker-1 did not say what it knows: connection refused",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is not in\n%s", want, got)
		}
	}
	d.Sources = nil
	if got := text(t, d); !strings.Contains(got, "Not known: admit") {
		t.Error(got)
	}
}

func TestAPodThatWaits(t *testing.T) {
	d := whole()
	d.Node, d.Phase, d.Ready = "", "Pending", false
	d.Sources = d.Sources[:1]
	got := text(t, d)
	if !strings.Contains(got, "Pod shop/web, which has no node yet, pending\n") || strings.Contains(got, "Not known") {
		t.Error(got)
	}
}

func TestOneScreen(t *testing.T) {
	d := whole()
	for range 100 {
		d.Sources[2].Steps = append(d.Sources[2].Steps, step(timeline.Start, "web", 5000, -4))
	}
	got := text(t, d)
	if n := strings.Count(got, "\n"); n > 60 || !strings.Contains(got, "more, which -o json shows") {
		t.Errorf("%d lines:\n%s", n, got)
	}
}
