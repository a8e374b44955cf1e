package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

// group is a reason, and the tests that are known to fail for it.
type group struct {
	reason string
	names  []string
}

// readKnown reads the list of tests that are known to fail: a line that begins with "# " is the reason of the names below it.
func readKnown(file string) ([]group, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var groups []group
	for number, line := range strings.Split(string(text), "\n") {
		line = strings.TrimSpace(line)
		reason, isReason := strings.CutPrefix(line, "# ")
		switch {
		case line == "":
		case isReason:
			groups = append(groups, group{reason: reason})
		case len(groups) == 0:
			return nil, fmt.Errorf("%s:%d: a test without a reason above it", file, number+1)
		default:
			last := &groups[len(groups)-1]
			last.names = append(last.names, line)
		}
	}
	return groups, nil
}

// reason returns why a test is known to fail; ok is false if it is not.
func reason(known []group, name string) (text string, ok bool) {
	for _, g := range known {
		if slices.Contains(g.names, name) {
			return g.reason, true
		}
	}
	return "", false
}

// report returns the results as Markdown: a table with a row for each special interest group, and the failures by reason.
func report(results []result, known []group) string {
	type count struct{ all, passed int }
	counts := map[string]*count{}
	var groups []string
	total := &count{}
	why := map[string][]string{}
	for _, r := range results {
		c := counts[r.group()]
		if c == nil {
			c = &count{}
			counts[r.group()] = c
			groups = append(groups, r.group())
		}
		for _, c := range []*count{c, total} {
			c.all++
			if r.passed {
				c.passed++
			}
		}
		if !r.passed {
			text, ok := reason(known, r.name)
			if !ok {
				text = "The cause is not known."
			}
			why[text] = append(why[text], r.name)
		}
	}
	slices.Sort(groups)
	var b strings.Builder
	fmt.Fprintln(&b, "| group | tests | pass |\n|---|---|---|")
	for _, name := range groups {
		fmt.Fprintf(&b, "| %s | %d | %d |\n", name, counts[name].all, counts[name].passed)
	}
	fmt.Fprintf(&b, "| all | %d | %d |\n", total.all, total.passed)
	for _, g := range append(slices.Clone(known), group{reason: "The cause is not known."}) {
		if names := why[g.reason]; len(names) > 0 {
			fmt.Fprintf(&b, "\n**%s** (%d)\n\n", g.reason, len(names))
			for _, name := range names {
				fmt.Fprintf(&b, "- %s\n", strings.TrimSpace(strings.ReplaceAll(name, "[Conformance]", "")))
			}
		}
	}
	return b.String()
}
