package cluster

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kontiki/kontiki/internal/collectors"
)

// diskMetrics collects metrics of this master's disk.
type diskMetrics struct{ c *Cluster }

var (
	diskFull    = prometheus.NewDesc("kontiki_disk_full", "1 while the disk of this master's data has no room, and it takes no writes.", nil, nil)
	diskStalled = prometheus.NewDesc("kontiki_disk_stalled", "1 while an operation of the raft log is under way for too long.", nil, nil)
	diskFree    = prometheus.NewDesc("kontiki_disk_free_bytes", "Free bytes of the disk of this master's data.", nil, nil)
	diskNeeded  = prometheus.NewDesc("kontiki_disk_needed_bytes", "Free bytes that this master needs to take writes; more while it is full, so that it is not again at once.", nil, nil)
	diskFulls   = prometheus.NewDesc("kontiki_disk_full_total", "How often the disk became full since the start.", nil, nil)
	diskStalls  = prometheus.NewDesc("kontiki_disk_stalls_total", "Operations of the raft log that took too long since the start.", nil, nil)
)

// Collector returns a collector of this master's metrics.
func (c *Cluster) Collector() prometheus.Collector {
	return collectors.Group{diskMetrics{c}, certificateMetrics{c}, c.consensus.Collector()}
}

func (diskMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{diskFull, diskStalled, diskFree, diskNeeded, diskFulls, diskStalls} {
		to <- d
	}
}

func (m diskMetrics) Collect(to chan<- prometheus.Metric) {
	h := m.c.consensus.DiskHealth()
	flag := func(b bool) float64 {
		if b {
			return 1
		}
		return 0
	}
	for _, g := range []struct {
		desc  *prometheus.Desc
		kind  prometheus.ValueType
		value float64
	}{
		{diskFull, prometheus.GaugeValue, flag(h.Full)}, {diskStalled, prometheus.GaugeValue, flag(h.Stalled)},
		{diskFree, prometheus.GaugeValue, float64(h.Free)}, {diskNeeded, prometheus.GaugeValue, float64(h.Needed)},
		{diskFulls, prometheus.CounterValue, float64(h.Fulls)}, {diskStalls, prometheus.CounterValue, float64(h.Stalls)},
	} {
		to <- prometheus.MustNewConstMetric(g.desc, g.kind, g.value)
	}
}

var (
	certificateExpiry  = prometheus.NewDesc("kontiki_certificate_expiry_timestamp_seconds", "When a certificate that this master uses expires; it is renewed long before.", []string{"use"}, nil)
	identityGeneration = prometheus.NewDesc("kontiki_identity_generation", "The generation of the cluster's identity that this master uses; the same on all masters but for moments.", nil, nil)
	workersMetric      = prometheus.NewDesc("kontiki_following_workers", "How many workers follow this master for changes of certificates and keys.", nil, nil)
)

// certificateMetrics collects metrics of this master's certificates.
type certificateMetrics struct{ c *Cluster }

func (certificateMetrics) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{certificateExpiry, identityGeneration, workersMetric} {
		to <- d
	}
}

func (m certificateMetrics) Collect(to chan<- prometheus.Metric) {
	own, err := m.c.ownCertificates()
	if err != nil {
		to <- prometheus.NewInvalidMetric(certificateExpiry, err)
		return
	}
	for _, cert := range own.Certificates {
		to <- prometheus.MustNewConstMetric(certificateExpiry, prometheus.GaugeValue, float64(cert.NotAfter.Unix()), cert.Use)
	}
	to <- prometheus.MustNewConstMetric(identityGeneration, prometheus.GaugeValue, float64(own.Generation))
	following := 0
	for _, w := range own.Workers {
		if w.Following {
			following++
		}
	}
	to <- prometheus.MustNewConstMetric(workersMetric, prometheus.GaugeValue, float64(following))
}
