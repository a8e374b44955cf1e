package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// measurement is what one phase took and used. One of memory has nothing else.
type measurement struct {
	system, encoding, phase string
	rate                    float64 // per second
	p50, p99                time.Duration
	servers, self           time.Duration // processor time per request
	memory                  int64         // bytes
}

func (m measurement) String() string {
	if m.memory != 0 {
		return fmt.Sprintf("%-8s  %-20s  %d MiB", m.encoding, m.phase, m.memory>>20)
	}
	return fmt.Sprintf("%-8s  %-20s  %8.0f/s  p50 %s  p99 %s  servers %s  clients %s", m.encoding, m.phase, m.rate, short(m.p50), short(m.p99), short(m.servers), short(m.self))
}

func short(d time.Duration) string {
	switch {
	case d >= time.Second:
		return fmt.Sprintf("%.1fs", d.Seconds())
	case d >= time.Millisecond:
		return fmt.Sprintf("%.1fms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%dµs", d.Microseconds())
}

type results struct{ all []measurement }

func (r *results) add(m measurement) { r.all = append(r.all, m) }

// find returns the measurements of all rounds.
func (r *results) find(system, encoding, phase string) (found []measurement) {
	for _, m := range r.all {
		if m.system == system && m.encoding == encoding && m.phase == phase {
			found = append(found, m)
		}
	}
	return found
}

// mean returns the mean of a value over measurements.
func mean(of []measurement, value func(measurement) float64) float64 {
	var sum float64
	for _, m := range of {
		sum += value(m)
	}
	return sum / float64(len(of))
}

// quantities are the columns of the report. A ratio above 1 means that Kontiki is faster or uses less.
var quantities = []struct {
	title  string
	value  func(measurement) float64
	format func(float64) string
	more   bool // more is better
}{
	{"rate/s", func(m measurement) float64 { return m.rate }, func(v float64) string { return fmt.Sprintf("%.0f", v) }, true},
	{"p50", func(m measurement) float64 { return float64(m.p50) }, formatTime, false},
	{"p99", func(m measurement) float64 { return float64(m.p99) }, formatTime, false},
	{"servers' time", func(m measurement) float64 { return float64(m.servers) }, formatTime, false},
	{"memory", func(m measurement) float64 { return float64(m.memory) }, func(v float64) string { return fmt.Sprintf("%.0f MiB", v/(1<<20)) }, false},
}

func formatTime(v float64) string { return short(time.Duration(v)) }

// print writes, for each encoding and phase, what the systems did, as means over the rounds, and in brackets how many times better
// Kontiki's mean is.
func (r *results) print(out io.Writer) {
	var systems, encodings, phases []string
	for _, m := range r.all {
		systems, encodings, phases = addNew(systems, m.system), addNew(encodings, m.encoding), addNew(phases, m.phase)
	}
	for _, encoding := range encodings {
		fmt.Fprintf(out, "%s (means of the rounds; in brackets: how many times better Kontiki is)\n", encoding)
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		title := "phase\tsystem"
		for _, q := range quantities {
			title += "\t" + q.title
		}
		fmt.Fprintln(table, title)
		for _, phase := range phases {
			ours := r.find(kontikiName, encoding, phase)
			for _, system := range systems {
				theirs := r.find(system, encoding, phase)
				row := []string{phase, system}
				for _, q := range quantities {
					row = append(row, cell(ours, theirs, system == kontikiName, q.value, q.format, q.more))
				}
				fmt.Fprintln(table, strings.Join(row, "\t"))
			}
		}
		table.Flush()
		fmt.Fprintln(out)
	}
}

// addNew adds a value that the list does not have.
func addNew(list []string, value string) []string {
	if slices.Contains(list, value) {
		return list
	}
	return append(list, value)
}

// cell is a mean, with its ratio to Kontiki's for the other systems.
func cell(ours, theirs []measurement, self bool, value func(measurement) float64, format func(float64) string, more bool) string {
	v := mean(theirs, value)
	if len(theirs) == 0 || v == 0 {
		return "-"
	}
	own := mean(ours, value)
	if self || len(ours) == 0 || own == 0 {
		return format(v)
	}
	ratio := v / own
	if more {
		ratio = own / v
	}
	return fmt.Sprintf("%s (%.1f)", format(v), ratio)
}
