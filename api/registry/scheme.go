package registry

import (
	extensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubernetes/pkg/api/legacyscheme"
	_ "k8s.io/kubernetes/pkg/apis/admissionregistration/install"
	_ "k8s.io/kubernetes/pkg/apis/apps/install"
	_ "k8s.io/kubernetes/pkg/apis/authentication/install"
	_ "k8s.io/kubernetes/pkg/apis/authorization/install"
	_ "k8s.io/kubernetes/pkg/apis/autoscaling/install"
	_ "k8s.io/kubernetes/pkg/apis/batch/install"
	_ "k8s.io/kubernetes/pkg/apis/certificates/install"
	_ "k8s.io/kubernetes/pkg/apis/coordination/install"
	_ "k8s.io/kubernetes/pkg/apis/core/install"
	_ "k8s.io/kubernetes/pkg/apis/discovery/install"
	_ "k8s.io/kubernetes/pkg/apis/events/install"
	_ "k8s.io/kubernetes/pkg/apis/flowcontrol/install"
	_ "k8s.io/kubernetes/pkg/apis/networking/install"
	_ "k8s.io/kubernetes/pkg/apis/node/install"
	_ "k8s.io/kubernetes/pkg/apis/policy/install"
	_ "k8s.io/kubernetes/pkg/apis/rbac/install"
	_ "k8s.io/kubernetes/pkg/apis/resource/install"
	_ "k8s.io/kubernetes/pkg/apis/scheduling/install"
	_ "k8s.io/kubernetes/pkg/apis/storage/install"
	_ "k8s.io/kubernetes/pkg/apis/storagemigration/install"

	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	aggregator "k8s.io/kube-aggregator/pkg/apis/apiregistration/install"
	"k8s.io/kubernetes/pkg/features"
	metrics "k8s.io/metrics/pkg/apis/metrics/install"
)

// Scheme contains all types, internal and versioned, with upstream's defaulting, conversion and declarative validation.
var Scheme = func() *runtime.Scheme {
	metrics.Install(legacyscheme.Scheme)
	extensions.Install(legacyscheme.Scheme) // no package of upstream does
	aggregator.Install(legacyscheme.Scheme)
	return legacyscheme.Scheme
}()

// Codecs encode and decode the scheme's types.
var Codecs = legacyscheme.Codecs

// declarativeOptions are the options that upstream's declarative validation tags refer to.
var declarativeOptions = func() map[string]bool {
	options := map[string]bool{}
	for _, feature := range []featuregate.Feature{
		features.InPlacePodVerticalScalingSchedulerPreemption, features.WorkloadWithJob, features.DRAPartitionableDevicesType,
	} {
		options[string(feature)] = utilfeature.DefaultFeatureGate.Enabled(feature)
	}
	return options
}()
