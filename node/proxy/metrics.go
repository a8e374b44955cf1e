package proxy

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kontiki/kontiki/internal/collectors"
	"github.com/kontiki/kontiki/internal/histogram"
)

// Metrics count how service rules are written, under kube-proxy's names.
type Metrics struct {
	collectors.Group
	duration prometheus.Histogram
	failures prometheus.Counter
	last     atomic.Int64 // when rules were last written, in nanoseconds since the Unix epoch
}

// NewMetrics returns metrics of which none has been counted.
func NewMetrics() *Metrics {
	m := &Metrics{
		duration: histogram.New("kubeproxy_sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds", prometheus.ExponentialBuckets(0.001, 2, 15)),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "kubeproxy_sync_proxy_rules_nftables_sync_failures_total", Help: "Cumulative proxy nftables sync failures"}),
	}
	last := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kubeproxy_sync_proxy_rules_last_timestamp_seconds", Help: "The last time proxy rules were successfully synced"},
		func() float64 { return float64(m.last.Load()) / 1e9 })
	m.Group = collectors.Group{m.duration, m.failures, last}
	return m
}

// synced counts an attempt to bring the rules up to date.
func (m *Metrics) synced(took time.Duration, err error) {
	if m == nil {
		return
	}
	m.duration.Observe(took.Seconds())
	if err != nil {
		m.failures.Inc()
		return
	}
	m.last.Store(time.Now().UnixNano())
}
