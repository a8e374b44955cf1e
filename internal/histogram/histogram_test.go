package histogram

import (
	"bufio"
	"math"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	dto "github.com/prometheus/client_model/go"
)

func gathered(t *testing.T, c prometheus.Collector) *dto.MetricFamily {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil || len(families) != 1 {
		t.Fatalf("%d families, %v", len(families), err)
	}
	return families[0]
}

// TestAHistogramIsClassicAndNative: both forms count the same observations.
func TestAHistogramIsClassicAndNative(t *testing.T) {
	h := New("test_seconds", "A test.", []float64{0.1, 1})
	for _, v := range []float64{0.05, 0.1, 0.51, 0.52, 7} {
		h.Observe(v)
	}
	family := gathered(t, h)
	if family.GetName() != "test_seconds" || family.GetHelp() != "A test." || family.GetType() != dto.MetricType_HISTOGRAM {
		t.Errorf("%v", family)
	}
	got := family.GetMetric()[0].GetHistogram()
	var classic []uint64
	for _, b := range got.GetBucket() {
		classic = append(classic, b.GetCumulativeCount())
	}
	if !slices.Equal(classic, []uint64{2, 4}) || got.GetSampleCount() != 5 || math.Abs(got.GetSampleSum()-8.18) > 1e-9 {
		t.Errorf("classic: %v of %d, sum %v", classic, got.GetSampleCount(), got.GetSampleSum())
	}
	// Buckets of the native form are at most a tenth wide: 0.51 and 0.52 share one, 0.05 and 0.1 do not.
	if factor := math.Pow(2, math.Pow(2, -float64(got.GetSchema()))); factor > 1.1 {
		t.Errorf("native buckets grow by %v", factor)
	}
	var native []int64
	count, total := int64(0), int64(0)
	for _, delta := range got.GetPositiveDelta() {
		count += delta
		total += count
		if count > 0 {
			native = append(native, count)
		}
	}
	if total != 5 || !slices.Equal(native, []int64{1, 1, 2, 1}) {
		t.Errorf("native: %v, together %d", native, total)
	}
}

// TestNativeBucketsAreBounded: however far observations are apart, and whatever a client makes them be.
func TestNativeBucketsAreBounded(t *testing.T) {
	h := New("test_seconds", "A test.", []float64{1})
	observed := 0
	for v := 1e-300; v < 1e300; v *= 1.5 {
		h.Observe(v)
		observed++
	}
	h.Observe(math.Inf(1))
	got := gathered(t, h).GetMetric()[0].GetHistogram()
	buckets := 0
	for _, span := range got.GetPositiveSpan() {
		buckets += int(span.GetLength())
	}
	if buckets > 110 { // an empty bucket between two spans may be part of one
		t.Errorf("%d native buckets", buckets)
	}
	if got.GetSampleCount() != uint64(observed)+1 {
		t.Errorf("%d observations, not %d", got.GetSampleCount(), observed+1)
	}
}

// TestEachLabelHasItsHistogram: and a wrong number of labels is refused.
func TestEachLabelHasItsHistogram(t *testing.T) {
	v := Vec("test_bytes", "A test.", []float64{10}, "verb", "code")
	v.WithLabelValues("get", "200").Observe(1)
	v.WithLabelValues("get", "200").Observe(2)
	v.WithLabelValues("list", "500").Observe(3)
	if _, err := v.GetMetricWithLabelValues("get"); err == nil {
		t.Error("one label of two is accepted")
	}
	counts := map[string]uint64{}
	for _, m := range gathered(t, v).GetMetric() {
		var labels []string
		for _, l := range m.GetLabel() {
			labels = append(labels, l.GetName()+"="+l.GetValue())
		}
		counts[strings.Join(labels, ",")] = m.GetHistogram().GetSampleCount()
	}
	if len(counts) != 2 || counts["code=200,verb=get"] != 2 || counts["code=500,verb=list"] != 1 {
		t.Errorf("%v", counts)
	}
}

// TestScrapersOfTextGetClassicBuckets: rules and dashboards of the ecosystem rest on these.
func TestScrapersOfTextGetClassicBuckets(t *testing.T) {
	h := New("test_seconds", "A test.", []float64{0.1, 1})
	h.Observe(0.5)
	registry := prometheus.NewRegistry()
	registry.MustRegister(h)
	answer := httptest.NewRecorder()
	promhttp.HandlerFor(registry, promhttp.HandlerOpts{}).ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	var lines []string
	for scanner := bufio.NewScanner(answer.Body); scanner.Scan(); {
		lines = append(lines, scanner.Text())
	}
	for _, line := range []string{`test_seconds_bucket{le="0.1"} 0`, `test_seconds_bucket{le="1"} 1`, `test_seconds_bucket{le="+Inf"} 1`, `test_seconds_sum 0.5`, `test_seconds_count 1`} {
		if !slices.Contains(lines, line) {
			t.Errorf("%q is not in %q", line, lines)
		}
	}
}
