package horizontal

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	customv1beta2 "k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	externalv1beta1 "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1"
)

// proposal is what one metric proposes.
type proposal struct {
	replicas int32
	// name describes the metric in events.
	name   string
	status autoscalingv2.MetricStatus
}

// failure is why a metric proposes nothing: an error with the reason of the condition and the event.
type failure struct {
	reason string
	// shown is what the condition and the event say, err what is returned, with more around it.
	shown, err error
}

var errNoPods = errors.New("no pods returned by selector while calculating replica count")

// scaling is one reconciliation's view of an autoscaler and its target.
type scaling struct {
	*Config
	hpa      *autoscalingv2.HorizontalPodAutoscaler
	spec     int32 // replicas that the target should have
	existing int32 // replicas that it has
	selector labels.Selector
	pods     []*corev1.Pod
}

// propose asks one metric.
func (s *scaling) propose(ctx context.Context, m *autoscalingv2.MetricSpec) (proposal, *failure) {
	switch m.Type {
	case autoscalingv2.ObjectMetricSourceType:
		p, err := s.object(m.Object)
		return p, failed(err, "FailedGetObjectMetric", "failed to get object metric value")
	case autoscalingv2.PodsMetricSourceType:
		p, err := s.podsMetric(m.Pods)
		return p, failed(err, "FailedGetPodsMetric", "failed to get pods metric value")
	case autoscalingv2.ResourceMetricSourceType:
		r := m.Resource
		p, value, err := s.resource(ctx, r.Name, "", r.Target)
		p.status = autoscalingv2.MetricStatus{Type: m.Type, Resource: &autoscalingv2.ResourceMetricStatus{Name: r.Name, Current: value}}
		return p, failed(err, "FailedGetResourceMetric", fmt.Sprintf("failed to get %s resource metric value", r.Name))
	case autoscalingv2.ContainerResourceMetricSourceType:
		r := m.ContainerResource
		p, value, err := s.resource(ctx, r.Name, r.Container, r.Target)
		p.status = autoscalingv2.MetricStatus{Type: m.Type, ContainerResource: &autoscalingv2.ContainerResourceMetricStatus{Name: r.Name, Container: r.Container, Current: value}}
		return p, failed(err, "FailedGetContainerResourceMetric", fmt.Sprintf("failed to get %s container metric value", r.Container))
	case autoscalingv2.ExternalMetricSourceType:
		p, err := s.external(m.External)
		return p, failed(err, "FailedGetExternalMetric", fmt.Sprintf("failed to get %s external metric value", m.External.Metric.Name))
	}
	err := fmt.Errorf("unknown metric source type %q", m.Type) // validation refuses it
	return proposal{}, &failure{"InvalidMetricSourceType", err, err}
}

func failed(err error, reason, what string) *failure {
	if err == nil {
		return nil
	}
	return &failure{reason, err, fmt.Errorf("%s: %w", what, err)}
}

// resource proposes by what the pods, or one of their containers, use of a resource.
func (s *scaling) resource(ctx context.Context, name corev1.ResourceName, container string, target autoscalingv2.MetricTarget) (p proposal, status autoscalingv2.MetricValueStatus, err error) {
	kind := "utilization"
	if target.AverageValue != nil {
		kind = "usage"
	} else if target.AverageUtilization == nil {
		return p, status, errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("failed to get %s %s: %w", name, kind, err)
		}
	}()
	measured := s.PodMetrics(ctx, s.hpa.Namespace, s.pods)
	if len(measured) == 0 {
		return p, status, fmt.Errorf("unable to get metrics for resource %s: no metrics returned from resource metrics API", name)
	}
	metrics := resourceMetrics(measured, name, container)
	if len(s.pods) == 0 {
		return p, status, errNoPods
	}
	cpu := name == corev1.ResourceCPU
	format := resource.DecimalSI
	if name == corev1.ResourceMemory {
		format = resource.BinarySI
	}
	if target.AverageValue != nil {
		aim := target.AverageValue.MilliValue()
		var value int64
		first := true
		p.replicas, err = s.replicas(s.spec, s.pods, metrics, cpu, s.tolerances(), func(m map[string]podMetric) (float64, error) {
			ratio, v := average(m, aim)
			if first {
				value, first = v, false
			}
			return ratio, nil
		}, func(string) int64 { return aim })
		p.name = fmt.Sprintf("%s resource", name)
		status.AverageValue = resource.NewMilliQuantity(value, format)
		return p, status, err
	}
	requests, err := requestsOf(s.pods, container, name)
	if err != nil {
		return p, status, s.afterMetrics(metrics, cpu, err)
	}
	aim := *target.AverageUtilization
	var percent int32
	var value int64
	first := true
	p.replicas, err = s.replicas(s.spec, s.pods, metrics, cpu, s.tolerances(), func(m map[string]podMetric) (float64, error) {
		ratio, now, v, err := utilization(m, requests, aim)
		if first {
			percent, value, first = now, v, false
		}
		return ratio, err
	}, func(pod string) int64 { return requests[pod] * int64(max(100, aim)) / 100 })
	p.name = fmt.Sprintf("%s resource utilization (percentage of request)", name)
	if container != "" {
		p.name = fmt.Sprintf("%s container resource utilization (percentage of request)", name)
	}
	status.AverageUtilization, status.AverageValue = &percent, resource.NewMilliQuantity(value, format)
	return p, status, err
}

