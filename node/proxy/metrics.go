package proxy

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kontiki/kontiki/internal/collectors"
	"github.com/kontiki/kontiki/internal/histogram"
)

// Metrics count how service rules are written, under kube-proxy's names, and connections that wait for a workload to wake.
type Metrics struct {
	collectors.Group
	duration prometheus.Histogram
	failures prometheus.Counter
	last     atomic.Int64 // when rules were last written, in nanoseconds since the Unix epoch
	held     prometheus.Gauge
	reset    prometheus.Counter
}

// NewMetrics returns metrics of which none has been counted.
func NewMetrics() *Metrics {
	m := &Metrics{
		duration: histogram.New("kubeproxy_sync_proxy_rules_duration_seconds", "SyncProxyRules latency in seconds", prometheus.ExponentialBuckets(0.001, 2, 15)),
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "kubeproxy_sync_proxy_rules_nftables_sync_failures_total", Help: "Cumulative proxy nftables sync failures"}),
		held: prometheus.NewGauge(prometheus.GaugeOpts{Name: "kontiki_proxy_held_connections",
			Help: "Connections to services that wake their workload, which wait for an endpoint or are passed on to one by this node"}),
		reset: prometheus.NewCounter(prometheus.CounterOpts{Name: "kontiki_proxy_reset_connections_total",
			Help: "Connections to services that wake their workload, which were reset: over a limit, for too long without an endpoint, or as the workload cannot be woken"}),
	}
	last := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kubeproxy_sync_proxy_rules_last_timestamp_seconds", Help: "The last time proxy rules were successfully synced"},
		func() float64 { return float64(m.last.Load()) / 1e9 })
	m.Group = collectors.Group{m.duration, m.failures, last, m.held, m.reset}
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

// holds counts connections that begin (1) or end (-1) to be held.
func (m *Metrics) holds(by int) {
	if m != nil {
		m.held.Add(float64(by))
	}
}

// wasReset counts a connection that was reset.
func (m *Metrics) wasReset() {
	if m != nil {
		m.reset.Inc()
	}
}
