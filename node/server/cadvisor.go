package server

import (
	"context"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	noderuntime "github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/stats"
)

// cadvisorCollector provides /metrics/cadvisor: the names of cAdvisor's metrics that dashboards and rules use, with its labels. A
// container's id is that of its runtime, a pod's network is told of its container "POD" with the image "", as cAdvisor tells it of the pod's sandbox;
// the node's own metrics have the id "/".
type cadvisorCollector struct{ s *Server }

// cadvisorLabels are the labels of each metric.
var cadvisorLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

// cadvisorMetric is a metric of containers.
type cadvisorMetric struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	extra []string // values of further labels
	value func(*stats.Container) float64
}

func cadvisorDesc(name, help string, extra ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append(cadvisorLabels[:len(cadvisorLabels):len(cadvisorLabels)], extra...), nil)
}

func seconds(nanoseconds uint64) float64 { return float64(nanoseconds) / 1e9 }

// stalled returns a time of a container's pressure stall information, 0 if the kernel has none.
func stalled(p *noderuntime.Pressure, full bool) float64 {
	switch {
	case p == nil:
		return 0
	case full:
		return seconds(p.Full.TotalNanoseconds)
	}
	return seconds(p.Some.TotalNanoseconds)
}

var (
	cpuTotal       = cadvisorDesc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", "cpu")
	memoryUsed     = cadvisorDesc("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed.")
	workingSet     = cadvisorDesc("container_memory_working_set_bytes", "Current working set in bytes.")
	memoryFailures = cadvisorDesc("container_memory_failures_total", "Cumulative count of memory allocation failures.", "failure_type", "scope")
)

var ofContainers = []cadvisorMetric{
	{cpuTotal, prometheus.CounterValue, []string{"total"}, func(u *stats.Container) float64 { return seconds(u.Usage.CPUNanoseconds) }},
	{cadvisorDesc("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds."), prometheus.CounterValue, nil, func(u *stats.Container) float64 { return seconds(u.Usage.CPUUserNanoseconds) }},
	{cadvisorDesc("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds."), prometheus.CounterValue, nil, func(u *stats.Container) float64 { return seconds(u.Usage.CPUSystemNanoseconds) }},
	{cadvisorDesc("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals."), prometheus.CounterValue, nil, func(u *stats.Container) float64 { return float64(u.Usage.Periods) }},
	{cadvisorDesc("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals."), prometheus.CounterValue, nil, func(u *stats.Container) float64 { return float64(u.Usage.ThrottledPeriods) }},
	{cadvisorDesc("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled."), prometheus.CounterValue, nil, func(u *stats.Container) float64 { return seconds(u.Usage.ThrottledNanoseconds) }},
	{memoryUsed, prometheus.GaugeValue, nil, func(u *stats.Container) float64 { return float64(u.Usage.MemoryBytes) }},
	{workingSet, prometheus.GaugeValue, nil, func(u *stats.Container) float64 { return float64(u.Usage.MemoryWorkingSet) }},
	{cadvisorDesc("container_memory_rss", "Size of RSS in bytes."), prometheus.GaugeValue, nil, func(u *stats.Container) float64 { return float64(u.Usage.MemoryRSS) }},
	{cadvisorDesc("container_memory_cache", "Number of bytes of page cache memory."), prometheus.GaugeValue, nil, func(u *stats.Container) float64 { return float64(u.Usage.MemoryCache) }},
	{cadvisorDesc("container_memory_swap", "Container swap usage in bytes."), prometheus.GaugeValue, nil, func(u *stats.Container) float64 { return float64(u.Usage.SwapBytes) }},
	{cadvisorDesc("container_memory_failcnt", "Number of memory usage hits limits."), prometheus.CounterValue, nil, func(u *stats.Container) float64 { return float64(u.Usage.MemoryFailures) }},
	{memoryFailures, prometheus.CounterValue, []string{"pgfault", "container"}, func(u *stats.Container) float64 { return float64(u.Usage.PageFaults) }},
	{memoryFailures, prometheus.CounterValue, []string{"pgmajfault", "container"}, func(u *stats.Container) float64 { return float64(u.Usage.MajorPageFaults) }},
	{cadvisorDesc("container_processes", "Number of processes running inside the container."), prometheus.GaugeValue, nil, func(u *stats.Container) float64 { return float64(u.Usage.Processes) }},
	{cadvisorDesc("container_start_time_seconds", "Start time of the container since unix epoch in seconds."), prometheus.GaugeValue, nil, func(u *stats.Container) float64 { return float64(u.StartedAt.Unix()) }},
	{cadvisorDesc("container_last_seen", "Last time a container was seen by the exporter"), prometheus.GaugeValue, nil, func(u *stats.Container) float64 { return float64(u.Usage.Time.Unix()) }},
	{cadvisorDesc("container_fs_reads_bytes_total", "Cumulative count of bytes read", "device"), prometheus.CounterValue, []string{""}, func(u *stats.Container) float64 { return float64(u.Usage.ReadBytes) }},
	{cadvisorDesc("container_fs_writes_bytes_total", "Cumulative count of bytes written", "device"), prometheus.CounterValue, []string{""}, func(u *stats.Container) float64 { return float64(u.Usage.WriteBytes) }},
	{cadvisorDesc("container_fs_reads_total", "Cumulative count of reads completed", "device"), prometheus.CounterValue, []string{""}, func(u *stats.Container) float64 { return float64(u.Usage.Reads) }},
	{cadvisorDesc("container_fs_writes_total", "Cumulative count of writes completed", "device"), prometheus.CounterValue, []string{""}, func(u *stats.Container) float64 { return float64(u.Usage.Writes) }},
}

