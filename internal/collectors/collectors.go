// Package collectors combines Prometheus collectors.
package collectors

import "github.com/prometheus/client_golang/prometheus"

// Group is several collectors as one.
type Group []prometheus.Collector

// Describe implements prometheus.Collector.
func (g Group) Describe(to chan<- *prometheus.Desc) {
	for _, c := range g {
		c.Describe(to)
	}
}

// Collect implements prometheus.Collector.
func (g Group) Collect(to chan<- prometheus.Metric) {
	for _, c := range g {
		c.Collect(to)
	}
}
