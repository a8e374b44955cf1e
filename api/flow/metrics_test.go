package flow

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

func TestMetrics(t *testing.T) {
	c := oneLevel(1, rejecting("one", 100))
	seat := enters(t, c, as("joe"))
	refused(t, c, as("joe"))
	write := as("joe")
	write.Verb = "create"
	refused(t, c, write)
	values := gathered(t, c)
	of := `{flow_schema="to-one",priority_level="one"}`
	for name, want := range map[string]float64{
		`apiserver_dropped_requests_total{request_kind="mutating"}`:                                                           1,
		`apiserver_dropped_requests_total{request_kind="readOnly"}`:                                                           1,
		`apiserver_current_inflight_requests{request_kind="mutating"}`:                                                        0,
		`apiserver_current_inflight_requests{request_kind="readOnly"}`:                                                        1,
		`apiserver_flowcontrol_dispatched_requests_total` + of:                                                                1,
		`apiserver_flowcontrol_current_executing_requests` + of:                                                               1,
		`apiserver_flowcontrol_current_executing_seats` + of:                                                                  1,
		`apiserver_flowcontrol_current_inqueue_requests` + of:                                                                 0,
		`apiserver_flowcontrol_rejected_requests_total{flow_schema="to-one",priority_level="one",reason="concurrency-limit"}`: 2,
		`apiserver_flowcontrol_request_wait_duration_seconds{execute="false",flow_schema="to-one",priority_level="one"}`:      2,
		`apiserver_flowcontrol_request_wait_duration_seconds{execute="true",flow_schema="to-one",priority_level="one"}`:       1,
		`apiserver_flowcontrol_request_execution_seconds{flow_schema="to-one",priority_level="one",type="regular"}`:           0,
		`apiserver_flowcontrol_nominal_limit_seats{priority_level="one"}`:                                                     1,
		`apiserver_flowcontrol_current_limit_seats{priority_level="one"}`:                                                     1,
	} {
		if got, ok := values[name]; !ok || got != want {
			t.Errorf("%s: %v %v, want %v", name, got, ok, want)
		}
	}
	seat.Leave()
	// Nothing is kept of schemas and levels that are gone.
	c.Configure(nil, nil)
	c.adjust()
	for name := range gathered(t, c) {
		if strings.Contains(name, `"one"`) {
			t.Errorf("left: %s", name)
		}
	}
}

// gathered returns a collector's values, and the numbers of its histograms' observations, by name and labels.
func gathered(t *testing.T, c prometheus.Collector) map[string]float64 {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			var labels []string
			for _, label := range m.GetLabel() {
				labels = append(labels, label.GetName()+"="+`"`+label.GetValue()+`"`)
			}
			values[family.GetName()+"{"+strings.Join(labels, ",")+"}"] = m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return values
}
