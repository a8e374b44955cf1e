package server

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/record"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/horizontal"
)

// autoscalerFlags are kube-controller-manager's.
func autoscalerFlags(f *pflag.FlagSet, o *horizontal.Options) {
	*o = horizontal.Defaults
	const prefix = "horizontal-pod-autoscaler-"
	f.IntVar(&o.Workers, "concurrent-"+prefix+"syncs", o.Workers, "how many horizontal pod autoscalers are synced at the same time")
	f.DurationVar(&o.SyncPeriod, prefix+"sync-period", o.SyncPeriod, "the period for syncing the number of pods in horizontal pod autoscalers; the same on all masters, as the following ones")
	f.DurationVar(&o.DownscaleStabilization, prefix+"downscale-stabilization", o.DownscaleStabilization, "the period for which an autoscaler looks back, and does not scale down below any recommendation that it made in it")
	f.Float64Var(&o.Tolerance, prefix+"tolerance", o.Tolerance, "the minimum change (from 1.0) in the ratio of the use to the target for an autoscaler to consider scaling")
	f.DurationVar(&o.CPUInitializationPeriod, prefix+"cpu-initialization-period", o.CPUInitializationPeriod, "the period after a pod's start in which its use of processors may be skipped")
	f.DurationVar(&o.InitialReadinessDelay, prefix+"initial-readiness-delay", o.InitialReadinessDelay, "the period after a pod's start in which changes of its readiness are treated as initial readiness")
}

// checkAutoscaler says what is wrong with these flags.
func checkAutoscaler(o horizontal.Options) error {
	const prefix = "--horizontal-pod-autoscaler-"
	switch {
	case o.Workers < 1:
		return fmt.Errorf("--concurrent-horizontal-pod-autoscaler-syncs: want at least 1, not %d", o.Workers)
	case o.SyncPeriod < time.Second:
		return fmt.Errorf("%ssync-period: %s is shorter than a second", prefix, o.SyncPeriod)
	case o.Tolerance < 0 || o.Tolerance >= 1:
		return fmt.Errorf("%stolerance: %g is not from 0 to 1", prefix, o.Tolerance)
	case o.DownscaleStabilization < 0 || o.CPUInitializationPeriod < 0 || o.InitialReadinessDelay < 0:
		return fmt.Errorf("%sdownscale-stabilization, -cpu-initialization-period and -initial-readiness-delay must not be negative", prefix)
	}
	return nil
}

// autoscalerSettings are the settings that must be the same on all masters.
func autoscalerSettings(o horizontal.Options, to map[string]string) {
	const prefix = "horizontal-pod-autoscaler-"
	to[prefix+"sync-period"] = o.SyncPeriod.String()
	to[prefix+"downscale-stabilization"] = o.DownscaleStabilization.String()
	to[prefix+"tolerance"] = fmt.Sprint(o.Tolerance)
	to[prefix+"cpu-initialization-period"] = o.CPUInitializationPeriod.String()
	to[prefix+"initial-readiness-delay"] = o.InitialReadinessDelay.String()
}

// autoscale returns the controller of horizontal pod autoscalers.
func (m *master) autoscale(c *client.Client, recorder record.EventRecorder) []*controller.Controller {
	others := &renewed[elsewhere]{
		connect: func() (*rest.Config, error) {
			return m.loopback(autoscalerUser, "horizontal-pod-autoscaler", metricsTimeout)
		},
		build: newElsewhere,
	}
	return []*controller.Controller{horizontal.New(horizontal.Config{
		Options: m.options.autoscaler, Observe: autoscalerMetrics.observe, Client: c, Recorder: recorder,
		Custom: func() (custom_metrics.CustomMetricsClient, error) {
			now, err := others.get()
			return now.custom, err
		},
		External: func() (external_metrics.ExternalMetricsClient, error) {
			now, err := others.get()
			return now.external, err
		},
		PodMetrics: func(ctx context.Context, _ string, pods []*corev1.Pod) (out []*metricsv1.PodMetrics) {
			used := m.usage.Now(ctx)
			for _, pod := range pods {
				if measured := used.PodMetrics(pod); measured != nil {
					out = append(out, measured)
				}
			}
			return out
		},
	})}
}

// autoscalerUser is as whom the autoscaler reads custom and external metrics, through this master's API.
const autoscalerUser = "system:serviceaccount:kube-system:horizontal-pod-autoscaler"

const metricsTimeout = 10 * time.Second

// elsewhere are clients of whoever serves custom.metrics.k8s.io and external.metrics.k8s.io.
type elsewhere struct {
	custom   custom_metrics.CustomMetricsClient
	external external_metrics.ExternalMetricsClient
}

func newElsewhere(config *rest.Config) (elsewhere, error) {
	discoverer, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		return elsewhere{}, err
	}
	external, err := external_metrics.NewForConfig(config)
	if err != nil {
		return elsewhere{}, err
	}
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(discoverer))
	return elsewhere{custom: custom_metrics.NewForConfig(config, mapper, custom_metrics.NewAvailableAPIsGetter(discoverer)), external: external}, nil
}
