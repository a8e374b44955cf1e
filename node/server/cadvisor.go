package server

import (
	"context"
	"runtime"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	noderuntime "github.com/kontiki/kontiki/node/runtime"
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
	value func(*usage) float64
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
	{cpuTotal, prometheus.CounterValue, []string{"total"}, func(u *usage) float64 { return seconds(u.CPUNanoseconds) }},
	{cadvisorDesc("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds."), prometheus.CounterValue, nil, func(u *usage) float64 { return seconds(u.CPUUserNanoseconds) }},
	{cadvisorDesc("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds."), prometheus.CounterValue, nil, func(u *usage) float64 { return seconds(u.CPUSystemNanoseconds) }},
	{cadvisorDesc("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals."), prometheus.CounterValue, nil, func(u *usage) float64 { return float64(u.Periods) }},
	{cadvisorDesc("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals."), prometheus.CounterValue, nil, func(u *usage) float64 { return float64(u.ThrottledPeriods) }},
	{cadvisorDesc("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled."), prometheus.CounterValue, nil, func(u *usage) float64 { return seconds(u.ThrottledNanoseconds) }},
	{memoryUsed, prometheus.GaugeValue, nil, func(u *usage) float64 { return float64(u.MemoryBytes) }},
	{workingSet, prometheus.GaugeValue, nil, func(u *usage) float64 { return float64(u.MemoryWorkingSet) }},
	{cadvisorDesc("container_memory_rss", "Size of RSS in bytes."), prometheus.GaugeValue, nil, func(u *usage) float64 { return float64(u.MemoryRSS) }},
	{cadvisorDesc("container_memory_cache", "Number of bytes of page cache memory."), prometheus.GaugeValue, nil, func(u *usage) float64 { return float64(u.MemoryCache) }},
	{cadvisorDesc("container_memory_swap", "Container swap usage in bytes."), prometheus.GaugeValue, nil, func(u *usage) float64 { return float64(u.SwapBytes) }},
	{cadvisorDesc("container_memory_failcnt", "Number of memory usage hits limits."), prometheus.CounterValue, nil, func(u *usage) float64 { return float64(u.MemoryFailures) }},
	{memoryFailures, prometheus.CounterValue, []string{"pgfault", "container"}, func(u *usage) float64 { return float64(u.PageFaults) }},
	{memoryFailures, prometheus.CounterValue, []string{"pgmajfault", "container"}, func(u *usage) float64 { return float64(u.MajorPageFaults) }},
	{cadvisorDesc("container_processes", "Number of processes running inside the container."), prometheus.GaugeValue, nil, func(u *usage) float64 { return float64(u.Processes) }},
	{cadvisorDesc("container_start_time_seconds", "Start time of the container since unix epoch in seconds."), prometheus.GaugeValue, nil, func(u *usage) float64 { return float64(u.container.StartedAt.Unix()) }},
	{cadvisorDesc("container_last_seen", "Last time a container was seen by the exporter"), prometheus.GaugeValue, nil, func(u *usage) float64 { return float64(u.Time.Unix()) }},
	{cadvisorDesc("container_fs_reads_bytes_total", "Cumulative count of bytes read", "device"), prometheus.CounterValue, []string{""}, func(u *usage) float64 { return float64(u.ReadBytes) }},
	{cadvisorDesc("container_fs_writes_bytes_total", "Cumulative count of bytes written", "device"), prometheus.CounterValue, []string{""}, func(u *usage) float64 { return float64(u.WriteBytes) }},
	{cadvisorDesc("container_fs_reads_total", "Cumulative count of reads completed", "device"), prometheus.CounterValue, []string{""}, func(u *usage) float64 { return float64(u.Reads) }},
	{cadvisorDesc("container_fs_writes_total", "Cumulative count of writes completed", "device"), prometheus.CounterValue, []string{""}, func(u *usage) float64 { return float64(u.Writes) }},
}

