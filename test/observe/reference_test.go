package observe

import (
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

const referenceFile = "../../docs/reference-metrics.md"

const referenceHead = `# Reference: metrics

Made from what a cluster serves, by ` + "`make observe UPDATE=1`; `make observe`" + ` compares it. How to scrape, with which rights, and what the groups are about: [metrics.md](metrics.md).
Not here are metrics of Go's runtime and of the process (` + "`go_*`, `process_*`" + `), and those that appear only when what they count has happened: of
[webhooks and policies](admission.md#metrics), [custom resources](custom-resources.md#metrics), [extension API servers](aggregation.md#metrics), rejected requests and failed operations.
`

// paths are what is scraped, with the headings of the reference.
var paths = []struct{ heading, path string }{
	{"Masters: `/metrics`", "/metrics"},
	{"Objects: `/metrics/state` of any master", "/metrics/state"},
	{"Workers: `/metrics`", "/api/v1/nodes/worker-1/proxy/metrics"},
	{"Workers: `/metrics/cadvisor`", "/api/v1/nodes/worker-1/proxy/metrics/cadvisor"},
	{"Workers: `/metrics/resource`", "/api/v1/nodes/worker-1/proxy/metrics/resource"},
	{"Workers: `/metrics/probes`", "/api/v1/nodes/worker-1/proxy/metrics/probes"},
}

// A described metric is a row of the reference.
type described struct {
	kind, help string
	labels     map[string]bool
}

func (d described) row(name string) string {
	var labels []string
	for _, l := range slices.Sorted(maps.Keys(d.labels)) {
		labels = append(labels, "`"+l+"`")
	}
	return fmt.Sprintf("| `%s` | %s | %s | %s |", name, d.kind, strings.Join(labels, ", "), strings.ReplaceAll(d.help, "|", `\|`))
}

// described returns the metrics of a path.
func (c *cluster) described(path string) map[string]described {
	c.t.Helper()
	reader := expfmt.NewTextParser(model.UTF8Validation)
	families, err := reader.TextToMetricFamilies(strings.NewReader(c.run("kubectl", "get", "--raw", path)))
	if err != nil {
		c.t.Fatalf("%s: %v", path, err)
	}
	found := map[string]described{}
	for name, family := range families {
		if strings.HasPrefix(name, "go_") || strings.HasPrefix(name, "process_") {
			continue
		}
		d := described{strings.ToLower(family.GetType().String()), strings.TrimSpace(family.GetHelp()), map[string]bool{}}
		for _, m := range family.Metric {
			for _, l := range m.Label {
				d.labels[l.GetName()] = true
			}
		}
		found[name] = d
	}
	return found
}

var referenceRow = regexp.MustCompile("^\\| `([^`]+)` \\| (\\w+) \\| ([^|]*) \\| (.*) \\|$")

// readReference returns the rows of the reference, by heading and name.
func readReference(text string) map[string]map[string]described {
	all := map[string]map[string]described{}
	var at map[string]described
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		if heading, ok := strings.CutPrefix(line, "## "); ok {
			at = map[string]described{}
			all[heading] = at
		} else if m := referenceRow.FindStringSubmatch(line); m != nil {
			d := described{m[2], strings.ReplaceAll(m[4], `\|`, "|"), map[string]bool{}}
			for _, l := range strings.FieldsFunc(m[3], func(r rune) bool { return strings.ContainsRune("`, ", r) }) {
				d.labels[l] = true
			}
			at[m[1]] = d
		}
	}
	return all
}

// checkReference compares the reference with what the cluster serves: every metric is in it with its type, description and labels. Labels and metrics that
// this cluster happens not to show stay in it. With UPDATE in the environment it is written.
func checkReference(t *testing.T, c *cluster) {
	text, err := os.ReadFile(referenceFile)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	known := readReference(string(text))
	var page strings.Builder
	page.WriteString(referenceHead)
	total := 0
	for _, p := range paths {
		rows := known[p.heading]
		if rows == nil {
			rows = map[string]described{}
		}
		for name, now := range c.described(p.path) {
			total++
			then, ok := rows[name]
			missing := false
			for l := range now.labels {
				missing = missing || !then.labels[l]
			}
			if !ok || then.kind != now.kind || then.help != now.help || missing {
				if os.Getenv("UPDATE") == "" {
					t.Errorf("%s: %s is not in docs/reference-metrics.md as it is: run `make observe UPDATE=1`\nis:  %s\nwas: %s", p.path, name, now.row(name), then.row(name))
				}
				maps.Copy(now.labels, then.labels)
				rows[name] = now
			}
		}
		fmt.Fprintf(&page, "\n## %s\n\n| name | type | labels | what |\n|---|---|---|---|\n", p.heading)
		for _, name := range slices.Sorted(maps.Keys(rows)) {
			page.WriteString(rows[name].row(name) + "\n")
		}
	}
	if total < 150 {
		t.Errorf("the cluster has only %d metrics", total)
	}
	if os.Getenv("UPDATE") != "" {
		if err := os.WriteFile(referenceFile, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if page.String() != string(text) {
		t.Error("docs/reference-metrics.md was changed by hand: run `make observe UPDATE=1`")
	}
}