// afterMetrics returns the error of a pod's requests, unless there are no metrics of pods that count: then that is the reason.
func (s *scaling) afterMetrics(metrics map[string]podMetric, cpu bool, err error) error {
	sorted := s.sortPods(s.pods, metrics, cpu, s.Now())
	for _, name := range append(sorted.ignored, sorted.unready...) {
		delete(metrics, name)
	}
	if len(metrics) == 0 {
		return errNoMetrics
	}
	return err
}

// resourceMetrics returns what pods, or one of their containers, use of a resource.
func resourceMetrics(measured []*metricsv1.PodMetrics, name corev1.ResourceName, container string) map[string]podMetric {
	out := make(map[string]podMetric, len(measured))
	for _, m := range measured {
		sum, complete := int64(0), len(m.Containers) > 0 && container == ""
		for _, c := range m.Containers {
			if container != "" && c.Name != container {
				continue
			}
			used, ok := c.Usage[name]
			if complete = ok; !ok {
				break
			}
			sum += used.MilliValue()
		}
		if complete {
			out[m.Name] = podMetric{at: m.Timestamp.Time, window: m.Window.Duration, value: sum}
		}
	}
	return out
}

// defaultWindow is that of a custom metric that does not say over which time it was measured.
const defaultWindow = time.Minute

func (s *scaling) podsMetric(m *autoscalingv2.PodsMetricSource) (p proposal, err error) {
	selector, err := metav1.LabelSelectorAsSelector(m.Metric.Selector)
	if err != nil {
		return p, err
	}
	var values *customv1beta2.MetricValueList
	custom, err := s.Custom()
	if err == nil {
		values, err = custom.NamespacedMetrics(s.hpa.Namespace).GetForObjects(schema.GroupKind{Kind: "Pod"}, s.selector, m.Metric.Name, selector)
	}
	switch {
	case err != nil:
		return p, fmt.Errorf("unable to get metric %s: unable to fetch metrics from custom metrics API: %w", m.Metric.Name, err)
	case len(values.Items) == 0:
		return p, fmt.Errorf("unable to get metric %s: no metrics returned from custom metrics API", m.Metric.Name)
	case len(s.pods) == 0:
		return p, errNoPods
	}
	metrics := make(map[string]podMetric, len(values.Items))
	for _, v := range values.Items {
		window := defaultWindow
		if v.WindowSeconds != nil {
			window = time.Duration(*v.WindowSeconds) * time.Second
		}
		metrics[v.DescribedObject.Name] = podMetric{at: v.Timestamp.Time, window: window, value: v.Value.MilliValue()}
	}
	aim := m.Target.AverageValue.MilliValue()
	var value int64
	first := true
	p.replicas, err = s.replicas(s.spec, s.pods, metrics, false, s.tolerances(), func(m map[string]podMetric) (float64, error) {
		ratio, v := average(m, aim)
		if first {
			value, first = v, false
		}
		return ratio, nil
	}, func(string) int64 { return aim })
	p.name = "pods metric " + m.Metric.Name
	p.status = autoscalingv2.MetricStatus{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricStatus{
		Metric: m.Metric, Current: autoscalingv2.MetricValueStatus{AverageValue: resource.NewMilliQuantity(value, resource.DecimalSI)}}}
	return p, err
}

