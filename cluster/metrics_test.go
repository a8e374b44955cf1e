package cluster

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestCertificatesInMetrics(t *testing.T) {
	m := startMasters(t, 1)
	registry := prometheus.NewRegistry()
	registry.MustRegister(m.nodes[0].c.Collector())
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	uses := 0
	for _, family := range families {
		if family.GetName() != "kontiki_certificate_expiry_timestamp_seconds" {
			continue
		}
		for _, metric := range family.Metric {
			if left := time.Until(time.Unix(int64(metric.Gauge.GetValue()), 0)); left < 360*24*time.Hour || left > 366*24*time.Hour {
				t.Errorf("%v expires in %s", metric.Label, left)
			}
			uses++
		}
	}
	if uses != 3 {
		t.Errorf("%d certificates are shown", uses)
	}
}
