// Package observe checks what is in deploy for Prometheus and Grafana with Prometheus' own packages: the scrape configuration, the rules, and every
// query of rules and dashboards, whose metrics and labels must be those that a real cluster has. It is a module of its own, because of
// Prometheus' dependencies; `make observe` runs it.
package observe

import (
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/model"
	"github.com/prometheus/prometheus/config"
	_ "github.com/prometheus/prometheus/discovery/kubernetes" // so that its configuration is understood
	"github.com/prometheus/prometheus/model/rulefmt"
	"github.com/prometheus/prometheus/promql/parser"
	"github.com/prometheus/prometheus/promql/promqltest"
)

const deploy = "../../deploy"

// query is a query of a rule or a panel.
type query struct{ where, text string }

var parse = parser.NewParser(parser.Options{})

// rules returns the groups of rules.
func rules(t *testing.T) *rulefmt.RuleGroups {
	t.Helper()
	groups, errs := rulefmt.ParseFile(filepath.Join(deploy, "prometheus", "rules.yml"), false, model.UTF8Validation, parse, slog.New(slog.DiscardHandler))
	for _, err := range errs {
		t.Error(err)
	}
	if t.Failed() {
		t.FailNow()
	}
	return groups
}

func TestTheScrapeConfigurationIsRead(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(deploy, "prometheus", "prometheus.yml"))
	if err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(string(text), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := c.GetScrapeConfigs()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, job := range jobs {
		names = append(names, job.JobName)
	}
	slices.Sort(names)
	if want := []string{"kontiki-containers", "kontiki-masters", "kontiki-objects", "kontiki-workers"}; !slices.Equal(names, want) {
		t.Errorf("jobs %q, want %q", names, want)
	}
}

// grafanaVariables are replaced by values that Prometheus understands.
var grafanaVariables = regexp.MustCompile(`\$__rate_interval|\$[a-z]+`)

// queries returns the queries of all rules and panels.
func queries(t *testing.T) (all []query) {
	t.Helper()
	for _, g := range rules(t).Groups {
		for _, r := range g.Rules {
			all = append(all, query{g.Name + "/" + r.Alert + r.Record, r.Expr})
		}
	}
	files, err := filepath.Glob(filepath.Join(deploy, "grafana", "*.json"))
	if err != nil || len(files) < 3 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var dashboard struct {
			Title  string
			Panels []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal(text, &dashboard); err != nil {
			t.Fatal(file, err)
		}
		for _, panel := range dashboard.Panels {
			for _, target := range panel.Targets {
				all = append(all, query{dashboard.Title + "/" + panel.Title, grafanaVariables.ReplaceAllStringFunc(target.Expr, func(v string) string {
					if v == "$__rate_interval" {
						return "5m"
					}
					return ".*"
				})})
			}
		}
	}
	return all
}

// TestQueriesAreRead: each query of a rule or panel is valid.
func TestQueriesAreRead(t *testing.T) {
	for _, q := range queries(t) {
		if _, err := parse.ParseExpr(q.text); err != nil {
			t.Errorf("%s: %v", q.where, err)
		}
	}
}

