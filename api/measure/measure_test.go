package measure

import (
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

func TestRequestsAreCounted(t *testing.T) {
	m := New()
	r := Request{Verb: "POST", Version: "v1", Resource: "pods", Scope: "resource"}
	m.End(r, true, 201, 2*time.Second, time.Second, 100)
	m.End(r, true, 409, time.Second, 0, 100)
	m.End(r, true, 201, time.Second, 0, 100)
	done := m.Long(Request{Verb: "WATCH", Version: "v1", Resource: "pods", Scope: "namespace"})
	for code, want := range map[string]float64{"201": 2, "409": 1} {
		if got := testutil.ToFloat64(m.total.WithLabelValues(code, "POST", "", "", "v1", "pods", "", "resource", component)); got != want {
			t.Errorf("%s: %g, want %g", code, got, want)
		}
	}
	if got := testutil.ToFloat64(m.longRunning); got != 1 {
		t.Errorf("%g requests are long-running", got)
	}
	done(200)
	if got := testutil.ToFloat64(m.longRunning); got != 0 {
		t.Errorf("%g requests are long-running after the end", got)
	}
	m.End(Request{Verb: "LIST", Version: "v1", Resource: "pods", Scope: "namespace"}, false, 200, 0, 0, 500)
	registry := prometheus.NewRegistry()
	registry.MustRegister(m)
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var sizes uint64
	for _, f := range families {
		if f.GetName() == "apiserver_response_sizes" {
			for _, one := range f.GetMetric() {
				sizes += one.GetHistogram().GetSampleCount()
			}
		}
	}
	if sizes != 1 {
		t.Errorf("%d sizes of answers, want that of the list: changes have none", sizes)
	}
}

func TestRefusalsAreCountedByTheirStep(t *testing.T) {
	m := New()
	m.Admitted("admit", "CREATE", "", time.Millisecond)
	m.Admitted("validate", "CREATE", "ResourceQuota", time.Millisecond)
	if got := testutil.ToFloat64(m.rejections.WithLabelValues("ResourceQuota", "CREATE", "validate")); got != 1 || testutil.CollectAndCount(m.rejections) != 1 {
		t.Errorf("%g refusals by quotas", got)
	}
	if n := testutil.CollectAndCount(m.admission); n != 2 {
		t.Errorf("%d series of admission, want one of what was admitted and one of what was refused", n)
	}
}

// TestSeriesAreBounded: resources that come and go for ever, as custom ones can, do not fill a master's memory.
func TestSeriesAreBounded(t *testing.T) {
	m := New()
	for i := range maxSeries + 100 {
		m.End(Request{Verb: "GET", Group: fmt.Sprint("g", i), Version: "v1", Resource: "r", Scope: "resource"}, false, 200, 0, 0, 1)
		m.Watch(fmt.Sprint("g", i), "v1", "r").Sent(1)
	}
	count := func(c prometheus.Collector) int { return testutil.CollectAndCount(c) }
	if got := count(m.total); got > maxSeries+1 {
		t.Errorf("%d series of requests", got)
	}
	if got := count(m.watchEvents); got > maxSeries+1 {
		t.Errorf("%d series of watches", got)
	}
	if got := testutil.ToFloat64(m.total.WithLabelValues("200", "GET", "", "", "", "", "", "resource", component)); got != 100 {
		t.Errorf("%g requests are counted without a resource, want 100", got)
	}
	if got := testutil.ToFloat64(m.watchEvents.WithLabelValues("", "", "")); got != 100 {
		t.Errorf("%g events are counted without a resource, want 100", got)
	}
}

func TestNoMetricsCountNothing(t *testing.T) {
	var m *API
	m.End(Request{}, false, 200, 0, 0, 0)
	m.Long(Request{})(200)
	m.Panicked()
	m.Authenticated(true)
	m.Watch("", "v1", "pods").Sent(1)
	m.Admitted("admit", "CREATE", "", 0)
}
