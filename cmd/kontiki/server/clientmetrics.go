package server

import (
	"context"
	"net/url"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/tools/metrics"

	"github.com/kontiki/kontiki/internal/collectors"
	"github.com/kontiki/kontiki/internal/histogram"
)

// clientMetrics count the requests that this process makes as a client of the API by client-go, under the names of Kubernetes' components.
type clientMetrics struct {
	collectors.Group
	requests, retries *prometheus.CounterVec
	duration, limited *prometheus.HistogramVec
}

// clientDurations are upstream's buckets.
var clientDurations = []float64{0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0}

func newClientMetrics() *clientMetrics {
	m := &clientMetrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rest_client_requests_total", Help: "Number of HTTP requests, partitioned by status code, method, and host."}, []string{"code", "method", "host"}),
		retries:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: "rest_client_request_retries_total", Help: "Number of request retries, partitioned by status code, verb, and host."}, []string{"code", "verb", "host"}),
		duration: histogram.Vec("rest_client_request_duration_seconds", "Request latency in seconds. Broken down by verb, and host.", clientDurations, "verb", "host"),
		limited:  histogram.Vec("rest_client_rate_limiter_duration_seconds", "Client side rate limiter latency in seconds. Broken down by verb, and host.", clientDurations, "verb", "host"),
	}
	m.Group = collectors.Group{m.requests, m.retries, m.duration, m.limited}
	return m
}

// register makes client-go count in the metrics. Only the first call in a process has an effect.
func (m *clientMetrics) register() {
	metrics.Register(metrics.RegisterOpts{
		RequestResult: requestResult{m.requests}, RequestRetry: requestRetry{m.retries},
		RequestLatency: requestLatency{m.duration}, RateLimiterLatency: requestLatency{m.limited},
	})
}

type requestResult struct{ *prometheus.CounterVec }

// Increment implements metrics.ResultMetric.
func (r requestResult) Increment(_ context.Context, code, method, host string) {
	r.WithLabelValues(code, method, host).Inc()
}

type requestRetry struct{ *prometheus.CounterVec }

// IncrementRetry implements metrics.RetryMetric.
func (r requestRetry) IncrementRetry(_ context.Context, code, method, host string) {
	r.WithLabelValues(code, method, host).Inc()
}

type requestLatency struct{ *prometheus.HistogramVec }

// Observe implements metrics.LatencyMetric.
func (r requestLatency) Observe(_ context.Context, verb string, u url.URL, latency time.Duration) {
	r.WithLabelValues(verb, u.Host).Observe(latency.Seconds())
}
