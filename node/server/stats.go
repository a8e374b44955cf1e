package server

import (
	"bufio"
	"context"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/kontiki/kontiki/node/runtime"
)

// usage is one container's resource usage.
type usage struct {
	c runtime.Container
	s runtime.Stats
}

func (s *Server) usages(ctx context.Context) []usage {
	list, err := s.c.Runtime.ListContainers(ctx, "")
	if err != nil {
		return nil
	}
	var out []usage
	for _, c := range list {
		if c.State != runtime.StateRunning {
			continue
		}
		if st, err := s.c.Runtime.Stats(ctx, c.ID); err == nil {
			out = append(out, usage{c, st})
		}
	}
	return out
}

func (s *Server) stats(w http.ResponseWriter, r *http.Request) {
	now := metav1.Now()
	sum := stats.Summary{}
	if s.c.Node != nil {
		if n := s.c.Node(); n != nil {
			sum.Node.NodeName = n.Name
		}
	}
	n := nodeUsage()
	sum.Node.StartTime = metav1.NewTime(n.boot)
	sum.Node.CPU = &stats.CPUStats{Time: now, UsageCoreNanoSeconds: &n.cpu}
	sum.Node.Memory = &stats.MemoryStats{Time: now, AvailableBytes: &n.available, UsageBytes: &n.used, WorkingSetBytes: &n.used}
	pods := map[string]*stats.PodStats{}
	var order []string
	for _, u := range s.usages(r.Context()) {
		p := pods[u.c.PodUID]
		if p == nil {
			p = &stats.PodStats{PodRef: stats.PodReference{Name: u.c.PodName, Namespace: u.c.PodNamespace, UID: u.c.PodUID}, StartTime: metav1.NewTime(u.c.StartedAt)}
			zero := func() *uint64 { return new(uint64) }
			p.CPU = &stats.CPUStats{Time: now, UsageCoreNanoSeconds: zero()}
			p.Memory = &stats.MemoryStats{Time: now, UsageBytes: zero(), WorkingSetBytes: zero(), RSSBytes: zero()}
			pods[u.c.PodUID] = p
			order = append(order, u.c.PodUID)
		}
		st := u.s
		at := metav1.NewTime(st.Time)
		c := stats.ContainerStats{Name: u.c.Name, StartTime: metav1.NewTime(u.c.StartedAt),
			CPU:    &stats.CPUStats{Time: at, UsageCoreNanoSeconds: &st.CPUNanoseconds},
			Memory: &stats.MemoryStats{Time: at, UsageBytes: &st.MemoryBytes, WorkingSetBytes: &st.MemoryWorkingSet, RSSBytes: &st.MemoryRSS, PageFaults: &st.PageFaults, MajorPageFaults: &st.MajorPageFaults},
			Rootfs: &stats.FsStats{Time: at, UsedBytes: &st.RootfsBytes, InodesUsed: &st.RootfsInodes},
			Logs:   &stats.FsStats{Time: at, UsedBytes: &st.LogBytes},
		}
		p.Containers = append(p.Containers, c)
		*p.CPU.UsageCoreNanoSeconds += st.CPUNanoseconds
		*p.Memory.UsageBytes += st.MemoryBytes
		*p.Memory.WorkingSetBytes += st.MemoryWorkingSet
		*p.Memory.RSSBytes += st.MemoryRSS
		if u.c.StartedAt.Before(p.StartTime.Time) {
			p.StartTime = metav1.NewTime(u.c.StartedAt)
		}
	}
	sum.Pods = []stats.PodStats{}
	for _, uid := range order {
		sum.Pods = append(sum.Pods, *pods[uid])
	}
	writeJSON(w, sum)
}

type machine struct {
	cpu, available, used uint64
	boot                 time.Time
}

func nodeUsage() machine {
	var m machine
	if b, err := os.ReadFile("/proc/stat"); err == nil {
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			switch {
			case len(f) > 4 && f[0] == "cpu":
				var busy uint64
				for i, v := range f[1:] {
					if n, err := strconv.ParseUint(v, 10, 64); err == nil && i != 3 && i != 4 { // neither idle nor iowait
						busy += n
					}
				}
				m.cpu = busy * uint64(time.Second) / 100
			case len(f) > 1 && f[0] == "btime":
				n, _ := strconv.ParseInt(f[1], 10, 64)
				m.boot = time.Unix(n, 0)
			}
		}
	}
	if f, err := os.Open("/proc/meminfo"); err == nil {
		defer f.Close()
		var total uint64
		sc := bufio.NewScanner(f)
		for sc.Scan() {
			k, v, _ := strings.Cut(sc.Text(), ":")
			n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			switch k {
			case "MemTotal":
				total = n << 10
			case "MemAvailable":
				m.available = n << 10
			}
		}
		m.used = total - min(total, m.available)
	}
	return m
}

