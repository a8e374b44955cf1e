package gathered

import (
	"maps"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestValuesOfEachKind(t *testing.T) {
	registry := prometheus.NewRegistry()
	counter := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "c_total"}, []string{"z", "a"})
	gauge := prometheus.NewGauge(prometheus.GaugeOpts{Name: "g"})
	histogram := prometheus.NewHistogram(prometheus.HistogramOpts{Name: "h"})
	registry.MustRegister(counter, gauge, histogram)
	counter.WithLabelValues("1", `q"`).Add(2)
	gauge.Set(-3)
	histogram.Observe(7)
	histogram.Observe(8)
	want := map[string]float64{`c_total{a="q\"",z="1"}`: 2, "g{}": -3, "h{}": 2}
	if got := Values(t, registry); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
