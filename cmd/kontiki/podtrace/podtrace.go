// Package podtrace shows on one screen where the time went that a pod took to start.
package podtrace

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/kontiki/kontiki/internal/timeline"
)

// mostLines limits the steps that are printed; -o json has all.
const mostLines = 40

// row is a step with the host that did it.
type row struct {
	timeline.Step
	host, role string
}

// Print writes a document for people.
func Print(out io.Writer, d *timeline.Document) error {
	rows := ordered(d)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	fmt.Fprintf(w, "Pod %s/%s%s, %s\n", d.Namespace, d.Name, on(d.Node), state(d, rows))
	if d.TraceID != "" {
		fmt.Fprintf(w, "Trace %s\n", d.TraceID)
	}
	if len(rows) > 0 {
		start := rows[0].Began
		fmt.Fprintln(w, "\nAT\tTOOK\tSTEP\tHOST\tDETAIL")
		for _, r := range rows[:min(len(rows), mostLines)] {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", short(r.Began.Sub(start)), short(r.Ended.Sub(r.Began)), r.Name, r.host, r.detail())
		}
		if more := len(rows) - mostLines; more > 0 {
			fmt.Fprintf(w, "and %d more, which -o json shows\n", more)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	notes := unknown(d, rows)
	if note := summary(rows); note != "" && !slices.ContainsFunc(notes, func(s string) bool { return strings.HasPrefix(s, notKnown) }) {
		notes = slices.Insert(notes, 0, note) // with steps missing it would be wrong
	}
	if len(notes) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(out, "\n%s\n", strings.Join(notes, "\n"))
	return err
}

func on(node string) string {
	if node == "" {
		return ", which has no node yet"
	}
	return " on " + node
}

// ordered returns all steps in the order in which they began.
func ordered(d *timeline.Document) []row {
	var rows []row
	for _, s := range d.Sources {
		for _, step := range s.Steps {
			if step.Ended.Before(step.Began) {
				step.Ended = step.Began
			}
			rows = append(rows, row{step, s.Host, s.Role})
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		return cmp.Or(a.Began.Compare(b.Began), a.Ended.Compare(b.Ended), cmp.Compare(rank[a.Name], rank[b.Name]))
	})
	return rows
}

// expected are the steps of every pod, in their usual order, and who takes them.
var expected = []struct{ name, role string }{
	{timeline.Admit, timeline.Master}, {timeline.Store, timeline.Master}, {timeline.Queue, timeline.Master}, {timeline.Schedule, timeline.Master},
	{timeline.Bind, timeline.Master}, {timeline.Deliver, timeline.Master}, {timeline.Receive, timeline.Worker}, {timeline.Volumes, timeline.Worker},
	{timeline.Sandbox, timeline.Worker}, {timeline.Create, timeline.Worker}, {timeline.Start, timeline.Worker}, {timeline.Ready, timeline.Worker},
	{timeline.Report, timeline.Master},
}

var rank = func() map[string]int {
	ranks := map[string]int{}
	for i, e := range expected {
		ranks[e.name] = i
	}
	return ranks
}()

func find(rows []row, name string) (row, bool) {
	i := slices.IndexFunc(rows, func(r row) bool { return r.Name == name })
	if i < 0 {
		return row{}, false
	}
	return rows[i], true
}

// state says how far the pod is.
func state(d *timeline.Document, rows []row) string {
	ready, known := find(rows, timeline.Ready)
	switch first, whole := find(rows, timeline.Admit); {
	case known && whole:
		return fmt.Sprintf("ready %s after it was requested", short(ready.Ended.Sub(first.Began)))
	case d.Ready:
		return "ready"
	case d.Phase == "Running":
		return "running, not ready"
	default:
		return strings.ToLower(cmp.Or(d.Phase, "pending"))
	}
}

func (r row) detail() string {
	parts := slices.DeleteFunc([]string{r.Container, r.Detail}, func(s string) bool { return s == "" })
	text := strings.Join(parts, ": ")
	if r.Error != "" {
		text = strings.TrimSpace(text + " failed: " + r.Error)
	}
	return strings.Map(printable, text)
}

// printable replaces what could move a terminal's cursor or change the columns.
func printable(r rune) rune {
	if r < ' ' || r == 0x7f {
		return ' '
	}
	return r
}

// short prints a duration of a start: to a tenth of a millisecond below ten milliseconds, to a millisecond below ten seconds.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + short(-d)
	case d < 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	case d < 10*time.Second:
		return d.Round(time.Millisecond).String()
	}
	return d.Round(100 * time.Millisecond).String()
}

// summary names the longest step, and how much time no step covers. It ends with the pod's readiness.
func summary(rows []row) string {
	if len(rows) < 2 {
		return ""
	}
	last := rows[len(rows)-1].Ended
	if ready, ok := find(rows, timeline.Ready); ok {
		last = ready.Ended
	}
	first := rows[0].Began
	var longest row
	var covered time.Duration
	until := first
	for _, r := range rows { // they are in the order in which they began
		began, ended := r.Began, r.Ended
		if ended.After(last) {
			ended = last
		}
		if began.After(last) {
			continue
		}
		if r.Ended.Sub(r.Began) > longest.Ended.Sub(longest.Began) {
			longest = r
		}
		if began.Before(until) {
			began = until
		}
		if ended.After(began) {
			covered += ended.Sub(began)
			until = ended
		}
	}
	total := last.Sub(first)
	if total <= 0 || longest.Name == "" {
		return ""
	}
	what := longest.Name
	if longest.Container != "" {
		what += " of container " + strings.Map(printable, longest.Container)
	}
	took := longest.Ended.Sub(longest.Began)
	return fmt.Sprintf("Longest: %s, %s, %d %% of %s. Between the steps: %s.", what, short(took), int(100*took/total), short(total), short(total-covered))
}

const notKnown = "Not known: "

// unknown says which steps are missing, and why.
func unknown(d *timeline.Document, rows []row) []string {
	var notes []string
	missing := map[string][]string{}
	last := -1
	for i, e := range expected {
		if _, ok := find(rows, e.name); ok {
			last = i
		}
	}
	done := d.Ready || d.Phase == "Running" || d.Phase == "Succeeded"
	for i, e := range expected {
		if _, ok := find(rows, e.name); !ok && (i < last || done && e.name != timeline.Ready && e.name != timeline.Report) {
			missing[e.role] = append(missing[e.role], e.name)
		}
	}
	for _, role := range []string{timeline.Master, timeline.Worker} {
		if names := missing[role]; len(names) > 0 {
			notes = append(notes, fmt.Sprintf(notKnown+"%s. A %s keeps these in memory, for the last 1,024 pods.", strings.Join(names, ", "), role))
		}
	}
	for _, s := range d.Sources {
		switch {
		case s.Error != "":
			notes = append(notes, fmt.Sprintf("%s %s did not say what it knows: %s", s.Role, s.Host, strings.Map(printable, s.Error)))
		case len(missing[s.Role]) > 0 && s.Since.After(d.Created):
			notes = append(notes, fmt.Sprintf("%s %s was started at %s, after the pod was created, and does not know what was before.", s.Role, s.Host, s.Since.Local().Format(time.DateTime)))
		}
		if s.Dropped > 0 {
			notes = append(notes, fmt.Sprintf("%s %s did not keep %d later steps.", s.Role, s.Host, s.Dropped))
		}
	}
	for _, r := range rows[min(1, len(rows)):] {
		if r.host != rows[0].host {
			notes = append(notes, "Each host's times are by its own clock.")
			break
		}
	}
	return notes
}