var (
	ofPressure = []cadvisorMetric{
		{cadvisorDesc("container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion."), prometheus.CounterValue, nil, func(u *stats.Container) float64 { return stalled(u.Usage.CPUPressure, false) }},
		{cadvisorDesc("container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion."), prometheus.CounterValue, nil, func(u *stats.Container) float64 { return stalled(u.Usage.CPUPressure, true) }},
		{cadvisorDesc("container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion."), prometheus.CounterValue, nil, func(u *stats.Container) float64 { return stalled(u.Usage.MemoryPressure, false) }},
		{cadvisorDesc("container_pressure_memory_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to memory congestion."), prometheus.CounterValue, nil, func(u *stats.Container) float64 { return stalled(u.Usage.MemoryPressure, true) }},
		{cadvisorDesc("container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion."), prometheus.CounterValue, nil, func(u *stats.Container) float64 { return stalled(u.Usage.IOPressure, false) }},
		{cadvisorDesc("container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion."), prometheus.CounterValue, nil, func(u *stats.Container) float64 { return stalled(u.Usage.IOPressure, true) }},
	}
	memoryLimit = cadvisorDesc("container_spec_memory_limit_bytes", "Memory limit for the container.")
	filesUsed   = cadvisorDesc("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", "device")

	ofNetwork = []struct {
		desc  *prometheus.Desc
		value func(*stats.Interface) uint64
	}{
		{cadvisorDesc("container_network_receive_bytes_total", "Cumulative count of bytes received", "interface"), func(n *stats.Interface) uint64 { return n.RxBytes }},
		{cadvisorDesc("container_network_receive_packets_total", "Cumulative count of packets received", "interface"), func(n *stats.Interface) uint64 { return n.RxPackets }},
		{cadvisorDesc("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", "interface"), func(n *stats.Interface) uint64 { return n.RxErrors }},
		{cadvisorDesc("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", "interface"), func(n *stats.Interface) uint64 { return n.RxDropped }},
		{cadvisorDesc("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", "interface"), func(n *stats.Interface) uint64 { return n.TxBytes }},
		{cadvisorDesc("container_network_transmit_packets_total", "Cumulative count of packets transmitted", "interface"), func(n *stats.Interface) uint64 { return n.TxPackets }},
		{cadvisorDesc("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", "interface"), func(n *stats.Interface) uint64 { return n.TxErrors }},
		{cadvisorDesc("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", "interface"), func(n *stats.Interface) uint64 { return n.TxDropped }},
	}
	machineCores  = prometheus.NewDesc("machine_cpu_cores", "Number of logical CPU cores.", nil, nil)
	machineMemory = prometheus.NewDesc("machine_memory_bytes", "Amount of memory installed on the machine.", nil, nil)
	cadvisorError = prometheus.NewDesc("container_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", nil, nil)
)

