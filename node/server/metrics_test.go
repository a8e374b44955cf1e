package server

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/types"
	kubeletv1beta1 "k8s.io/kubelet/config/v1beta1"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/stats"
	"github.com/kontiki/kontiki/node/volume"
	"github.com/kontiki/kontiki/test/gathered"
)

// used is what the container "c" of each test uses.
var used = runtime.Stats{RootfsBytes: 4096, LogBytes: 10, Usage: runtime.Usage{
	CPUNanoseconds: 3e9, CPUUserNanoseconds: 2e9, CPUSystemNanoseconds: 1e9, Periods: 9, ThrottledPeriods: 4, ThrottledNanoseconds: 5e8,
	MemoryBytes: 300, MemoryWorkingSet: 200, MemoryRSS: 100, MemoryCache: 50, SwapBytes: 25, MemoryFailures: 2, PageFaults: 8, MajorPageFaults: 1,
	Processes: 6, ReadBytes: 11, WriteBytes: 12, Reads: 13, Writes: 14,
	CPUPressure: &runtime.Pressure{Some: runtime.Stall{Avg10: 1.5, TotalNanoseconds: 2e9}}, MemoryPressure: &runtime.Pressure{}, IOPressure: &runtime.Pressure{},
}}

// TestMetricsOfContainers: the collectors tell what the runtime measures. gathered checks them with the pedantic registry.
func TestMetricsOfContainers(t *testing.T) {
	r := newRig(t)
	r.rt.SetStats("c", used)
	id := r.run("a", false, "sleep", "1000")
	r.run("b", false, "sleep", "1000")
	s := New(Config{Pods: r.pods, Runtime: r.rt, Dir: r.dir})
	resource := gathered.Values(t, &resourceCollector{s})
	cadvisor := gathered.Values(t, &cadvisorCollector{s})
	for name, want := range map[string]float64{
		`container_cpu_usage_seconds_total{container="c",namespace="ns",pod="a"}`:  3,
		`container_memory_working_set_bytes{container="c",namespace="ns",pod="b"}`: 200,
		`container_swap_usage_bytes{container="c",namespace="ns",pod="a"}`:         25,
		`pod_cpu_usage_seconds_total{namespace="ns",pod="a"}`:                      3,
		`pod_memory_working_set_bytes{namespace="ns",pod="b"}`:                     200,
		`resource_scrape_error{}`: 0,
	} {
		if got, ok := resource[name]; !ok || got != want {
			t.Errorf("%s is %v (%v), want %v", name, got, ok, want)
		}
	}
	if resource[`node_cpu_usage_seconds_total{}`] == 0 || resource[`node_memory_working_set_bytes{}`] == 0 {
		t.Errorf("nothing about the node: %v", resource)
	}
	// named returns a metric of the container of pod a, with further labels that stand before or after those that all have.
	named := func(name, before, after string) string {
		return name + `{container="c",` + before + `id="/` + id + `",image="` + image + `",name="` + id + `",namespace="ns",pod="a"` + after + "}"
	}
	for name, want := range map[string]float64{
		named("container_cpu_usage_seconds_total", `cpu="total",`, ""):                            3,
		named("container_cpu_system_seconds_total", "", ""):                                       1,
		named("container_cpu_cfs_throttled_periods_total", "", ""):                                4,
		named("container_memory_rss", "", ""):                                                     100,
		named("container_memory_cache", "", ""):                                                   50,
		named("container_memory_failures_total", `failure_type="pgfault",`, `,scope="container"`): 8,
		named("container_fs_usage_bytes", `device="",`, ""):                                       4096,
		named("container_fs_reads_bytes_total", `device="",`, ""):                                 11,
		named("container_pressure_cpu_waiting_seconds_total", "", ""):                             2,
		"container_scrape_error{}":                                                                0,
	} {
		if got, ok := cadvisor[name]; !ok || got != want {
			t.Errorf("%s is %v (%v), want %v", name, got, ok, want)
		}
	}
	if cadvisor["machine_cpu_cores{}"] == 0 || cadvisor["machine_memory_bytes{}"] == 0 {
		t.Error("nothing about the machine")
	}
	if cadvisor[`container_cpu_usage_seconds_total{container="",cpu="total",id="/",image="",name="",namespace="",pod=""}`] == 0 {
		t.Error("nothing about the node as a whole")
	}
}

// TestOneNameHasOneMetric: while a pod ends, another of its name may run already.
func TestOneNameHasOneMetric(t *testing.T) {
	r := newRig(t)
	r.rt.SetStats("c", used)
	r.run("a", false, "sleep", "1000")
	earlier := *r.pods.pods[0]
	box := runtime.SandboxConfig{UID: "uid-earlier", Namespace: "ns", Name: "a", Net: runtime.NamespaceHost}
	if _, err := r.rt.EnsureSandbox(t.Context(), box); err != nil {
		t.Fatal(err)
	}
	id, err := r.rt.CreateContainer(t.Context(), runtime.ContainerConfig{Sandbox: box, Name: "c", Image: image, Command: []string{"sleep", "1000"}, LogPath: filepath.Join(t.TempDir(), "0.log")})
	if err != nil {
		t.Fatal(err)
	}
	if err := r.rt.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	earlier.UID = types.UID("uid-earlier")
	r.pods.pods = append(r.pods.pods, &earlier)
	s := New(Config{Pods: r.pods, Runtime: r.rt})
	for _, c := range []prometheus.Collector{&resourceCollector{s}, &cadvisorCollector{s}} {
		gathered.Values(t, c) // fails if a metric appears twice
	}
}

