package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const junit = `<testsuites><testsuite><testcase name="[BeforeSuite]"></testcase>
<testcase name="[It] [sig-auth] a [Conformance]"></testcase>
<testcase name="[It] [sig-auth] b [Conformance]"><failure message="">

  expected 1
  got 2</failure></testcase>
<testcase name="[It] [sig-cli] c [Conformance]"><error message="it panicked"></error></testcase>
<testcase name="[It] [sig-cli] d [Conformance]"><skipped></skipped></testcase></testsuite></testsuites>`

func results(t *testing.T) []result {
	out, err := parse([]byte(junit))
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestReportsAreParsed(t *testing.T) {
	want := []string{"PASS [sig-auth] a [Conformance]", "FAIL [sig-auth] b [Conformance] -- expected 1", "FAIL [sig-cli] c [Conformance] -- it panicked"}
	got := results(t)
	if len(got) != len(want) {
		t.Fatalf("results %v", got)
	}
	for i := range want {
		if got[i].String() != want[i] {
			t.Errorf("%s, want %s", got[i], want[i])
		}
	}
	if _, err := parse([]byte("<testsuites><testsuite>")); err == nil {
		t.Error("half a report is accepted")
	}
}

func TestListedTests(t *testing.T) {
	got := listed([]byte("The following spec names can be used with 'ginkgo run --focus/skip':\n" +
		"    ../dir/b.go:7: [sig-x] b: with a colon [Conformance]\n    ../dir/a.go:3: [sig-x] a [Conformance]\n    ../dir/c.go:9: [sig-x] c\n"))
	if strings.Join(got, ",") != "[sig-x] a [Conformance],[sig-x] b: with a colon [Conformance]" {
		t.Errorf("%q", got)
	}
}

func TestVerdict(t *testing.T) {
	file := filepath.Join(t.TempDir(), "known.txt")
	known := func(text string) []group {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		groups, err := readKnown(file)
		if err != nil {
			t.Fatal(err)
		}
		return groups
	}
	a, b, c := "[sig-auth] a [Conformance]", "[sig-auth] b [Conformance]", "[sig-cli] c [Conformance]"
	asKnown := known("# It is not built.\n" + b + "\n\n# It is slow.\n" + c + "\n")
	if err := verdict([]string{a, b, c}, results(t), asKnown); err != nil {
		t.Error(err)
	}
	for want, err := range map[string]error{
		"fails, and is not listed: " + c:         verdict([]string{a, b, c}, results(t), known("# x\n"+b)),
		"passes, but is listed as failing: " + a: verdict([]string{a, b, c}, results(t), known("# x\n"+a+"\n"+b+"\n"+c)),
		"has no result: [sig-cli] d":             verdict([]string{a, b, c, "[sig-cli] d"}, results(t), asKnown),
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	text := report(results(t), asKnown)
	for _, part := range []string{"| sig-auth | 2 | 1 |\n", "| sig-cli | 1 | 0 |\n", "| all | 3 | 1 |\n",
		"**It is not built.** (1)\n\n- [sig-auth] b\n", "**It is slow.** (1)\n\n- [sig-cli] c\n"} {
		if !strings.Contains(text, part) {
			t.Errorf("%q is not in\n%s", part, text)
		}
	}
	if err := os.WriteFile(file, []byte("a\n# x\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := readKnown(file); err == nil {
		t.Error("a test without a reason is accepted")
	}
}

// TestKnownListIsWellFormed: each test is listed once, under a reason.
func TestKnownListIsWellFormed(t *testing.T) {
	groups, err := readKnown("known.txt")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, g := range groups {
		for _, name := range g.names {
			if seen[name] || !strings.HasPrefix(name, "[sig-") {
				t.Errorf("%q", name)
			}
			seen[name] = true
		}
	}
}
