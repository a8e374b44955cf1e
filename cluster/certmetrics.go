package cluster

import "github.com/prometheus/client_golang/prometheus"

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

// collectors combines several collectors.
type collectors []prometheus.Collector

func (all collectors) Describe(to chan<- *prometheus.Desc) {
	for _, c := range all {
		c.Describe(to)
	}
}

func (all collectors) Collect(to chan<- prometheus.Metric) {
	for _, c := range all {
		c.Collect(to)
	}
}