// TestAlerts: each of these alerts is raised by the series of its case, and not by those of a healthy cluster.
func TestAlerts(t *testing.T) {
	healthy := `
  up{job="kontiki-masters",instance="m1"} 1x60
  kontiki_raft_is_leader{instance="m1"} 1x60
  kontiki_raft_is_leader{instance="m2"} 0x60
  kontiki_raft_elections_total{instance="m1"} 1x60
  kontiki_raft_commit_index{instance="m1"} 0+100x60
  kontiki_raft_applied_index{instance="m1"} 0+100x60
  kontiki_raft_applied_index{instance="m2"} 0+100x60
  kontiki_raft_proposals_total{instance="m1",result="unknown"} 0x60
  kontiki_disk_full{instance="m1"} 0x60
  kontiki_disk_stalled{instance="m1"} 0x60
  kontiki_certificate_expiry_timestamp_seconds{instance="m1",use="api"} 9999999x60
  apiserver_request_panics_total{instance="m1"} 0x60
  kube_node_status_condition{node="w1",condition="Ready",status="true"} 1x60
  kube_node_status_condition{node="w1",condition="DiskPressure",status="true"} 0x60
  kube_deployment_spec_replicas{namespace="a",deployment="d"} 3x60
  kube_deployment_status_replicas_available{namespace="a",deployment="d"} 3x60
  kube_pod_status_phase{namespace="a",pod="p",phase="Pending"} 0x60
  kubelet_volume_stats_available_bytes{namespace="a",persistentvolumeclaim="c"} 50x60
  kubelet_volume_stats_capacity_bytes{namespace="a",persistentvolumeclaim="c"} 100x60
  kube_horizontalpodautoscaler_status_current_replicas{namespace="a",horizontalpodautoscaler="h"} 3x60
  kube_horizontalpodautoscaler_spec_max_replicas{namespace="a",horizontalpodautoscaler="h"} 10x60
  kube_horizontalpodautoscaler_spec_min_replicas{namespace="a",horizontalpodautoscaler="h"} 1x60
  kube_job_failed{namespace="a",job_name="j",condition="true"} 0x60
  kubeproxy_sync_proxy_rules_nftables_sync_failures_total{node="w1"} 0x60
  coredns_dns_responses_total{node="w1",rcode="NOERROR"} 0+60x60
  coredns_dns_responses_total{node="w1",rcode="SERVFAIL"} 0x60
`
	cases := map[string]string{ // series that replace those of the healthy cluster
		"KontikiMasterDown":                 `up{job="kontiki-masters",instance="m1"} 0x60`,
		"KontikiNoLeader":                   `kontiki_raft_is_leader{instance="m1"} 0x60`,
		"KontikiManyElections":              `kontiki_raft_elections_total{instance="m1"} 0+1x60`,
		"KontikiMasterBehind":               `kontiki_raft_applied_index{instance="m2"} 0x60` + "\n  " + `kontiki_raft_commit_index{instance="m1"} 0+1000x60` + "\n" + `kontiki_raft_applied_index{instance="m1"} 0+1000x60`,
		"KontikiUnknownOutcomes":            `kontiki_raft_proposals_total{instance="m1",result="unknown"} 0+1x60`,
		"KontikiDiskFull":                   `kontiki_disk_full{instance="m1"} 1x60`,
		"KontikiDiskStalled":                `kontiki_disk_stalled{instance="m1"} 1x60`,
		"KontikiCertificateExpires":         `kontiki_certificate_expiry_timestamp_seconds{instance="m1",use="api"} 5000x60`,
		"KontikiAPIPanics":                  `apiserver_request_panics_total{instance="m1"} 0+1x60`,
		"KontikiNodeNotReady":               `kube_node_status_condition{node="w1",condition="Ready",status="true"} 0x60`,
		"KontikiNodePressure":               `kube_node_status_condition{node="w1",condition="DiskPressure",status="true"} 1x60`,
		"KontikiDeploymentReplicasMismatch": `kube_deployment_status_replicas_available{namespace="a",deployment="d"} 2x60`,
		"KontikiPodNotReady":                `kube_pod_status_phase{namespace="a",pod="p",phase="Pending"} 1x60`,
		"KontikiPodCrashLooping":            `kube_pod_container_status_waiting_reason{namespace="a",pod="p",container="c",reason="CrashLoopBackOff"} 1x60`,
		"KontikiVolumeFillsUp":              `kubelet_volume_stats_available_bytes{namespace="a",persistentvolumeclaim="c"} 1x60`,
		"KontikiAutoscalerAtMaximum":        `kube_horizontalpodautoscaler_status_current_replicas{namespace="a",horizontalpodautoscaler="h"} 10x60`,
		"KontikiJobFailed":                  `kube_job_failed{namespace="a",job_name="j",condition="true"} 1x60`,
		"KontikiServiceRulesFail":           `kubeproxy_sync_proxy_rules_nftables_sync_failures_total{node="w1"} 0+1x60`,
		"KontikiDNSFails":                   `coredns_dns_responses_total{node="w1",rcode="SERVFAIL"} 0+60x60`,
	}
	alerts := map[string]rulefmt.Rule{}
	for _, g := range rules(t).Groups {
		for _, r := range g.Rules {
			if r.Alert != "" {
				alerts[r.Alert] = r
				if r.Annotations["summary"] == "" || r.Annotations["action"] == "" || r.Labels["severity"] == "" {
					t.Errorf("%s does not say what is wrong, how bad it is, and what to do", r.Alert)
				}
			}
		}
	}
	for name, replaced := range cases {
		t.Run(name, func(t *testing.T) {
			rule, ok := alerts[name]
			if !ok {
				t.Fatal("there is no such alert")
			}
			if time.Duration(rule.For) > time.Hour {
				t.Fatal("it waits for longer than the series of this test")
			}
			series := map[string]string{}
			var order []string
			for _, line := range append(strings.Split(healthy, "\n"), strings.Split(replaced, "\n")...) {
				if line = strings.TrimSpace(line); line != "" {
					key := line[:strings.LastIndexByte(line, '}')+1]
					if series[key] == "" {
						order = append(order, key)
					}
					series[key] = line
				}
			}
			all := "\n"
			for _, key := range order {
				all += "  " + series[key] + "\n"
			}
			raised := func(series string) int {
				storage := promqltest.LoadedStorage(t, "load 1m"+series)
				defer storage.Close()
				engine := promqltest.NewTestEngine(t, false, 0, promqltest.DefaultMaxSamplesPerQuery)
				at := time.Unix(0, 0).Add(30 * time.Minute)
				q, err := engine.NewInstantQuery(t.Context(), storage, nil, rule.Expr, at)
				if err != nil {
					t.Fatal(err)
				}
				defer q.Close()
				result := q.Exec(t.Context())
				if result.Err != nil {
					t.Fatal(result.Err)
				}
				vector, err := result.Vector()
				if err != nil {
					t.Fatal(err)
				}
				return len(vector)
			}
			if n := raised(all); n != 1 {
				t.Errorf("raised %d times in the case", n)
			}
			if n := raised(healthy); n != 0 {
				t.Errorf("raised %d times in a healthy cluster", n)
			}
		})
	}
}
