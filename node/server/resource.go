package server

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/types"
)

// collectTime limits how long one answer with metrics is collected.
const collectTime = 10 * time.Second

// sampleAge is how old a measurement may be that is told: requests that come together share one.
const sampleAge = time.Second

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
	sample := c.s.stats.Sample(ctx, sampleAge)
	pods := map[types.UID]*podSum{}
	for i := range sample.Containers {
		u := &sample.Containers[i]
		l := []string{u.Name, u.PodName, u.PodNamespace}
		send(u.Usage.Time, containerCPU, prometheus.CounterValue, float64(u.Usage.CPUNanoseconds)/1e9, l...)
		send(u.Usage.Time, containerMemory, prometheus.GaugeValue, float64(u.Usage.MemoryWorkingSet), l...)
		send(u.Usage.Time, containerSwap, prometheus.GaugeValue, float64(u.Usage.SwapBytes), l...)
		ch <- prometheus.MustNewConstMetric(containerStart, prometheus.GaugeValue, float64(u.StartedAt.UnixNano())/1e9, l...)
		p := pods[types.UID(u.PodUID)]
		if p == nil {
			p = &podSum{namespace: u.PodNamespace, name: u.PodName, at: u.Usage.Time}
			pods[types.UID(u.PodUID)] = p
		}
		p.cpu, p.memory, p.swap = p.cpu+u.Usage.CPUNanoseconds, p.memory+u.Usage.MemoryWorkingSet, p.swap+u.Usage.SwapBytes
	}
	for _, p := range pods {
		send(p.at, podCPU, prometheus.CounterValue, float64(p.cpu)/1e9, p.name, p.namespace)
		send(p.at, podMemory, prometheus.GaugeValue, float64(p.memory), p.name, p.namespace)
		send(p.at, podSwap, prometheus.GaugeValue, float64(p.swap), p.name, p.namespace)
	}
	n, now := sample.Node, sample.Time
	send(now, nodeCPU, prometheus.CounterValue, float64(n.CPU)/1e9)
	send(now, nodeMemory, prometheus.GaugeValue, float64(n.Used))
	send(now, nodeSwap, prometheus.GaugeValue, float64(n.Swap))
	ch <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, map[bool]float64{true: 1}[sample.Failed])
}
