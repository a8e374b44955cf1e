package admission

import (
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"k8s.io/component-base/metrics/legacyregistry"
)

// counted are the prefixes of the metrics of what this package's steps do, and of the validation of custom resources, which upstream's packages
// count.
var counted = []string{
	"apiserver_admission_webhook_", "apiserver_admission_match_condition_", "apiserver_validating_admission_policy_", "apiserver_mutating_admission_policy_",
	"apiserver_manifest_admission_", "apiextensions_apiserver_validation_",
}

// Metrics gathers the metrics of webhooks, policies and the validation of custom resources, under upstream's names. They are those of the process.
func Metrics() prometheus.Gatherer {
	return prometheus.GathererFunc(func() ([]*dto.MetricFamily, error) {
		families, err := legacyregistry.DefaultGatherer.Gather()
		return slices.DeleteFunc(families, func(f *dto.MetricFamily) bool {
			return !slices.ContainsFunc(counted, func(prefix string) bool { return strings.HasPrefix(f.GetName(), prefix) })
		}), err
	})
}
