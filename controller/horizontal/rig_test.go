package horizontal

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	customv1beta2 "k8s.io/metrics/pkg/apis/custom_metrics/v1beta2"
	externalv1beta1 "k8s.io/metrics/pkg/apis/external_metrics/v1beta1"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/test/harness"
)

// rig is a controller over an API, with metrics and a clock of the test. The autoscaler, its target and the target's pods are named web.
type rig struct {
	t     *testing.T
	h     *harness.Harness
	clock *controllertest.Clock
	rec   *controllertest.Recorder
	ctl   *controller.Controller
	// used is what each container of a pod uses: milli-units of processors, and bytes.
	used map[string][]int64
	// values are custom metrics of pods by name, of objects by kind and name, and an external one.
	values   map[string]int64
	external []int64
	// seen are the results that were observed.
	seen []string
}

func newRig(t *testing.T) *rig {
	r := &rig{t: t, h: harness.New(t), clock: controllertest.NewClock(time.Now().Truncate(time.Second)), rec: controllertest.NewRecorder(), used: map[string][]int64{}, values: map[string]int64{}}
	r.ctl = New(Config{Options: Defaults, Client: r.h.Client, Recorder: r.rec, Now: r.clock.Now,
		PodMetrics: r.podMetrics,
		Custom:     func() (custom_metrics.CustomMetricsClient, error) { return custom{r}, nil },
		External:   func() (external_metrics.ExternalMetricsClient, error) { return external{r}, nil },
		Observe:    func(action, problem string, _ time.Duration) { r.seen = append(r.seen, action+"/"+problem) },
	})
	return r
}

func (r *rig) podMetrics(_ context.Context, namespace string, pods []*corev1.Pod) (out []*metricsv1.PodMetrics) {
	for _, p := range pods {
		used, ok := r.used[p.Name]
		if !ok {
			continue
		}
		m := &metricsv1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: p.Name}, Timestamp: metav1.Time{Time: r.clock.Now()}, Window: metav1.Duration{Duration: 15 * time.Second}}
		for i, c := range p.Spec.Containers {
			if i < len(used) {
				m.Containers = append(m.Containers, metricsv1.ContainerMetrics{Name: c.Name, Usage: corev1.ResourceList{
					corev1.ResourceCPU: *resource.NewMilliQuantity(used[i], resource.DecimalSI), corev1.ResourceMemory: *resource.NewQuantity(used[i]<<20, resource.BinarySI)}})
			}
		}
		out = append(out, m)
	}
	return out
}

// custom and external serve the rig's values.
type custom struct{ r *rig }

func (c custom) RootScopedMetrics() custom_metrics.MetricsInterface       { return c }
func (c custom) NamespacedMetrics(string) custom_metrics.MetricsInterface { return c }
func (c custom) GetForObject(kind schema.GroupKind, name, metric string, _ labels.Selector) (*customv1beta2.MetricValue, error) {
	v, ok := c.r.values[kind.Kind+"/"+name]
	if !ok {
		return nil, errors.New("no custom metrics API (custom.metrics.k8s.io) registered")
	}
	return &customv1beta2.MetricValue{Value: *resource.NewMilliQuantity(v, resource.DecimalSI)}, nil
}

func (c custom) GetForObjects(schema.GroupKind, labels.Selector, string, labels.Selector) (*customv1beta2.MetricValueList, error) {
	if len(c.r.values) == 0 {
		return nil, errors.New("no custom metrics API (custom.metrics.k8s.io) registered")
	}
	out := &customv1beta2.MetricValueList{}
	for name, v := range c.r.values {
		out.Items = append(out.Items, customv1beta2.MetricValue{DescribedObject: corev1.ObjectReference{Name: name}, Value: *resource.NewMilliQuantity(v, resource.DecimalSI)})
	}
	return out, nil
}

type external struct{ r *rig }

func (e external) NamespacedMetrics(string) external_metrics.MetricsInterface { return e }
func (e external) List(metric string, _ labels.Selector) (*externalv1beta1.ExternalMetricValueList, error) {
	if e.r.external == nil {
		return nil, fmt.Errorf("the server could not find the requested resource (get %s.external.metrics.k8s.io)", metric)
	}
	out := &externalv1beta1.ExternalMetricValueList{}
	for _, v := range e.r.external {
		out.Items = append(out.Items, externalv1beta1.ExternalMetricValue{Value: *resource.NewMilliQuantity(v, resource.DecimalSI)})
	}
	return out, nil
}

// deploy creates the target, with a number of replicas, and as many pods.
func (r *rig) deploy(replicas int32) {
	r.t.Helper()
	set := map[string]string{"app": "web"}
	controllertest.Create(r.t, r.h.Client, &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: appsv1.DeploymentSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: set}, Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: set}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}}})
	controllertest.ChangeStatus(r.t, r.h.Client, "default", "web", func(d *appsv1.Deployment) { d.Status.Replicas = replicas })
	for i := range replicas {
		r.pod(int(i), nil)
	}
}

