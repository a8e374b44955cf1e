package conversion

import (
	"errors"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/kontiki/kontiki/internal/collectors"
	"github.com/kontiki/kontiki/internal/histogram"
)

// Why a call of a webhook failed, as upstream's metrics name it.
const (
	callFailed    = "conversion_webhook_call_failure"
	malformed     = "conversion_webhook_malformed_response_failure"
	partial       = "conversion_webhook_partial_response_failure"
	invalidObject = "conversion_webhook_invalid_converted_object_failure"
)

// failure is an error of a call with its kind.
type failure struct {
	error
	kind string
}

// Unwrap returns the error.
func (f *failure) Unwrap() error { return f.error }

func failed(kind string, err error) error { return &failure{err, kind} }

// maxDefinitions limits how many definitions are told apart until the master starts again. The calls of further ones count under "".
const maxDefinitions = 1000

// Metrics are those of conversion webhooks, under upstream's names. Safe for concurrent use.
type Metrics struct {
	collectors.Group
	total    *prometheus.CounterVec
	duration *prometheus.HistogramVec
	of       *prometheus.HistogramVec

	mu    sync.Mutex
	known map[string]bool // definitions
}

// NewMetrics returns metrics of which none has been counted.
func NewMetrics() *Metrics {
	m := &Metrics{
		known: map[string]bool{},
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "apiserver_conversion_webhook_request_total",
			Help: "Counter for conversion webhook requests with success/failure and failure error type"}, []string{"result", "failure_type"}),
		duration: histogram.Vec("apiserver_conversion_webhook_duration_seconds", "Conversion webhook request latency",
			[]float64{0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 30, 45, 60}, "result", "failure_type"),
		of: histogram.Vec("apiserver_crd_conversion_webhook_duration_seconds", "CRD webhook conversion duration in seconds",
			prometheus.ExponentialBuckets(0.001, 2, 15), "crd_name", "from_version", "to_version", "succeeded"),
	}
	m.Group = collectors.Group{m.total, m.duration, m.of}
	return m
}

// called counts a call for objects of a definition. A nil receiver counts nothing.
func (m *Metrics) called(definition, from, to string, took time.Duration, err error) {
	if m == nil {
		return
	}
	result, kind := "success", ""
	if err != nil {
		result, kind = "failure", callFailed
		if f := (*failure)(nil); errors.As(err, &f) {
			kind = f.kind
		}
	}
	m.total.WithLabelValues(result, kind).Inc()
	m.duration.WithLabelValues(result, kind).Observe(took.Seconds())
	m.of.WithLabelValues(m.name(definition), versionOf(from), versionOf(to), strconv.FormatBool(err == nil)).Observe(took.Seconds())
}

func (m *Metrics) name(definition string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.known[definition] {
		if len(m.known) >= maxDefinitions {
			return ""
		}
		m.known[definition] = true
	}
	return definition
}

func versionOf(apiVersion string) string {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return ""
	}
	return gv.Version
}