var (
	ofPressure = []cadvisorMetric{
		{cadvisorDesc("container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion."), prometheus.CounterValue, nil, func(u *usage) float64 { return stalled(u.CPUPressure, false) }},
		{cadvisorDesc("container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion."), prometheus.CounterValue, nil, func(u *usage) float64 { return stalled(u.CPUPressure, true) }},
		{cadvisorDesc("container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion."), prometheus.CounterValue, nil, func(u *usage) float64 { return stalled(u.MemoryPressure, false) }},
		{cadvisorDesc("container_pressure_memory_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to memory congestion."), prometheus.CounterValue, nil, func(u *usage) float64 { return stalled(u.MemoryPressure, true) }},
		{cadvisorDesc("container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion."), prometheus.CounterValue, nil, func(u *usage) float64 { return stalled(u.IOPressure, false) }},
		{cadvisorDesc("container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion."), prometheus.CounterValue, nil, func(u *usage) float64 { return stalled(u.IOPressure, true) }},
	}
	memoryLimit = cadvisorDesc("container_spec_memory_limit_bytes", "Memory limit for the container.")
	filesUsed   = cadvisorDesc("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", "device")

	ofNetwork = []struct {
		desc  *prometheus.Desc
		value func(*networkUse) uint64
	}{
		{cadvisorDesc("container_network_receive_bytes_total", "Cumulative count of bytes received", "interface"), func(n *networkUse) uint64 { return n.rxBytes }},
		{cadvisorDesc("container_network_receive_packets_total", "Cumulative count of packets received", "interface"), func(n *networkUse) uint64 { return n.rxPackets }},
		{cadvisorDesc("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", "interface"), func(n *networkUse) uint64 { return n.rxErrors }},
		{cadvisorDesc("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", "interface"), func(n *networkUse) uint64 { return n.rxDropped }},
		{cadvisorDesc("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", "interface"), func(n *networkUse) uint64 { return n.txBytes }},
		{cadvisorDesc("container_network_transmit_packets_total", "Cumulative count of packets transmitted", "interface"), func(n *networkUse) uint64 { return n.txPackets }},
		{cadvisorDesc("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", "interface"), func(n *networkUse) uint64 { return n.txErrors }},
		{cadvisorDesc("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", "interface"), func(n *networkUse) uint64 { return n.txDropped }},
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
	used, failed := c.s.usages(ctx)
	networks := map[string]bool{} // by the UID of the pod
	for i := range used {
		u := &used[i]
		labels := []string{u.container.Name, "/" + u.container.ID, u.container.Image, u.container.ID, u.container.PodNamespace, u.container.PodName}
		c.container(ctx, ch, u, labels)
		if !networks[u.container.PodUID] && u.container.Pid > 0 && u.pod != nil && !u.pod.Spec.HostNetwork {
			networks[u.container.PodUID] = true
			sandbox := []string{"POD", "/pod" + u.container.PodUID, "", "POD_" + u.container.PodUID, u.container.PodNamespace, u.container.PodName}
			network(ch, u.Time, networkOf(strconv.Itoa(u.container.Pid)), sandbox)
		}
	}
	c.node(ch)
	ch <- prometheus.MustNewConstMetric(cadvisorError, prometheus.GaugeValue, map[bool]float64{true: 1}[failed])
}

// container tells what one container uses.
func (c *cadvisorCollector) container(ctx context.Context, ch chan<- prometheus.Metric, u *usage, labels []string) {
	send := func(desc *prometheus.Desc, kind prometheus.ValueType, value float64, extra ...string) {
		ch <- prometheus.NewMetricWithTimestamp(u.Time, prometheus.MustNewConstMetric(desc, kind, value, append(labels[:len(labels):len(labels)], extra...)...))
	}
	for _, m := range ofContainers {
		send(m.desc, m.kind, m.value(u), m.extra...)
	}
	if u.CPUPressure != nil {
		for _, m := range ofPressure {
			send(m.desc, m.kind, m.value(u), m.extra...)
		}
	}
	if u.MemoryLimitPresent {
		send(memoryLimit, prometheus.GaugeValue, float64(u.MemoryLimit))
	}
	if f := c.s.filesOf(ctx, u.container.ID); f.measured {
		send(filesUsed, prometheus.GaugeValue, float64(f.rootfs), "")
	}
}

func network(ch chan<- prometheus.Metric, at time.Time, used []networkUse, labels []string) {
	for i := range used {
		for _, m := range ofNetwork {
			ch <- prometheus.NewMetricWithTimestamp(at, prometheus.MustNewConstMetric(m.desc, prometheus.CounterValue, float64(m.value(&used[i])),
				append(labels[:len(labels):len(labels)], used[i].name)...))
		}
	}
}

// node tells what the node as a whole uses.
func (c *cadvisorCollector) node(ch chan<- prometheus.Metric) {
	n, now := nodeUsage(), time.Now()
	root := []string{"", "/", "", "", "", ""}
	ch <- prometheus.MustNewConstMetric(cpuTotal, prometheus.CounterValue, seconds(n.cpu), append(root[:len(root):len(root)], "total")...)
	ch <- prometheus.MustNewConstMetric(memoryUsed, prometheus.GaugeValue, float64(n.used), root...)
	ch <- prometheus.MustNewConstMetric(workingSet, prometheus.GaugeValue, float64(n.used), root...)
	network(ch, now, networkOf("self"), root)
	ch <- prometheus.MustNewConstMetric(machineCores, prometheus.GaugeValue, float64(cores(c.s.c.Node)))
	ch <- prometheus.MustNewConstMetric(machineMemory, prometheus.GaugeValue, float64(n.total))
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
