package server

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/kontiki/kontiki/api/extension/admission"
	"github.com/kontiki/kontiki/api/measure"
	"github.com/kontiki/kontiki/internal/collectors"
	"github.com/kontiki/kontiki/internal/histogram"
)

// apiMetrics and autoscalerMetrics are those of this process, which runs one master.
var (
	apiMetrics        = measure.New()
	autoscalerMetrics = newAutoscalerMetrics()
)

// metricsHandler serves the metrics of the process, and those of webhooks and policies, which upstream's packages keep apart.
func metricsHandler() http.Handler {
	return promhttp.InstrumentMetricHandler(prometheus.DefaultRegisterer, promhttp.HandlerFor(prometheus.Gatherers{prometheus.DefaultGatherer, admission.Metrics()}, promhttp.HandlerOpts{}))
}

// autoscaling are the metrics of the controller of horizontal pod autoscalers, under upstream's names.
type autoscaling struct {
	collectors.Group
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
}

func newAutoscalerMetrics() *autoscaling {
	const prefix = "horizontal_pod_autoscaler_controller_reconciliation"
	m := &autoscaling{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + "s_total",
			Help: "Number of reconciliations of HPA controller. The label 'action' should be either 'scale_down', 'scale_up', or 'none'. Also, the label 'error' should be either 'spec', 'internal', or 'none'."}, []string{"action", "error"}),
		duration: histogram.Vec(prefix+"_duration_seconds", "The time(seconds) that the HPA controller takes to reconcile once.", prometheus.ExponentialBuckets(0.001, 2, 15), "action", "error"),
	}
	m.Group = collectors.Group{m.total, m.duration}
	return m
}

func (m *autoscaling) observe(action, problem string, took time.Duration) {
	m.total.WithLabelValues(action, problem).Inc()
	m.duration.WithLabelValues(action, problem).Observe(took.Seconds())
}
