package cis

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Result is the answer to a recommendation.
type Result string

// The results.
const (
	Pass          Result = "pass"
	Fail          Result = "fail"
	NotApplicable Result = "not applicable"
	Manual        Result = "manual"
)

// Benchmark is the version whose ids are answered.
const Benchmark = "CIS Kubernetes Benchmark v1.11"

// Finding is the answer to one recommendation.
type Finding struct {
	ID     string `json:"id"`
	Title  string `json:"title"`
	Result Result `json:"result"`
	// Reason says why, and for a failure what to do.
	Reason string `json:"reason"`
	// Found names what was found, at most mostFound of it.
	Found []string `json:"found,omitempty"`
}

// mostFound limits what a finding names, and More counts the rest in the last line.
const mostFound = 20

// Report has the answers in the order of their ids.
type Report struct {
	Benchmark string `json:"benchmark"`
	// Master is the master whose flags were read, and Host the host whose files were looked at.
	Master   string         `json:"master,omitempty"`
	Host     string         `json:"host"`
	Summary  map[Result]int `json:"summary"`
	Findings []Finding      `json:"findings"`
}

// answer is what a check says.
type answer struct {
	result Result
	reason string
	found  []string
}

func passes(reason string) answer { return answer{result: Pass, reason: reason} }
func fails(reason string, found ...string) answer {
	return answer{result: Fail, reason: reason, found: found}
}
func manual(reason string, found ...string) answer {
	return answer{result: Manual, reason: reason, found: found}
}

// check is a row of the table.
type check struct {
	id, title string
	ask       func(f *Facts) answer
}

// built is the answer of how Kontiki is built.
func built(reason string) func(*Facts) answer {
	return func(*Facts) answer { return passes(reason) }
}

// never is the answer of what Kontiki does not have.
func never(reason string) func(*Facts) answer {
	return func(*Facts) answer { return answer{result: NotApplicable, reason: reason} }
}

// person is the answer of what only a person can say.
func person(reason string) func(*Facts) answer {
	return func(*Facts) answer { return manual(reason) }
}

// Answer answers every recommendation.
func Answer(ctx context.Context, f *Facts) (*Report, error) {
	if err := f.gather(ctx); err != nil {
		return nil, err
	}
	r := &Report{Benchmark: Benchmark, Master: f.Master, Host: f.Host, Summary: map[Result]int{}}
	for _, c := range slices.Concat(controlPlane, store, configuration, workers, policies) {
		a := c.ask(f)
		if more := len(a.found) - mostFound; more > 0 {
			a.found = append(slices.Clone(a.found[:mostFound]), fmt.Sprintf("and %d more", more))
		}
		r.Findings = append(r.Findings, Finding{c.id, c.title, a.result, a.reason, a.found})
		r.Summary[a.result]++
	}
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return compareIDs(a.ID, b.ID) })
	return r, nil
}

// compareIDs compares ids number by number.
func compareIDs(a, b string) int {
	return slices.CompareFunc(strings.Split(a, "."), strings.Split(b, "."), func(x, y string) int {
		n, _ := strconv.Atoi(x)
		m, _ := strconv.Atoi(y)
		return cmp.Compare(n, m)
	})
}

// sections are the headings of the printed report.
var sections = map[string]string{
	"1.1": "Control plane: files of the host", "1.2": "Control plane: API", "1.3": "Control plane: controllers", "1.4": "Control plane: scheduler",
	"2": "Store (etcd in the benchmark, Raft here)", "3.1": "Authentication", "3.2": "Audit log",
	"4.1": "Workers: files of the host", "4.2": "Workers: agent (kubelet in the benchmark)", "4.3": "Workers: service routing (kube-proxy in the benchmark)",
	"5.1": "Policies: RBAC and service accounts", "5.2": "Policies: pod security", "5.3": "Policies: network", "5.4": "Policies: Secrets",
	"5.5": "Policies: admission", "5.6": "Policies: general",
}

// Print writes the report for people. Only with verbose it has what passes or does not apply, one by one.
func (r *Report) Print(out io.Writer, verbose bool) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s, flags of master %s, files of host %s\n", r.Benchmark, cmp.Or(r.Master, "(unknown)"), r.Host)
	last := ""
	for _, f := range r.Findings {
		if !verbose && (f.Result == Pass || f.Result == NotApplicable) {
			continue
		}
		section := sectionOf(f.ID)
		if section != last {
			fmt.Fprintf(&b, "\n%s %s\n", section, sections[section])
			last = section
		}
		fmt.Fprintf(&b, "  %-7s %-14s %s\n", f.ID, strings.ToUpper(string(f.Result)), f.Title)
		fmt.Fprintf(&b, "  %-7s %-14s %s\n", "", "", f.Reason)
		for _, found := range f.Found {
			fmt.Fprintf(&b, "  %-7s %-14s - %s\n", "", "", found)
		}
	}
	fmt.Fprintf(&b, "\n%d pass, %d fail, %d manual, %d not applicable\n", r.Summary[Pass], r.Summary[Fail], r.Summary[Manual], r.Summary[NotApplicable])
	_, err := io.WriteString(out, b.String())
	return err
}

func sectionOf(id string) string {
	if parts := strings.Split(id, "."); len(parts) == 3 {
		return parts[0] + "." + parts[1]
	}
	return strings.Split(id, ".")[0]
}