// TestInterfacesThatCannotBeToldOfAreLeftOut: a pod names its interfaces as it likes, and may rename them while they are read.
func TestInterfacesThatCannotBeToldOfAreLeftOut(t *testing.T) {
	const values = ": 1 2 3 4 0 0 0 0 5 6 7 8 0 0 0 0\n"
	dev := "Inter-| Receive | Transmit\n face |bytes|bytes\n"
	for _, name := range []string{"lo", "eth0", "\xff\xfe", "eth0", "wlan-\u00fc", `{"}`} {
		dev += name + values
	}
	used := stats.Interfaces(strings.NewReader(dev))
	var names []string
	for _, u := range used {
		names = append(names, u.Name)
	}
	if want := []string{"eth0", "wlan-\u00fc", `{"}`}; !slices.Equal(names, want) {
		t.Fatalf("interfaces %q, want %q", names, want)
	}
	metrics := make(chan prometheus.Metric, len(used)*len(ofNetwork))
	network(metrics, time.Now(), used, []string{"POD", "/pod", "", "POD", "ns", "a"}) // panics if a label is invalid
	if len(metrics) != cap(metrics) {
		t.Errorf("%d metrics, want %d", len(metrics), cap(metrics))
	}
}

func TestSummary(t *testing.T) {
	r := newRigWith(t, func(c *Config) {
		c.Dir = t.TempDir()
		c.Volumes = func(context.Context, string) []volume.Usage {
			u := volume.Usage{Volume: "data", Claim: "claim"}
			u.Bytes.Total, u.Bytes.Used, u.Bytes.Available, u.Inodes.Total = 7000, 5000, 2000, 9
			return []volume.Usage{u}
		}
	})
	r.rt.SetStats("c", used)
	r.run("a", false, "sleep", "1000")
	code, body := r.get(r.rest, "/stats/summary")
	for _, want := range []string{`"capacityBytes":`, `"usageCoreNanoSeconds":3000000000`, `"workingSetBytes":200`, `"usedBytes":4096`, `"swapUsageBytes":25`,
		`"capacityBytes":7000,"usedBytes":5000`, `"name":"data","pvcRef":{"name":"claim","namespace":"ns"}`,
		`"process_count":6`, `"psi":{"full":{"total":0,"avg10":0,"avg60":0,"avg300":0},"some":{"total":2000000000,"avg10":1.5,"avg60":0,"avg300":0}}`} {
		if code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%d: there is no %s in %s", code, want, body)
		}
	}
}

func TestMetricsOfClaims(t *testing.T) {
	r := newRigWith(t, func(c *Config) {
		c.Volumes = func(_ context.Context, uid string) []volume.Usage {
			u := volume.Usage{Volume: "data", Claim: "shared"}
			u.Bytes.Total, u.Bytes.Used, u.Inodes.Available = 7000, 5000, 9
			return []volume.Usage{u, {Volume: "inline"}}
		}
	})
	r.run("a", false, "sleep", "1000")
	r.run("b", false, "sleep", "1000") // it uses the same claim
	code, body := r.get(r.rest, "/metrics")
	for _, want := range []string{`kubelet_volume_stats_capacity_bytes{namespace="ns",persistentvolumeclaim="shared"} 7000`,
		`kubelet_volume_stats_used_bytes{namespace="ns",persistentvolumeclaim="shared"} 5000`, `kubelet_volume_stats_inodes_free{namespace="ns",persistentvolumeclaim="shared"} 9`} {
		if code != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%d: there is no %s in %s", code, want, body)
		}
	}
}

func TestFurtherPaths(t *testing.T) {
	r := newRigWith(t, func(c *Config) {
		c.Configuration = func() *kubeletv1beta1.KubeletConfiguration { return &kubeletv1beta1.KubeletConfiguration{MaxPods: 7} }
	})
	r.run("a", false, "sleep", "1000")
	for _, x := range []struct {
		path string
		code int
		body string
	}{
		{"/configz", http.StatusOK, `"maxPods":7`},
		{"/runningpods/", http.StatusOK, `"image":"` + image + `"`},
		{"/metrics/probes", http.StatusOK, ""},
		{"/checkpoint/ns/a/c", http.StatusMethodNotAllowed, ""},
	} {
		if code, body := r.get(r.rest, x.path); code != x.code || !strings.Contains(body, x.body) {
			t.Errorf("%s: %d %s", x.path, code, body)
		}
	}
}

// TestLogsOfTheHost: nothing outside the directory is shown, and nothing that hangs.
func TestLogsOfTheHost(t *testing.T) {
	logs := t.TempDir()
	outside := filepath.Join(t.TempDir(), "secret")
	for path, content := range map[string]string{filepath.Join(logs, "a.log"): "hello", filepath.Join(logs, "<b>&"): "x", outside: "secret"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"out": outside, "in": "a.log", "up": filepath.Join("..", filepath.Base(filepath.Dir(outside)), "secret")} {
		if err := os.Symlink(target, filepath.Join(logs, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mkfifo(filepath.Join(logs, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	server := &Server{hostLogs: logs}
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		server.hostLog(w, &http.Request{Method: http.MethodGet, URL: &url.URL{Path: path}})
		return w.Code, w.Body.String()
	}
	for path, want := range map[string]struct {
		code int
		body string
	}{
		"/logs/":                 {200, `<a href="%3Cb%3E&amp;">&lt;b&gt;&amp;</a>`},
		"/logs/a.log":            {200, "hello"},
		"/logs/in":               {200, "hello"},
		"/logs/out":              {404, ""},
		"/logs/up":               {404, ""},
		"/logs/fifo":             {403, "no regular file"},
		"/logs/none":             {404, ""},
		"/logs/../../etc/passwd": {404, ""},
	} {
		if code, body := get(path); code != want.code || !strings.Contains(body, want.body) || strings.Contains(body, "secret") {
			t.Errorf("%s: %d %q", path, code, body)
		}
	}
}
