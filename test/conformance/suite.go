package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	defaultLimit = 3 * time.Hour
	// endBound is how long the suite may take to end after an interrupt, before it is killed.
	endBound = time.Minute
)

type options struct {
	programs, work, known, focus, names, report, reported string
	procs                                                 int
	limit                                                 time.Duration
}

// result is the outcome of one test.
type result struct {
	name    string
	passed  bool
	message string // the first line of the failure
}

func (r result) String() string {
	if r.passed {
		return "PASS " + r.name
	}
	return "FAIL " + r.name + " -- " + r.message
}

// group returns the part of a test's name that says to whom it belongs, such as "sig-auth".
func (r result) group() string {
	name, _, _ := strings.Cut(strings.TrimPrefix(r.name, "["), "]")
	return name
}

func (o *options) output() string { return filepath.Join(o.work, "e2e.log") }

// list returns the names of all conformance tests.
func (o *options) list() ([]string, error) {
	out, err := exec.Command(filepath.Join(o.programs, "e2e.test"), "--list-tests").Output()
	if err != nil {
		return nil, fmt.Errorf("list the tests: %w", err)
	}
	return listed(out), nil
}

// listed returns the names of the conformance tests in the output of --list-tests, in which each follows its place in the source.
func listed(out []byte) (names []string) {
	for lines := bufio.NewScanner(bytes.NewReader(out)); lines.Scan(); {
		_, name, ok := strings.Cut(lines.Text(), ": ")
		if ok && strings.Contains(name, "[Conformance]") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// suite runs the named tests and returns their results. An interrupt ends it with the results so far.
func (o *options) suite(kubeconfig string, names []string, interrupted <-chan os.Signal) ([]result, error) {
	focus := make([]string, len(names))
	for i, name := range names {
		focus[i] = regexp.QuoteMeta(name) + "$"
	}
	if err := os.MkdirAll(o.work, 0o755); err != nil {
		return nil, err
	}
	old, err := filepath.Glob(filepath.Join(o.work, "junit*.xml"))
	if err != nil {
		return nil, err
	}
	for _, file := range old {
		if err := os.Remove(file); err != nil {
			return nil, err
		}
	}
	log, err := os.Create(o.output())
	if err != nil {
		return nil, err
	}
	defer log.Close()
	ctx, cancel := context.WithTimeout(context.Background(), o.limit+endBound)
	defer cancel()
	go func() {
		select {
		case <-interrupted:
			cancel()
		case <-ctx.Done():
		}
	}()
	cmd := exec.CommandContext(ctx, filepath.Join(o.programs, "ginkgo"), fmt.Sprintf("--procs=%d", o.procs), "--no-color", "--keep-going",
		"--timeout="+o.limit.String(), "--focus="+strings.Join(focus, "|"), filepath.Join(o.programs, "e2e.test"), "--",
		"--kubeconfig="+kubeconfig, "--provider=local", "--num-nodes=2", "--report-dir="+o.work, "--disable-log-dump", "--dump-logs-on-failure=false")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGINT) }
	cmd.WaitDelay = endBound
	failed := cmd.Run() // it fails if a test does
	results, err := collect(o.work)
	if err == nil && len(results) == 0 {
		err = fmt.Errorf("the suite reported no test (%v): see %s", failed, o.output())
	}
	return results, err
}

// collect reads the suite's reports.
func collect(dir string) ([]result, error) {
	files, err := filepath.Glob(filepath.Join(dir, "junit*.xml"))
	if err != nil {
		return nil, err
	}
	var out []result
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		results, err := parse(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		out = append(out, results...)
	}
	slices.SortFunc(out, func(a, b result) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

// parse reads a report in JUnit's form, as ginkgo writes it.
func parse(text []byte) ([]result, error) {
	type problem struct {
		Message string `xml:"message,attr"`
		Text    string `xml:",chardata"`
	}
	var report struct {
		Suites []struct {
			Cases []struct {
				Name    string    `xml:"name,attr"`
				Skipped *struct{} `xml:"skipped"`
				Failure *problem  `xml:"failure"`
				Error   *problem  `xml:"error"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(text, &report); err != nil {
		return nil, err
	}
	var out []result
	for _, suite := range report.Suites {
		for _, c := range suite.Cases {
			name, isTest := strings.CutPrefix(c.Name, "[It] ")
			if !isTest || c.Skipped != nil {
				continue
			}
			r := result{name: name}
			switch {
			case c.Failure != nil:
				r.message = firstLine(c.Failure.Message + "\n" + c.Failure.Text)
			case c.Error != nil:
				r.message = firstLine(c.Error.Message + "\n" + c.Error.Text)
			default:
				r.passed = true
			}
			out = append(out, r)
		}
	}
	return out, nil
}

func firstLine(text string) string {
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line != "" {
			return line[:min(len(line), 200)]
		}
	}
	return ""
}
