package controller

import (
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/util/workqueue"

	"github.com/kontiki/kontiki/internal/collectors"
	of "github.com/kontiki/kontiki/internal/histogram"
)

// queueMetrics are those of the controllers' queues, with upstream's names and buckets, by the name of the controller. They outlive the
// queues: a master may lead several times.
type queueMetrics struct {
	collectors.Group
	depth, unfinished, longest *prometheus.GaugeVec
	adds, retries              *prometheus.CounterVec
	latency, duration          *prometheus.HistogramVec
}

var queues = newQueueMetrics()

// Metrics returns a collector of the metrics of all controllers' queues in this process.
func Metrics() prometheus.Collector { return queues }

func newQueueMetrics() *queueMetrics {
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "workqueue_" + name, Help: help}, []string{"name"})
	}
	counter := func(name, help string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "workqueue_" + name, Help: help}, []string{"name"})
	}
	histogram := func(name, help string) *prometheus.HistogramVec {
		return of.Vec("workqueue_"+name, help, prometheus.ExponentialBuckets(10e-9, 10, 10), "name")
	}
	m := &queueMetrics{
		depth:      gauge("depth", "Current depth of workqueue."),
		unfinished: gauge("unfinished_work_seconds", "How long the work has taken that is in progress: large values mean that something is stuck."),
		longest:    gauge("longest_running_processor_seconds", "How long the work has taken that has been in progress for longest."),
		adds:       counter("adds_total", "Total number of adds handled by workqueue."),
		retries:    counter("retries_total", "Total number of retries handled by workqueue."),
		latency:    histogram("queue_duration_seconds", "How long in seconds an item stays in workqueue before being requested."),
		duration:   histogram("work_duration_seconds", "How long in seconds processing an item from workqueue takes."),
	}
	m.Group = collectors.Group{m.depth, m.unfinished, m.longest, m.adds, m.retries, m.latency, m.duration}
	return m
}

// forget drops what a queue that has ended had at present.
func (m *queueMetrics) forget(name string) {
	for _, vec := range []*prometheus.GaugeVec{m.depth, m.unfinished, m.longest} {
		vec.DeleteLabelValues(name)
	}
}

// NewDepthMetric implements workqueue.MetricsProvider, as the methods below.
func (m *queueMetrics) NewDepthMetric(name string) workqueue.GaugeMetric {
	return m.depth.WithLabelValues(name)
}

func (m *queueMetrics) NewAddsMetric(name string) workqueue.CounterMetric {
	return m.adds.WithLabelValues(name)
}

func (m *queueMetrics) NewLatencyMetric(name string) workqueue.HistogramMetric {
	return m.latency.WithLabelValues(name)
}

func (m *queueMetrics) NewWorkDurationMetric(name string) workqueue.HistogramMetric {
	return m.duration.WithLabelValues(name)
}

func (m *queueMetrics) NewUnfinishedWorkSecondsMetric(name string) workqueue.SettableGaugeMetric {
	return m.unfinished.WithLabelValues(name)
}

func (m *queueMetrics) NewLongestRunningProcessorSecondsMetric(name string) workqueue.SettableGaugeMetric {
	return m.longest.WithLabelValues(name)
}

func (m *queueMetrics) NewRetriesMetric(name string) workqueue.CounterMetric {
	return m.retries.WithLabelValues(name)
}