// collector counts running pods and containers.
type collector struct {
	s                *Server
	pods, containers *prometheus.Desc
	images, resident *prometheus.Desc
}

func newCollector(s *Server) *collector {
	return &collector{s,
		prometheus.NewDesc("kontiki_node_pods", "Pods on this node by phase.", []string{"phase"}, nil),
		prometheus.NewDesc("kontiki_node_containers", "Containers on this node by state.", []string{"state"}, nil),
		prometheus.NewDesc("kontiki_node_images", "Images on this node.", nil, nil),
		prometheus.NewDesc("process_resident_memory_bytes", "Resident memory size in bytes.", nil, nil),
	}
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	phases := map[string]int{}
	for _, p := range c.s.c.Pods.Pods() {
		phases[string(p.Status.Phase)]++
	}
	for k, n := range phases {
		ch <- prometheus.MustNewConstMetric(c.pods, prometheus.GaugeValue, float64(n), k)
	}
	if list, err := c.s.c.Runtime.ListContainers(ctx, ""); err == nil {
		states := map[string]int{}
		for _, i := range list {
			states[i.State.String()]++
		}
		for k, n := range states {
			ch <- prometheus.MustNewConstMetric(c.containers, prometheus.GaugeValue, float64(n), k)
		}
	}
	if list, err := c.s.c.Runtime.ListImages(ctx); err == nil {
		ch <- prometheus.MustNewConstMetric(c.images, prometheus.GaugeValue, float64(len(list)))
	}
	if b, err := os.ReadFile("/proc/self/statm"); err == nil {
		if f := strings.Fields(string(b)); len(f) > 1 {
			n, _ := strconv.ParseFloat(f[1], 64)
			ch <- prometheus.MustNewConstMetric(c.resident, prometheus.GaugeValue, n*float64(unix.Getpagesize()))
		}
	}
}

// resourceCollector provides the metrics that metrics-server reads.
type resourceCollector struct{ s *Server }

var (
	containerLabels = []string{"container", "namespace", "pod"}
	containerCPU    = prometheus.NewDesc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", containerLabels, nil)
	containerMemory = prometheus.NewDesc("container_memory_working_set_bytes", "Current working set of the container in bytes", containerLabels, nil)
	containerStart  = prometheus.NewDesc("container_start_time_seconds", "Start time of the container since unix epoch in seconds", containerLabels, nil)
	nodeCPU         = prometheus.NewDesc("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds", nil, nil)
	nodeMemory      = prometheus.NewDesc("node_memory_working_set_bytes", "Current working set of the node in bytes", nil, nil)
)

func (c *resourceCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{containerCPU, containerMemory, containerStart, nodeCPU, nodeMemory} {
		ch <- d
	}
}

func (c *resourceCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, u := range c.s.usages(ctx) {
		l := []string{u.c.Name, u.c.PodNamespace, u.c.PodName}
		at := u.s.Time
		ch <- prometheus.NewMetricWithTimestamp(at, prometheus.MustNewConstMetric(containerCPU, prometheus.CounterValue, float64(u.s.CPUNanoseconds)/1e9, l...))
		ch <- prometheus.NewMetricWithTimestamp(at, prometheus.MustNewConstMetric(containerMemory, prometheus.GaugeValue, float64(u.s.MemoryWorkingSet), l...))
		ch <- prometheus.NewMetricWithTimestamp(at, prometheus.MustNewConstMetric(containerStart, prometheus.GaugeValue, float64(u.c.StartedAt.UnixNano())/1e9, l...))
	}
	n := nodeUsage()
	ch <- prometheus.MustNewConstMetric(nodeCPU, prometheus.CounterValue, float64(n.cpu)/1e9)
	ch <- prometheus.MustNewConstMetric(nodeMemory, prometheus.GaugeValue, float64(n.used))
}
