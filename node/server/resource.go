package server

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// collectTime limits how long one answer with metrics is collected.
const collectTime = 10 * time.Second

// resourceCollector provides what metrics-server reads from /metrics/resource, under the kubelet's names.
type resourceCollector struct{ s *Server }

var (
	ofContainer = []string{"container", "pod", "namespace"}
	ofPod       = []string{"pod", "namespace"}

	containerCPU    = prometheus.NewDesc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", ofContainer, nil)
	containerMemory = prometheus.NewDesc("container_memory_working_set_bytes", "Current working set of the container in bytes", ofContainer, nil)
	containerSwap   = prometheus.NewDesc("container_swap_usage_bytes", "Current amount of the container swap usage in bytes. Reported only on non-windows systems", ofContainer, nil)
	containerStart  = prometheus.NewDesc("container_start_time_seconds", "Start time of the container since unix epoch in seconds", ofContainer, nil)
	podCPU          = prometheus.NewDesc("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", ofPod, nil)
	podMemory       = prometheus.NewDesc("pod_memory_working_set_bytes", "Current working set of the pod in bytes", ofPod, nil)
	podSwap         = prometheus.NewDesc("pod_swap_usage_bytes", "Current amount of the pod swap usage in bytes. Reported only on non-windows systems", ofPod, nil)
	nodeCPU         = prometheus.NewDesc("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds", nil, nil)
	nodeMemory      = prometheus.NewDesc("node_memory_working_set_bytes", "Current working set of the node in bytes", nil, nil)
	nodeSwap        = prometheus.NewDesc("node_swap_usage_bytes", "Current swap usage of the node in bytes. Reported only on non-windows systems", nil, nil)
	scrapeError     = prometheus.NewDesc("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", nil, nil)
)

func (c *resourceCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{containerCPU, containerMemory, containerSwap, containerStart, podCPU, podMemory, podSwap, nodeCPU, nodeMemory, nodeSwap, scrapeError} {
		ch <- d
	}
}

// podSum is what the containers of a pod use together.
type podSum struct {
	namespace, name   string
	at                time.Time
	cpu, memory, swap uint64
}

func (c *resourceCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTime)
	defer cancel()
	send := func(at time.Time, desc *prometheus.Desc, kind prometheus.ValueType, value float64, labels ...string) {
		ch <- prometheus.NewMetricWithTimestamp(at, prometheus.MustNewConstMetric(desc, kind, value, labels...))
	}
	used, failed := c.s.usages(ctx)
	pods := map[types.UID]*podSum{}
	for _, u := range used {
		l := []string{u.container.Name, u.container.PodName, u.container.PodNamespace}
		send(u.Time, containerCPU, prometheus.CounterValue, float64(u.CPUNanoseconds)/1e9, l...)
		send(u.Time, containerMemory, prometheus.GaugeValue, float64(u.MemoryWorkingSet), l...)
		send(u.Time, containerSwap, prometheus.GaugeValue, float64(u.SwapBytes), l...)
		ch <- prometheus.MustNewConstMetric(containerStart, prometheus.GaugeValue, float64(u.container.StartedAt.UnixNano())/1e9, l...)
		p := pods[types.UID(u.container.PodUID)]
		if p == nil {
			p = &podSum{namespace: u.container.PodNamespace, name: u.container.PodName, at: u.Time}
			pods[types.UID(u.container.PodUID)] = p
		}
		p.cpu, p.memory, p.swap = p.cpu+u.CPUNanoseconds, p.memory+u.MemoryWorkingSet, p.swap+u.SwapBytes
	}
	for _, p := range pods {
		send(p.at, podCPU, prometheus.CounterValue, float64(p.cpu)/1e9, p.name, p.namespace)
		send(p.at, podMemory, prometheus.GaugeValue, float64(p.memory), p.name, p.namespace)
		send(p.at, podSwap, prometheus.GaugeValue, float64(p.swap), p.name, p.namespace)
	}
	n, now := nodeUsage(), time.Now()
	send(now, nodeCPU, prometheus.CounterValue, float64(n.cpu)/1e9)
	send(now, nodeMemory, prometheus.GaugeValue, float64(n.used))
	send(now, nodeSwap, prometheus.GaugeValue, float64(n.swap))
	ch <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, map[bool]float64{true: 1}[failed])
}
