package measure

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/internal/kv"
)

// Stored collects how many objects of each resource are stored. Counting takes logarithmic time.
type Stored struct {
	View    func() kv.View
	Catalog *registry.Catalog
}

var (
	storageObjects  = prometheus.NewDesc("apiserver_storage_objects", "Number of stored objects at the time of last check split by kind.", []string{"resource"}, nil)
	resourceObjects = prometheus.NewDesc("apiserver_resource_objects", "Number of stored objects at the time of last check split by kind.", []string{"group", "resource"}, nil)
)

// Describe implements prometheus.Collector.
func (Stored) Describe(to chan<- *prometheus.Desc) {
	to <- storageObjects
	to <- resourceObjects
}

// Collect implements prometheus.Collector.
func (s Stored) Collect(to chan<- prometheus.Metric) {
	view := s.View()
	for _, k := range s.Catalog.Table().Kinds() {
		if k.StoredAs != nil || !k.Stored() {
			continue
		}
		n := float64(view.Count(k.Prefix(), kv.PrefixEnd(k.Prefix())))
		to <- prometheus.MustNewConstMetric(storageObjects, prometheus.GaugeValue, n, k.GroupResource().String())
		to <- prometheus.MustNewConstMetric(resourceObjects, prometheus.GaugeValue, n, k.Group, k.Resource)
	}
}
