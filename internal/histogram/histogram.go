// Package histogram makes Prometheus histograms that are classic and native at once: a scraper that understands native histograms gets finer
// buckets of them, and others get the classic ones, which rules and dashboards of the ecosystem rest on.
package histogram

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Options returns the options of a histogram with classic buckets. A native one has buckets that grow by a tenth, and at most 100 of them.
func Options(name, help string, buckets []float64) prometheus.HistogramOpts {
	return prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets,
		NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour}
}

// Vec returns a histogram with labels.
func Vec(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(Options(name, help, buckets), labels)
}

// New returns a histogram without labels.
func New(name, help string, buckets []float64) prometheus.Histogram {
	return prometheus.NewHistogram(Options(name, help, buckets))
}
