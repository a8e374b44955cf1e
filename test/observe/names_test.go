package observe

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/promql/parser"
)

// workloads make every metric appear that needs something of the cluster.
const workloads = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: "kontiki/tools:1", command: [tools, serve], resources: {requests: {cpu: 10m, memory: 8Mi}, limits: {cpu: 100m, memory: 64Mi}}}]}
---
apiVersion: v1
kind: Pod
metadata: {name: looker}
spec: {containers: [{name: c, image: "kontiki/tools:1", command: [tools, lookup, kubernetes.default]}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: fails}
spec: {backoffLimit: 0, template: {spec: {restartPolicy: Never, containers: [{name: c, image: "kontiki/tools:1", command: [tools, exit, "1"]}]}}}
`

// unseen are metrics that need what this cluster does not have, with their labels: volumes whose use a driver tells.
var unseen = map[string][]string{
	"kubelet_volume_stats_available_bytes":          {"namespace", "persistentvolumeclaim"},
	"kubelet_volume_stats_capacity_bytes":           {"namespace", "persistentvolumeclaim"},
	"kubelet_volume_stats_used_bytes":               {"namespace", "persistentvolumeclaim"},
	"apiserver_flowcontrol_rejected_requests_total": {"flow_schema", "priority_level", "reason"}, // none was rejected
}

// ofScraping are labels that Prometheus or the scrape configuration adds.
var ofScraping = []string{"job", "instance", "node", "le"}

// cluster runs commands on a cluster of the binary that KONTIKI names, which ends with the test.
type cluster struct {
	t       *testing.T
	program string
	dir     string
}

func start(t *testing.T) *cluster {
	t.Helper()
	program, images := os.Getenv("KONTIKI"), os.Getenv("IMAGES")
	if program == "" || images == "" || os.Geteuid() != 0 {
		t.Skip("KONTIKI and IMAGES must name the binary and the archive of images, and this needs root: `make observe` does it")
	}
	dir, err := os.MkdirTemp("", "kto") // paths of sockets below it are limited
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{t, program, filepath.Join(dir, "c")}
	t.Cleanup(func() {
		if _, err := c.try("dev", "stop", "--purge", "--data-dir", c.dir); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	c.run("dev", "--data-dir", c.dir, "--masters", "1", "--workers", "1", "--api-port", "36443", "--detach")
	c.run("image", "import", images)
	return c
}

func (c *cluster) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, c.program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+filepath.Join(c.dir, "kubeconfig"))
	var out, problems bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &problems
	if strings.Contains(strings.Join(args, " "), "apply -f -") {
		cmd.Stdin = strings.NewReader(workloads)
	}
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("kontiki %s: %w: %s", strings.Join(args, " "), err, problems.String())
	}
	return out.String(), nil
}

func (c *cluster) run(args ...string) string {
	c.t.Helper()
	out, err := c.try(args...)
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// scraped returns the labels of each metric that the cluster has, by name.
func (c *cluster) scraped() map[string]map[string]bool {
	c.t.Helper()
	found := map[string]map[string]bool{"up": {}}
	for _, path := range []string{"/metrics", "/metrics/state", "/api/v1/nodes/worker-1/proxy/metrics", "/api/v1/nodes/worker-1/proxy/metrics/cadvisor"} {
		reader := expfmt.NewTextParser(model.UTF8Validation)
		families, err := reader.TextToMetricFamilies(strings.NewReader(c.run("kubectl", "get", "--raw", path)))
		if err != nil {
			c.t.Fatalf("%s: %v", path, err)
		}
		for name, family := range families {
			names := []string{name}
			if family.GetType().String() == "HISTOGRAM" {
				names = append(names, name+"_bucket", name+"_sum", name+"_count")
			}
			for _, n := range names {
				if found[n] == nil {
					found[n] = map[string]bool{}
				}
				for _, m := range family.Metric {
					for _, l := range m.Label {
						found[n][l.GetName()] = true
					}
				}
			}
		}
	}
	return found
}

// TestNamesExist: each metric that a query of a rule or a panel uses is one that a real cluster has, with the labels that the query uses.
func TestNamesExist(t *testing.T) {
	c := start(t)
	c.run("kubectl", "apply", "-f", "-")
	c.run("kubectl", "rollout", "status", "deployment/web", "--timeout=120s")
	c.run("kubectl", "autoscale", "deployment", "web", "--min=1", "--max=2", "--cpu=50%")
	c.run("kubectl", "wait", "job/fails", "--for=condition=Failed", "--timeout=120s")
	c.run("kubectl", "wait", "hpa/web", "--for=condition=AbleToScale", "--timeout=120s")
	c.run("kubectl", "wait", "pod/looker", "--for=jsonpath={.status.containerStatuses[0].state.waiting.reason}=CrashLoopBackOff", "--timeout=120s")
	found := c.scraped()
	for name, of := range unseen {
		if found[name] == nil {
			found[name] = map[string]bool{}
		}
		for _, label := range of {
			found[name][label] = true
		}
	}
	all := queries(t)
	for _, g := range rules(t).Groups {
		for _, r := range g.Rules {
			if r.Record != "" {
				found[r.Record] = map[string]bool{"namespace": true}
			}
		}
	}
	for _, q := range all {
		expr, err := parse.ParseExpr(q.text)
		if err != nil {
			t.Fatal(q.where, err)
		}
		checkNames(t, q, expr, found)
	}
}

// checkNames checks the metrics and labels of a query.
func checkNames(t *testing.T, q query, expr parser.Expr, found map[string]map[string]bool) {
	t.Helper()
	parser.Inspect(expr, func(node parser.Node, _ []parser.Node) error {
		switch n := node.(type) {
		case *parser.VectorSelector:
			known, ok := found[n.Name]
			if !ok {
				t.Errorf("%s: the cluster has no metric %s", q.where, n.Name)
				return nil
			}
			for _, m := range n.LabelMatchers {
				if m.Name != model.MetricNameLabel && !has(known, m.Name) {
					t.Errorf("%s: %s has no label %s", q.where, n.Name, m.Name)
				}
			}
		case *parser.AggregateExpr:
			for _, label := range n.Grouping {
				some := false
				parser.Inspect(n.Expr, func(inner parser.Node, _ []parser.Node) error {
					if v, ok := inner.(*parser.VectorSelector); ok {
						some = some || has(found[v.Name], label)
					}
					return nil
				})
				if !some {
					t.Errorf("%s: nothing in %s has the label %s", q.where, n, label)
				}
			}
		}
		return nil
	})
}

func has(known map[string]bool, label string) bool {
	for _, added := range ofScraping {
		if label == added {
			return true
		}
	}
	return known[label]
}
