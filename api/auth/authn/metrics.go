package authn

import (
	"crypto/sha256"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are upstream's metrics of JWT authenticators and of the reloading of their configuration. It implements
// prometheus.Collector.
type Metrics struct {
	server                string
	reloads               *prometheus.CounterVec
	lastReload, lastFetch *prometheus.GaugeVec
	latency               *prometheus.HistogramVec
	info                  *prometheus.Desc
	config                atomic.Pointer[string]
}

func newMetrics(server string) *Metrics {
	byServer := prometheus.Labels{"apiserver_id_hash": hash([]byte(server))}
	const controller = "authentication_config_controller"
	return &Metrics{
		server: server,
		reloads: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "apiserver", Subsystem: controller, Name: "automatic_reloads_total", ConstLabels: byServer,
			Help: "Total number of automatic reloads of authentication configuration split by status and apiserver identity.",
		}, []string{"status"}),
		lastReload: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "apiserver", Subsystem: controller, Name: "automatic_reload_last_timestamp_seconds", ConstLabels: byServer,
			Help: "Timestamp of the last automatic reload of authentication configuration split by status and apiserver identity.",
		}, []string{"status"}),
		lastFetch: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Namespace: "apiserver", Subsystem: "authentication", Name: "jwt_authenticator_jwks_fetch_last_timestamp_seconds", ConstLabels: byServer,
			Help: "Timestamp of the last successful or failed JWKS fetch split by result, api server identity and jwt issuer.",
		}, []string{"result", "jwt_issuer_hash"}),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: "apiserver", Subsystem: "authentication", Name: "jwt_authenticator_latency_seconds",
			Help:    "Latency of jwt authentication operations in seconds. This is the time spent authenticating a token for cache miss only (i.e. when the token is not found in the cache).",
			Buckets: []float64{0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10},
		}, []string{"result", "jwt_issuer_hash"}),
		info: prometheus.NewDesc("apiserver_"+controller+"_last_config_info",
			"Information about the last applied authentication configuration with hash as label, split by apiserver identity.", []string{"hash"}, byServer),
	}
}

// Describe implements prometheus.Collector.
func (m *Metrics) Describe(out chan<- *prometheus.Desc) {
	for _, c := range m.collectors() {
		c.Describe(out)
	}
	out <- m.info
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(out chan<- prometheus.Metric) {
	for _, c := range m.collectors() {
		c.Collect(out)
	}
	if hash := m.config.Load(); hash != nil {
		out <- prometheus.MustNewConstMetric(m.info, prometheus.GaugeValue, 1, *hash)
	}
}

func (m *Metrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.reloads, m.lastReload, m.lastFetch, m.latency}
}

// configured records the content of the file that is in use.
func (m *Metrics) configured(data []byte) {
	if len(data) > 0 {
		sum := hash(data)
		m.config.Store(&sum)
	}
}

func (m *Metrics) reloaded(err error, data []byte) {
	m.reloads.WithLabelValues(result(err)).Inc()
	m.lastReload.WithLabelValues(result(err)).SetToCurrentTime()
	m.configured(data)
}

func (m *Metrics) fetched(issuer string, err error) {
	m.lastFetch.WithLabelValues(result(err), hash([]byte(issuer))).SetToCurrentTime()
}

func (m *Metrics) authenticated(issuer string, took time.Duration, err error) {
	m.latency.WithLabelValues(result(err), hash([]byte(issuer))).Observe(took.Seconds())
}

func result(err error) string {
	if err != nil {
		return "failure"
	}
	return "success"
}

func hash(data []byte) string {
	if len(data) == 0 {
		return ""
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(data))
}
