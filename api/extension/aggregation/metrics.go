package aggregation

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kontiki/kontiki/internal/collectors"
)

// Name returns the name of the service's APIService.
func (s *Service) Name() string { return s.Version + "." + s.Group }

// metrics are those of aggregation, under upstream's names.
type metrics struct {
	unavailable  *prometheus.CounterVec
	discovery    prometheus.Counter
	openAPI      *prometheus.CounterVec
	openAPITakes *prometheus.GaugeVec
}

func newMetrics() *metrics {
	return &metrics{
		unavailable: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "aggregator_unavailable_apiservice_total",
			Help: "Counter of APIServices which are marked as unavailable broken down by APIService name and reason."}, []string{"name", "reason"}),
		discovery: prometheus.NewCounter(prometheus.CounterOpts{Name: "aggregator_discovery_aggregation_count_total",
			Help: "Counter of number of times discovery was aggregated"}),
		openAPI: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "aggregator_openapi_v2_regeneration_count",
			Help: "Counter of OpenAPI v2 spec regeneration count broken down by causing APIService name and reason."}, []string{"apiservice", "reason"}),
		openAPITakes: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "aggregator_openapi_v2_regeneration_duration",
			Help: "Gauge of OpenAPI v2 spec regeneration duration in seconds."}, []string{"reason"}),
	}
}

// Metrics returns the metrics of aggregation.
func (s *Services) Metrics() prometheus.Collector {
	return collectors.Group{s.metrics.unavailable, s.metrics.discovery, s.metrics.openAPI, s.metrics.openAPITakes, availability{s}}
}

// Merged counts that discovery was put together.
func (s *Services) Merged() { s.metrics.discovery.Inc() }

// OpenAPIMerged counts that the document of OpenAPI v2 was put together, and how long that took.
func (s *Services) OpenAPIMerged(took time.Duration) {
	s.metrics.openAPITakes.WithLabelValues("update").Set(took.Seconds())
}

// compare counts what differs between two states.
func (m *metrics) compare(before, now *State) {
	for _, service := range now.Services {
		old := before.Of(service.Group, service.Version)
		if old != nil && old.Available && !service.Available {
			m.unavailable.WithLabelValues(service.Name(), service.reason).Inc()
		}
		switch {
		case service.v2 == nil && old == nil, old != nil && old.v2 == service.v2:
		case old == nil || old.v2 == nil:
			m.openAPI.WithLabelValues(service.Name(), "add").Inc()
		default:
			m.openAPI.WithLabelValues(service.Name(), "update").Inc()
		}
	}
	for _, old := range before.Services {
		if now.Of(old.Group, old.Version) == nil { // its series go with it
			m.unavailable.DeletePartialMatch(prometheus.Labels{"name": old.Name()})
			m.openAPI.DeletePartialMatch(prometheus.Labels{"apiservice": old.Name()})
		}
	}
}

// availability tells which services are not available.
type availability struct{ services *Services }

var unavailableNow = prometheus.NewDesc("aggregator_unavailable_apiservice", "Gauge of APIServices which are marked as unavailable broken down by APIService name.", []string{"name"}, nil)

// Describe implements prometheus.Collector.
func (a availability) Describe(to chan<- *prometheus.Desc) { to <- unavailableNow }

// Collect implements prometheus.Collector.
func (a availability) Collect(to chan<- prometheus.Metric) {
	for _, service := range a.services.Now().Services {
		value := 1.0
		if service.Available {
			value = 0
		}
		to <- prometheus.MustNewConstMetric(unavailableNow, prometheus.GaugeValue, value, service.Name())
	}
}
