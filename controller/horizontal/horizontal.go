package horizontal

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/retry"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// Options are the settings of upstream's controller, under the names of its flags.
type Options struct {
	// SyncPeriod is how often an autoscaler is reconciled.
	SyncPeriod time.Duration
	// DownscaleStabilization is for how long recommendations count that were higher, unless the autoscaler says so itself.
	DownscaleStabilization time.Duration
	// Tolerance is by how much the use may differ from the target before something is scaled, unless the autoscaler says so itself.
	Tolerance float64
	// CPUInitializationPeriod is for how long after a pod's start its use of processors may be that of the start. Until
	// InitialReadinessDelay after its start, a pod that is not ready counts as one that has never been.
	CPUInitializationPeriod, InitialReadinessDelay time.Duration
	// Workers is how many autoscalers are reconciled at the same time.
	Workers int
}

// Defaults are upstream's.
var Defaults = Options{SyncPeriod: 15 * time.Second, DownscaleStabilization: 5 * time.Minute, Tolerance: 0.1,
	CPUInitializationPeriod: 5 * time.Minute, InitialReadinessDelay: 30 * time.Second, Workers: 5}

// Config says what the controller works with.
type Config struct {
	Options
	Client   *client.Client
	Recorder record.EventRecorder
	// PodMetrics returns what pods of a namespace use, of those of which it is known.
	PodMetrics func(ctx context.Context, namespace string, pods []*corev1.Pod) []*metricsv1.PodMetrics
	// Custom and External return what reads the metrics of others.
	Custom   func() (custom_metrics.CustomMetricsClient, error)
	External func() (external_metrics.ExternalMetricsClient, error)
	// Now tells the time; nil means time.Now.
	Now func() time.Time
	// Observe is told the result of each reconciliation, with upstream's labels; nil for nobody.
	Observe func(action, problem string, took time.Duration)
}

// autoscalers is the controller's state.
type autoscalers struct {
	Config
	mu        sync.Mutex
	histories map[controller.Key]*history
}

// podsByLabels finds pods by the keys of selectors that may match them.
var podsByLabels = client.NewIndex(func(pod *corev1.Pod, add func(string)) {
	for _, key := range client.SelectorKeys(pod.Namespace, pod.Labels) {
		add(key)
	}
})

// New returns the controller.
func New(c Config) *controller.Controller {
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Observe == nil {
		c.Observe = func(string, string, time.Duration) {}
	}
	a := &autoscalers{Config: c, histories: map[controller.Key]*history{}}
	return &controller.Controller{
		Name:    "horizontalpodautoscaler",
		Workers: c.Workers,
		Watches: []client.Object{&autoscalingv2.HorizontalPodAutoscaler{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(hpa *autoscalingv2.HorizontalPodAutoscaler) bool {
				enqueue(controller.KeyOf(hpa))
				return true
			})
		},
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			if event.Old != nil && event.New != nil && event.Old.GetGeneration() == event.New.GetGeneration() {
				return // the status, which this controller writes
			}
			enqueue(controller.KeyOf(event.Object()))
		},
		Reconcile: a.reconcile,
	}
}

// reconcile reconciles an autoscaler. Whatever comes of it, the next time is after the period: what is wrong is in the status and in events.
func (a *autoscalers) reconcile(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
	stored, ok := client.Get[*autoscalingv2.HorizontalPodAutoscaler](v, key.Namespace, key.Name)
	if !ok {
		a.mu.Lock()
		delete(a.histories, key)
		a.mu.Unlock()
		return controller.Result{}, nil
	}
	began := time.Now()
	a.mu.Lock()
	h := a.histories[key]
	if h == nil || h.uid != stored.UID {
		h = &history{uid: stored.UID, selector: labels.Nothing()}
		a.histories[key] = h
	}
	a.mu.Unlock()
	r := &run{autoscalers: a, history: h, view: v, key: key, hpa: stored.DeepCopy(), action: "none"}
	r.was = r.hpa.Status.DeepCopy()
	err := r.do(ctx)
	problem := "none"
	if errors.Is(err, errSpec) {
		problem = "spec"
	} else if err != nil {
		problem = "internal"
	}
	a.Observe(r.action, problem, time.Since(began))
	return controller.Result{After: a.SyncPeriod}, nil
}

// errSpec marks errors of an autoscaler's specification.
var errSpec = errors.New("")

