// Command conformance runs the conformance tests of upstream's suite (k8s.io/kubernetes/test/e2e) against a development cluster of three
// masters and two workers, and compares the results with known.txt, which names the tests that are known to fail and says why.
// `make conformance` builds what it needs. It exits with 1 if a test fails that is not listed, or passes although it is.
//
// -focus is a regular expression that selects tests by name; -names a file with one whole name a line. -report writes the table of
// docs/conformance.md. With -reported the reports of an earlier run are read instead of running anything.
package main

import (
	"flag"
	"fmt"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/kontiki/kontiki/test/devcluster"
)

func main() {
	log.SetFlags(0)
	var o options
	flag.StringVar(&o.programs, "programs", "bin/upstream", "the directory of upstream's programs")
	flag.StringVar(&o.work, "work", "bin/conformance", "the directory for the images and the results")
	flag.StringVar(&o.known, "known", "test/conformance/known.txt", "the tests that are known to fail")
	flag.StringVar(&o.focus, "focus", "", "run only tests whose name matches a regular expression")
	flag.StringVar(&o.names, "names", "", "run only the tests that a file names, one a line")
	flag.StringVar(&o.report, "report", "", "write the table of results to a file")
	flag.StringVar(&o.reported, "reported", "", "read the reports (junit*.xml) in a directory instead of running the tests")
	flag.IntVar(&o.procs, "procs", 3, "tests at a time")
	flag.DurationVar(&o.limit, "timeout", defaultLimit, "the time limit of the whole run")
	flag.Parse()
	if err := o.run(); err != nil {
		log.Fatalf("conformance: %v", err)
	}
}

func (o *options) run() error {
	for _, dir := range []*string{&o.programs, &o.work} {
		absolute, err := filepath.Abs(*dir)
		if err != nil {
			return err
		}
		*dir = absolute
	}
	known, err := readKnown(o.known)
	if err != nil {
		return err
	}
	if o.reported != "" {
		results, err := collect(o.reported)
		if err != nil {
			return err
		}
		return o.conclude(nil, results, known)
	}
	names, err := o.selected()
	if err != nil {
		return err
	}
	archive := filepath.Join(o.work, "images.tar")
	if _, err := os.Stat(archive); os.IsNotExist(err) {
		log.Printf("building the test images: %s", archive)
		err = buildImages(archive, o.programs, filepath.Join(o.work, "debian"))
		if err != nil {
			return err
		}
	}
	results, err := o.onCluster(archive, names)
	if err != nil {
		return err
	}
	return o.conclude(names, results, known)
}

// conclude prints and reports results, and compares them with what is known to fail.
func (o *options) conclude(names []string, results []result, known []group) error {
	for _, r := range results {
		fmt.Println(r)
	}
	if o.report != "" {
		if err := os.WriteFile(o.report, []byte(report(results, known)), 0o644); err != nil {
			return err
		}
	}
	return verdict(names, results, known)
}

// selected returns the names of the tests to run.
func (o *options) selected() ([]string, error) {
	all, err := o.list()
	if err != nil {
		return nil, err
	}
	if o.names != "" {
		text, err := os.ReadFile(o.names)
		if err != nil {
			return nil, err
		}
		listed := strings.Split(string(text), "\n")
		all = slices.DeleteFunc(all, func(name string) bool { return !slices.Contains(listed, name) })
	}
	focus, err := regexp.Compile(o.focus)
	if err != nil {
		return nil, fmt.Errorf("-focus: %w", err)
	}
	all = slices.DeleteFunc(all, func(name string) bool { return !focus.MatchString(name) })
	if len(all) == 0 {
		return nil, fmt.Errorf("no test is selected")
	}
	return all, nil
}

// onCluster runs the tests on a cluster of their own, which it stops afterwards, also on an interrupt.
func (o *options) onCluster(archive string, names []string) (results []result, err error) {
	if err := os.Setenv("IMAGES", archive); err != nil {
		return nil, err
	}
	interrupted := make(chan os.Signal, 1)
	signal.Notify(interrupted, os.Interrupt, syscall.SIGTERM)
	cluster, err := devcluster.Start(os.Stderr, 3, 2)
	defer func() {
		if stopErr := cluster.Stop(); err == nil {
			err = stopErr
		}
	}()
	if err != nil {
		return nil, err
	}
	log.Printf("running %d tests, %d at a time; the suite's output is in %s", len(names), o.procs, o.output())
	return o.suite(cluster.Kubeconfig(), names, interrupted)
}

// verdict compares results with what is known to fail.
func verdict(names []string, results []result, known []group) error {
	ran := map[string]bool{}
	var surprises []string
	passed := 0
	for _, r := range results {
		ran[r.name] = true
		_, listed := reason(known, r.name)
		switch {
		case r.passed && listed:
			surprises = append(surprises, "passes, but is listed as failing: "+r.name)
		case !r.passed && !listed:
			surprises = append(surprises, "fails, and is not listed: "+r.name)
		}
		if r.passed {
			passed++
		}
	}
	for _, name := range names {
		if !ran[name] {
			surprises = append(surprises, "has no result: "+name)
		}
	}
	log.Printf("%d passed, %d failed", passed, len(results)-passed)
	if len(surprises) > 0 {
		return fmt.Errorf("the results are not as expected:\n  %s", strings.Join(surprises, "\n  "))
	}
	return nil
}