func (c *cadvisorCollector) Describe(ch chan<- *prometheus.Desc) {
	described := map[*prometheus.Desc]bool{}
	describe := func(d *prometheus.Desc) {
		if !described[d] {
			described[d] = true
			ch <- d
		}
	}
	for _, m := range append(ofContainers[:len(ofContainers):len(ofContainers)], ofPressure...) {
		describe(m.desc)
	}
	for _, n := range ofNetwork {
		describe(n.desc)
	}
	for _, d := range []*prometheus.Desc{memoryLimit, filesUsed, machineCores, machineMemory, cadvisorError} {
		describe(d)
	}
}

func (c *cadvisorCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTime)
	defer cancel()
	sample := c.s.stats.Sample(ctx, sampleAge)
	told := map[string]bool{} // pods, by UID
	for i := range sample.Containers {
		u := &sample.Containers[i]
		labels := []string{u.Name, "/" + u.ID, u.Image, u.ID, u.PodNamespace, u.PodName}
		c.container(ctx, ch, u, labels)
		if used := sample.Networks[u.PodUID]; used != nil && !told[u.PodUID] {
			told[u.PodUID] = true
			sandbox := []string{"POD", "/pod" + u.PodUID, "", "POD_" + u.PodUID, u.PodNamespace, u.PodName}
			network(ch, u.Usage.Time, used, sandbox)
		}
	}
	c.node(ch, sample)
	ch <- prometheus.MustNewConstMetric(cadvisorError, prometheus.GaugeValue, map[bool]float64{true: 1}[sample.Failed])
}

// container tells what one container uses.
func (c *cadvisorCollector) container(ctx context.Context, ch chan<- prometheus.Metric, u *stats.Container, labels []string) {
	send := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, extra ...string) {
		ch <- prometheus.NewMetricWithTimestamp(u.Usage.Time, prometheus.MustNewConstMetric(desc, kind, value, append(labels[:len(labels):len(labels)], extra...)...))
	}
	for _, m := range ofContainers {
		send(m.desc, m.kind, m.value(u), m.extra...)
	}
	if u.Usage.CPUPressure != nil {
		for _, m := range ofPressure {
			send(m.desc, m.kind, m.value(u), m.extra...)
		}
	}
	if u.Usage.MemoryLimitPresent {
		send(memoryLimit, prometheus.GaugeValue, float64(u.Usage.MemoryLimit))
	}
	if f := c.s.stats.Files(ctx, u.ID, stats.FilesAge); f.Measured {
		send(filesUsed, prometheus.GaugeValue, float64(f.Rootfs), "")
	}
}

func network(ch chan<- prometheus.Metric, at time.Time, used []stats.Interface, labels []string) {
	for i := range used {
		for _, m := range ofNetwork {
			ch <- prometheus.NewMetricWithTimestamp(at, prometheus.MustNewConstMetric(m.desc, prometheus.CounterValue, float64(m.value(&used[i])),
				append(labels[:len(labels):len(labels)], used[i].Name)...))
		}
	}
}

// node tells what the node as a whole uses.
func (c *cadvisorCollector) node(ch chan<- prometheus.Metric, sample *stats.Sample) {
	n, now := sample.Node, sample.Time
	root := []string{"", "/", "", "", "", ""}
	ch <- prometheus.MustNewConstMetric(cpuTotal, prometheus.CounterValue, seconds(n.CPU), append(root[:len(root):len(root)], "total")...)
	ch <- prometheus.MustNewConstMetric(memoryUsed, prometheus.GaugeValue, float64(n.Used), root...)
	ch <- prometheus.MustNewConstMetric(workingSet, prometheus.GaugeValue, float64(n.Used), root...)
	network(ch, now, sample.NodeNetwork, root)
	ch <- prometheus.MustNewConstMetric(machineCores, prometheus.GaugeValue, float64(cores(c.s.c.Node)))
	ch <- prometheus.MustNewConstMetric(machineMemory, prometheus.GaugeValue, float64(n.Total))
}

// cores returns the number of the node's processors.
func cores(node func() *corev1.Node) int64 {
	if node != nil {
		if n := node(); n != nil {
			if q, ok := n.Status.Capacity[corev1.ResourceCPU]; ok {
				return q.Value()
			}
		}
	}
	return int64(runtime.NumCPU())
}