// run is one reconciliation.
type run struct {
	*autoscalers
	history *history
	view    client.View
	key     controller.Key
	hpa     *autoscalingv2.HorizontalPodAutoscaler
	was     *autoscalingv2.HorizontalPodAutoscalerStatus
	action  string
}

func (r *run) warn(reason, message string) {
	r.Recorder.Event(r.hpa, corev1.EventTypeWarning, reason, message)
}

// do reconciles, and returns what went wrong.
func (r *run) do(ctx context.Context) error {
	kind, scale, err := r.scale()
	if err != nil {
		r.warn("FailedGetScale", err.Error())
		r.set(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedGetScale", "the HPA controller was unable to get the target's current scale: %v", err)
		return errors.Join(err, r.store(ctx))
	}
	r.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededGetScale", "the HPA controller was able to get the target's current scale")
	now, current := r.Now(), scale.Spec.Replicas
	if r.history.recommendations == nil {
		r.history.recommendations = []past{{current, now}}
	}
	least := int32(1)
	if r.hpa.Spec.MinReplicas != nil {
		least = *r.hpa.Spec.MinReplicas
	}
	wanted, reason, metrics, problem := r.decide(ctx, scale, least)
	if wanted < 0 {
		r.status(current, r.hpa.Status.DesiredReplicas, metrics)
		stored := r.store(ctx)
		r.warn("FailedComputeMetricsReplicas", problem.Error())
		return errors.Join(problem, stored)
	}
	if wanted != current {
		if err := r.rescale(ctx, kind, scale, wanted); err != nil {
			r.Recorder.Eventf(r.hpa, corev1.EventTypeWarning, "FailedRescale", "New size: %d; reason: %s; error: %v", wanted, reason, err.Error())
			r.set(autoscalingv2.AbleToScale, corev1.ConditionFalse, "FailedUpdateScale", "the HPA controller was unable to update the target scale: %v", err)
			r.status(current, r.hpa.Status.DesiredReplicas, metrics)
			return errors.Join(err, r.store(ctx))
		}
		r.rescaled(current, wanted, least, reason, now)
	}
	r.status(current, wanted, metrics)
	if wanted != current {
		r.hpa.Status.LastScaleTime = &metav1.Time{Time: now}
	}
	return errors.Join(problem, r.store(ctx))
}

// scale returns the kind and the scale of the target.
func (r *run) scale() (*client.Kind, *autoscalingv1.Scale, error) {
	ref := r.hpa.Spec.ScaleTargetRef
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, nil, fmt.Errorf("%w%w", err, errSpec)
	}
	kind, ok := r.Client.KindNamed(schema.GroupKind{Group: gv.Group, Kind: ref.Kind})
	if !ok {
		return nil, nil, &meta.NoKindMatchError{GroupKind: schema.GroupKind{Group: gv.Group, Kind: ref.Kind}}
	}
	scale, err := r.view.Scale(kind, r.hpa.Namespace, ref.Name)
	return kind, scale, err
}

// decide returns how many replicas the target should have, and why; -1 if that is not known, with the reason. It may also return an error
// beside a number: then some of the metrics are known.
func (r *run) decide(ctx context.Context, scale *autoscalingv1.Scale, least int32) (wanted int32, reason string, metrics []autoscalingv2.MetricStatus, problem error) {
	current, most := scale.Spec.Replicas, r.hpa.Spec.MaxReplicas
	toZero := conditionIs(r.hpa, autoscalingv2.ScaledToZero, corev1.ConditionTrue)
	switch {
	case current == 0 && !(toZero && (least != 0 || r.fromElsewhere())):
		r.set(autoscalingv2.ScalingActive, corev1.ConditionFalse, "ScalingDisabled", "scaling is disabled since the replica count of the target is zero")
		return 0, "", nil, nil
	case current > most:
		return most, "Current number of replicas above Spec.MaxReplicas", nil, nil
	case current != 0 && current < least:
		return least, "Current number of replicas below Spec.MinReplicas", nil, nil
	}
	proposed, name, metrics, problem := r.ask(ctx, scale)
	if proposed < 0 {
		return -1, "", metrics, problem
	}
	if proposed > current {
		reason = name + " above target"
	} else if proposed < current {
		reason = "All metrics below target"
	}
	wanted = r.limit(current, proposed, least)
	if current == 0 && least != 0 && wanted < least {
		wanted = least
		if reason == "" {
			reason = "Current number of replicas below Spec.MinReplicas"
		}
	}
	return wanted, reason, metrics, problem
}