func (s *scaling) object(m *autoscalingv2.ObjectMetricSource) (p proposal, err error) {
	selector, err := metav1.LabelSelectorAsSelector(m.Metric.Selector)
	if err != nil {
		return p, err
	}
	byValue := m.Target.Type == autoscalingv2.ValueMetricType && m.Target.Value != nil
	if !byValue && (m.Target.Type != autoscalingv2.AverageValueMetricType || m.Target.AverageValue == nil) {
		return p, errors.New("invalid object metric source: neither a value target nor an average value target was set")
	}
	value, err := s.objectValue(m, selector)
	if err != nil {
		err = fmt.Errorf("unable to get metric %s on %s %s/%s: %w", m.Metric.Name, m.DescribedObject.Kind, s.hpa.Namespace, m.DescribedObject.Name, err)
		if !byValue {
			err = fmt.Errorf("failed to get %s object metric: %w", m.Metric.Name, err)
		}
		return p, err
	}
	status := &autoscalingv2.ObjectMetricStatus{DescribedObject: m.DescribedObject, Metric: m.Metric}
	p.status = autoscalingv2.MetricStatus{Type: autoscalingv2.ObjectMetricSourceType, Object: status}
	if byValue {
		p.replicas, err = s.forTotal(s.spec, s.pods, float64(value)/float64(m.Target.Value.MilliValue()), s.tolerances())
		p.name = fmt.Sprintf("%s metric %s", m.DescribedObject.Kind, m.Metric.Name)
		status.Current.Value = resource.NewMilliQuantity(value, resource.DecimalSI)
		return p, err
	}
	var each int64
	p.replicas, each = perPod(s.existing, value, m.Target.AverageValue.MilliValue(), s.tolerances())
	p.name = fmt.Sprintf("external metric %s(%+v)", m.Metric.Name, m.Metric.Selector)
	status.Current.AverageValue = resource.NewMilliQuantity(each, resource.DecimalSI)
	return p, nil
}

func (s *scaling) objectValue(m *autoscalingv2.ObjectMetricSource, selector labels.Selector) (int64, error) {
	custom, err := s.Custom()
	if err != nil {
		return 0, fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)
	}
	kind := schema.FromAPIVersionAndKind(m.DescribedObject.APIVersion, m.DescribedObject.Kind).GroupKind()
	from, name := custom.NamespacedMetrics(s.hpa.Namespace).GetForObject, m.DescribedObject.Name
	if kind == (schema.GroupKind{Kind: "Namespace"}) { // only its own
		from, name = custom.RootScopedMetrics().GetForObject, s.hpa.Namespace
	}
	value, err := from(kind, name, m.Metric.Name, selector)
	if err != nil {
		return 0, fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)
	}
	return value.Value.MilliValue(), nil
}

func (s *scaling) external(m *autoscalingv2.ExternalMetricSource) (p proposal, err error) {
	if m.Target.AverageValue == nil && m.Target.Value == nil {
		return p, errors.New("invalid external metric source: neither a value target nor an average value target was set")
	}
	value, err := s.externalValue(m)
	if err != nil {
		if m.Target.AverageValue != nil {
			return p, fmt.Errorf("failed to get %s external metric: %w", m.Metric.Name, err)
		}
		return p, fmt.Errorf("failed to get external metric %s: %w", m.Metric.Name, err)
	}
	status := &autoscalingv2.ExternalMetricStatus{Metric: m.Metric}
	p.status = autoscalingv2.MetricStatus{Type: autoscalingv2.ExternalMetricSourceType, External: status}
	p.name = fmt.Sprintf("external metric %s(%+v)", m.Metric.Name, m.Metric.Selector)
	if m.Target.AverageValue != nil {
		var each int64
		p.replicas, each = perPod(s.existing, value, m.Target.AverageValue.MilliValue(), s.tolerances())
		status.Current.AverageValue = resource.NewMilliQuantity(each, resource.DecimalSI)
		return p, nil
	}
	p.replicas, err = s.forTotal(s.spec, s.pods, float64(value)/float64(m.Target.Value.MilliValue()), s.tolerances())
	status.Current.Value = resource.NewMilliQuantity(value, resource.DecimalSI)
	return p, err
}

// externalValue returns the sum of the values of an external metric.
func (s *scaling) externalValue(m *autoscalingv2.ExternalMetricSource) (sum int64, err error) {
	selector, err := metav1.LabelSelectorAsSelector(m.Metric.Selector)
	if err != nil {
		return 0, err
	}
	var values *externalv1beta1.ExternalMetricValueList
	external, err := s.External()
	if err == nil {
		values, err = external.NamespacedMetrics(s.hpa.Namespace).List(m.Metric.Name, selector)
	}
	switch {
	case err != nil:
		err = fmt.Errorf("unable to fetch metrics from external metrics API: %w", err)
	case len(values.Items) == 0:
		err = errors.New("no metrics returned from external metrics API")
	}
	if err != nil {
		return 0, fmt.Errorf("unable to get external metric %s/%s/%+v: %w", s.hpa.Namespace, m.Metric.Name, m.Metric.Selector, err)
	}
	for _, v := range values.Items {
		value := v.Value.MilliValue()
		if value > 0 && sum > math.MaxInt64-value {
			return math.MaxInt64, nil
		}
		sum += value
	}
	return sum, nil
}

// tolerances returns the autoscaler's tolerances.
func (s *scaling) tolerances() tolerances {
	t := tolerances{s.Tolerance, s.Tolerance}
	if b := s.hpa.Spec.Behavior; b != nil {
		if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
			t.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
		}
		if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
			t.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
		}
	}
	return t
}
