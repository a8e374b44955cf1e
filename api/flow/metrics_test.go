package flow

import (
	"strings"
	"testing"

	"github.com/kontiki/kontiki/test/gathered"
)

func TestMetrics(t *testing.T) {
	c := oneLevel(1, rejecting("one", 100))
	seat := enters(t, c, as("joe"))
	refused(t, c, as("joe"))
	write := as("joe")
	write.Verb = "create"
	refused(t, c, write)
	values := gathered.Values(t, c)
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
	for name := range gathered.Values(t, c) {
		if strings.Contains(name, `"one"`) {
			t.Errorf("left: %s", name)
		}
	}
}