// fromElsewhere says whether a metric does not come from the pods, so that it is known also when there are none.
func (r *run) fromElsewhere() bool {
	return slices.ContainsFunc(r.hpa.Spec.Metrics, func(m autoscalingv2.MetricSpec) bool {
		return m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	})
}

// ask asks all metrics, and returns the largest number of replicas that one proposes; -1 if none does, or some fail and the others propose
// fewer than there are.
func (r *run) ask(ctx context.Context, scale *autoscalingv1.Scale) (replicas int32, name string, statuses []autoscalingv2.MetricStatus, err error) {
	s := &scaling{Config: &r.Config, hpa: r.hpa, spec: scale.Spec.Replicas, existing: scale.Status.Replicas}
	if s.selector, s.pods, err = r.selected(scale.Status.Selector); err != nil {
		return -1, "", nil, err
	}
	statuses = make([]autoscalingv2.MetricStatus, len(r.hpa.Spec.Metrics))
	var first *failure
	invalid := 0
	for i := range r.hpa.Spec.Metrics {
		p, failed := s.propose(ctx, &r.hpa.Spec.Metrics[i])
		if failed != nil {
			r.warn(failed.reason, failed.shown.Error())
			if invalid++; first == nil {
				first = failed
			}
			continue
		}
		statuses[i] = p.status
		if replicas == 0 || p.replicas > replicas {
			replicas, name = p.replicas, p.name
		}
	}
	if first != nil {
		err = fmt.Errorf("invalid metrics (%v invalid out of %v), first error is: %w", invalid, len(statuses), first.err)
	}
	if invalid >= len(statuses) || invalid > 0 && replicas < s.spec {
		if first != nil {
			r.set(autoscalingv2.ScalingActive, corev1.ConditionFalse, first.reason, "the HPA was unable to compute the replica count: %v", first.shown)
		}
		return -1, "", statuses, err
	}
	r.set(autoscalingv2.ScalingActive, corev1.ConditionTrue, "ValidMetricFound", "the HPA was able to successfully calculate a replica count from %s", name)
	return replicas, name, statuses, err
}

// selected returns the target's selector and its pods, which no other autoscaler may have.
func (r *run) selected(text string) (labels.Selector, []*corev1.Pod, error) {
	refuse := func(event, reason, message string) (labels.Selector, []*corev1.Pod, error) {
		r.warn(event, message)
		shown := message
		if event == "SelectorRequired" {
			shown = "the HPA target's scale is missing a selector"
		}
		r.set(autoscalingv2.ScalingActive, corev1.ConditionFalse, reason, "%s", shown)
		return nil, nil, errors.New(message)
	}
	if text == "" {
		return refuse("SelectorRequired", "InvalidSelector", "selector is required")
	}
	selector, err := labels.Parse(text)
	if err != nil {
		return refuse("InvalidSelector", "InvalidSelector", fmt.Sprintf("couldn't convert selector into a corresponding internal selector object: %v", err))
	}
	var pods []*corev1.Pod
	for _, pod := range podsByLabels.Any(r.view, client.SelectorKey(r.hpa.Namespace, selector)) {
		if selector.Matches(labels.Set(pod.Labels)) {
			pods = append(pods, pod)
		}
	}
	if others := r.alsoSelecting(selector, pods); len(others) > 1 {
		return refuse("AmbiguousSelector", "AmbiguousSelector", fmt.Sprintf("pods by selector %v are controlled by more than one HPA (e.g. %v)", text, others))
	}
	return selector, pods, nil
}

// alsoSelecting notes the selector of the autoscaler, and returns it and another one of the namespace that has some of its pods.
func (r *run) alsoSelecting(selector labels.Selector, pods []*corev1.Pod) []controller.Key {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.history.selector = selector
	out := []controller.Key{r.key}
	for key, h := range r.histories {
		if key.Namespace != r.key.Namespace || key == r.key {
			continue
		}
		if slices.ContainsFunc(pods, func(p *corev1.Pod) bool { return h.selector.Matches(labels.Set(p.Labels)) }) {
			return append(out, key)
		}
	}
	return out
}

