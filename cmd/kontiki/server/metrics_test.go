package server

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/kontiki/kontiki/api/extension/aggregation"
	"github.com/kontiki/kontiki/api/extension/conversion"
	"github.com/kontiki/kontiki/api/flow"
	"github.com/kontiki/kontiki/controller"
)

// TestMetricsOfAMasterAgree: no two parts of a master have metrics of one name, which would keep it from starting.
func TestMetricsOfAMasterAgree(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	for name, c := range map[string]prometheus.Collector{
		"process": collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), "Go": collectors.NewGoCollector(),
		"API": apiMetrics, "flow": flow.New(10), "controllers": controller.Metrics(), "scheduler": schedulerMetrics, "autoscaler": autoscalerMetrics,
		"conversion": conversion.NewMetrics(), "aggregation": aggregation.New(aggregation.Config{}).Metrics(),
	} {
		if err := registry.Register(c); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := registry.Gather(); err != nil {
		t.Error(err)
	}
}