// pod creates a pod of the target that has been ready for an hour, and uses what was set: its request is one processor and 100 MiB a container.
func (r *rig) pod(number int, change func(*corev1.Pod)) {
	r.t.Helper()
	requests := corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1"), corev1.ResourceMemory: resource.MustParse("100Mi")}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("web-", number), Labels: map[string]string{"app": "web"}},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i", Resources: corev1.ResourceRequirements{Requests: requests}}}}}
	hour := metav1.Time{Time: r.clock.Now().Add(-time.Hour)}
	pod.Status = corev1.PodStatus{Phase: corev1.PodRunning, StartTime: &hour, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: hour}}}
	if change != nil {
		change(pod)
	}
	status := pod.Status
	controllertest.Create(r.t, r.h.Client, pod)
	controllertest.ChangeStatus(r.t, r.h.Client, "default", pod.Name, func(p *corev1.Pod) { p.Status = status })
}

// use sets what the containers of the first pods use, each of one container.
func (r *rig) use(values ...int64) {
	clear(r.used)
	for i, v := range values {
		r.used[fmt.Sprint("web-", i)] = []int64{v}
	}
}

// autoscaler creates the autoscaler, of one to ten replicas, for 50 % of the requested processors unless it is changed.
func (r *rig) autoscaler(change func(*autoscalingv2.HorizontalPodAutoscaler)) {
	r.t.Helper()
	hpa := &autoscalingv2.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}, MinReplicas: new(int32(1)), MaxReplicas: 10,
		Metrics: []autoscalingv2.MetricSpec{cpu(50)}}}
	if change != nil {
		change(hpa)
	}
	controllertest.Create(r.t, r.h.Client, hpa)
}

// cpu is a metric: a target of a percentage of requested processors.
func cpu(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU,
		Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent}}}
}

func value(milli int64) autoscalingv2.MetricTarget {
	return autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: resource.NewMilliQuantity(milli, resource.DecimalSI)}
}

func averageOf(milli int64) autoscalingv2.MetricTarget {
	return autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: resource.NewMilliQuantity(milli, resource.DecimalSI)}
}

func externalMetric(target autoscalingv2.MetricTarget) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: "queue"}, Target: target}}
}

func podsMetric(milli int64) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: "qps"}, Target: averageOf(milli)}}
}

func objectMetric(target autoscalingv2.MetricTarget) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{Metric: autoscalingv2.MetricIdentifier{Name: "hits"}, Target: target,
		DescribedObject: autoscalingv2.CrossVersionObjectReference{APIVersion: "v1", Kind: "Service", Name: "web"}}}
}

// sync reconciles the autoscaler once, and returns it and how many replicas its target should have.
func (r *rig) sync() (*autoscalingv2.HorizontalPodAutoscaler, int32) {
	r.t.Helper()
	result, err := r.ctl.Reconcile(r.t.Context(), r.h.Client.View(), controller.Key{Namespace: "default", Name: "web"})
	if err != nil || result.After != Defaults.SyncPeriod {
		r.t.Fatalf("reconcile: %v, again after %s", err, result.After)
	}
	hpa, _ := client.Get[*autoscalingv2.HorizontalPodAutoscaler](r.h.Client.View(), "default", "web")
	d, ok := client.Get[*appsv1.Deployment](r.h.Client.View(), "default", "web")
	if !ok {
		return hpa, -1
	}
	return hpa, *d.Spec.Replicas
}

// later moves the clock, and makes the number of pods that of the replicas.
func (r *rig) later(d time.Duration) {
	r.t.Helper()
	r.clock.Advance(d)
	view := r.h.Client.View()
	target, _ := client.Get[*appsv1.Deployment](view, "default", "web")
	have := len(client.List[*corev1.Pod](view, "default", labels.SelectorFromSet(labels.Set{"app": "web"})))
	for i := have; i < int(*target.Spec.Replicas); i++ {
		r.pod(i, nil)
	}
	for i := int(*target.Spec.Replicas); i < have; i++ {
		pod, _ := client.Get[*corev1.Pod](view, "default", fmt.Sprint("web-", i))
		if err := r.h.Client.Delete(r.t.Context(), pod, client.Grace(0)); err != nil {
			r.t.Fatal(err)
		}
	}
	controllertest.ChangeStatus(r.t, r.h.Client, "default", "web", func(d *appsv1.Deployment) { d.Status.Replicas = *d.Spec.Replicas })
}

// condition returns a condition as "STATUS reason: message".
func condition(hpa *autoscalingv2.HorizontalPodAutoscaler, of autoscalingv2.HorizontalPodAutoscalerConditionType) string {
	for _, c := range hpa.Status.Conditions {
		if c.Type == of {
			return fmt.Sprintf("%s %s: %s", c.Status, c.Reason, c.Message)
		}
	}
	return "none"
}