// limit applies what limits how far and how soon the number of replicas changes.
func (r *run) limit(current, proposed, least int32) int32 {
	now, most, b := r.Now(), r.hpa.Spec.MaxReplicas, r.hpa.Spec.Behavior
	var stable int32
	var out limited
	if b == nil {
		stable = r.history.stabilize(proposed, r.DownscaleStabilization, now)
		if stable != proposed {
			r.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation")
		}
		out = limit(current, stable, least, most)
	} else {
		down := r.DownscaleStabilization
		if b.ScaleDown.StabilizationWindowSeconds != nil {
			down = seconds(*b.ScaleDown.StabilizationWindowSeconds)
		}
		s := r.history.stabilizeBetween(current, proposed, seconds(*b.ScaleUp.StabilizationWindowSeconds), down, now)
		if stable = s.replicas; stable != proposed {
			r.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, s.reason, "%s", s.message)
		}
		out = r.history.limitRate(current, stable, least, most, b, now)
	}
	if stable == proposed {
		r.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "ReadyForNewScale", "recommended size matches current size")
	}
	held := corev1.ConditionFalse
	if out.replicas != stable {
		held = corev1.ConditionTrue
	}
	r.set(autoscalingv2.ScalingLimited, held, out.reason, "%s", out.message)
	return out.replicas
}

// rescale writes the target's scale.
func (r *run) rescale(ctx context.Context, kind *client.Kind, scale *autoscalingv1.Scale, replicas int32) error {
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		scale.Spec.Replicas = replicas
		_, err := r.Client.UpdateScale(ctx, kind, scale)
		if err != nil {
			if latest, problem := r.Client.View().Scale(kind, r.hpa.Namespace, r.hpa.Spec.ScaleTargetRef.Name); problem == nil {
				scale = latest
			}
		}
		return err
	})
}

// rescaled notes that the target was scaled.
func (r *run) rescaled(from, to, least int32, reason string, now time.Time) {
	r.set(autoscalingv2.AbleToScale, corev1.ConditionTrue, "SucceededRescale", "the HPA controller was able to update the target scale to %d", to)
	r.Recorder.Eventf(r.hpa, corev1.EventTypeNormal, "SuccessfulRescale", "New size: %d; reason: %s", to, reason)
	r.history.scaled(r.hpa.Spec.Behavior, from, to, now)
	if from > 0 && to == 0 && least == 0 && r.fromElsewhere() {
		r.set(autoscalingv2.ScaledToZero, corev1.ConditionTrue, "ScaledToZero", "the HPA controller scaled the workload to zero")
	} else {
		r.set(autoscalingv2.ScaledToZero, corev1.ConditionFalse, "NotScaledToZero", "the HPA controller did not scale the workload to zero")
	}
	if r.action = "scale_down"; to > from {
		r.action = "scale_up"
	}
}

// status sets all of the status but its conditions.
func (r *run) status(current, desired int32, metrics []autoscalingv2.MetricStatus) {
	generation := r.hpa.Generation
	r.hpa.Status = autoscalingv2.HorizontalPodAutoscalerStatus{ObservedGeneration: &generation, CurrentReplicas: current, DesiredReplicas: desired,
		LastScaleTime: r.hpa.Status.LastScaleTime, CurrentMetrics: metrics, Conditions: r.hpa.Status.Conditions}
}

// store writes the status if it has changed.
func (r *run) store(ctx context.Context) error {
	if equality.Semantic.DeepEqual(r.was, &r.hpa.Status) {
		return nil
	}
	if _, err := client.UpdateStatus(ctx, r.Client, r.hpa.DeepCopy()); err != nil {
		if ctx.Err() == nil {
			r.warn("FailedUpdateStatus", err.Error())
		}
		return fmt.Errorf("failed to update status for %s: %w", r.hpa.Name, err)
	}
	return nil
}

// set sets a condition.
func (r *run) set(of autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus, reason, message string, args ...any) {
	all := &r.hpa.Status.Conditions
	i := slices.IndexFunc(*all, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool { return c.Type == of })
	if i < 0 {
		i = len(*all)
		*all = append(*all, autoscalingv2.HorizontalPodAutoscalerCondition{Type: of})
	}
	c := &(*all)[i]
	if c.Status != status {
		c.LastTransitionTime = metav1.Time{Time: r.Now()}
	}
	c.Status, c.Reason, c.Message = status, reason, fmt.Sprintf(message, args...)
}

func conditionIs(hpa *autoscalingv2.HorizontalPodAutoscaler, of autoscalingv2.HorizontalPodAutoscalerConditionType, status corev1.ConditionStatus) bool {
	return slices.ContainsFunc(hpa.Status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool { return c.Type == of && c.Status == status })
}
