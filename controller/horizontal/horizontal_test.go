package horizontal

import (
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/controllertest"
)

type hpaT = autoscalingv2.HorizontalPodAutoscaler

// TestReplicas has upstream's rules: how many replicas there are after one reconciliation.
func TestReplicas(t *testing.T) {
	now := func(r *rig, d time.Duration) *metav1.Time { return &metav1.Time{Time: r.clock.Now().Add(-d)} }
	metrics := func(m ...autoscalingv2.MetricSpec) func(*hpaT) { return func(h *hpaT) { h.Spec.Metrics = m } }
	for name, c := range map[string]struct {
		replicas int32 // before
		use      []int64
		change   func(*hpaT)
		more     func(*rig) // more pods, or other metrics
		want     int32
		active   string // what the condition ScalingActive begins with
	}{
		"up by utilization":             {2, []int64{900, 700}, nil, nil, 4, "True ValidMetricFound: the HPA was able to successfully calculate a replica count from cpu resource utilization (percentage of request)"},
		"within the tolerance":          {2, []int64{550, 540}, nil, nil, 2, "True"},
		"just above the tolerance":      {2, []int64{560, 560}, nil, nil, 3, "True"},
		"not faster than doubled":       {3, []int64{5000, 5000, 5000}, nil, nil, 6, "True"},
		"not faster than to four":       {1, []int64{9000}, nil, nil, 4, "True"},
		"not above the maximum":         {8, []int64{900, 900, 900, 900, 900, 900, 900, 900}, nil, nil, 10, "True"},
		"down is kept for five minutes": {4, []int64{100, 100, 100, 100}, nil, nil, 4, "True"},
		"from above the maximum":        {12, nil, nil, nil, 10, "none"},
		"from below the minimum":        {1, nil, func(h *hpaT) { h.Spec.MinReplicas = new(int32(3)) }, nil, 3, "none"},
		"not from zero by hand":         {0, nil, nil, nil, 0, "False ScalingDisabled: scaling is disabled since the replica count of the target is zero"},
		"by average value":              {2, []int64{900, 900}, metrics(autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceCPU, Target: averageOf(600)}}), nil, 3, "True ValidMetricFound: the HPA was able to successfully calculate a replica count from cpu resource"},
		"by memory":                     {2, []int64{300, 300}, metrics(autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{Name: corev1.ResourceMemory, Target: averageOf(200 << 20 * 1000)}}), nil, 3, "True"},
		"by a container":                {2, []int64{900, 900}, metrics(autoscalingv2.MetricSpec{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{Name: corev1.ResourceCPU, Container: "c", Target: cpu(60).Resource.Target}}), nil, 3, "True ValidMetricFound: the HPA was able to successfully calculate a replica count from cpu container resource utilization (percentage of request)"},
		"by a container that there is not": {2, []int64{900, 900}, metrics(autoscalingv2.MetricSpec{Type: autoscalingv2.ContainerResourceMetricSourceType, ContainerResource: &autoscalingv2.ContainerResourceMetricSource{Name: corev1.ResourceCPU, Container: "x", Target: cpu(60).Resource.Target}}), nil, 2,
			"False FailedGetContainerResourceMetric: the HPA was unable to compute the replica count: failed to get cpu utilization: did not receive metrics for targeted pods (pods might be unready)"},
		"the largest of several": {2, []int64{600, 600}, metrics(cpu(50), cpu(20)), nil, 4, "True"},
		"no metrics":             {2, nil, nil, nil, 2, "False FailedGetResourceMetric: the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for resource cpu: no metrics returned from resource metrics API"},
		"a pod without a request": {1, []int64{900, 900}, nil, func(r *rig) {
			r.pod(1, func(p *corev1.Pod) { p.Spec.Containers[0].Resources = corev1.ResourceRequirements{} })
		}, 1, "False FailedGetResourceMetric: the HPA was unable to compute the replica count: failed to get cpu utilization: missing request for cpu in container c of Pod web-1"},
		"up: missing pods use nothing":       {3, []int64{900, 900}, nil, nil, 4, "True"}, // 1800 of 3000 is 60 %, of 50 %: 3.6
		"down: missing pods use the request": {4, []int64{100, 100, 100}, nil, func(r *rig) { r.settle() }, 3, "True"},
		"up: unready pods use nothing": {2, []int64{900, 900, 900}, nil, func(r *rig) {
			r.pod(2, func(p *corev1.Pod) {
				p.Status.StartTime, p.Status.Conditions[0].Status = now(r, time.Minute), corev1.ConditionFalse
			})
		}, 4, "True"},
		"a pod that has just become ready is not counted by its start": {2, []int64{900, 900, 9000}, nil, func(r *rig) {
			r.pod(2, func(p *corev1.Pod) {
				p.Status.StartTime, p.Status.Conditions[0].LastTransitionTime = now(r, time.Minute), *now(r, 5*time.Second)
			})
		}, 4, "True"},
		"pods that failed or end are ignored": {2, []int64{900, 700, 9000}, nil, func(r *rig) { r.pod(2, func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }) }, 4, "True"},
		"only starting pods": {0, []int64{900}, func(h *hpaT) { h.Spec.MinReplicas = new(int32(1)) }, func(r *rig) {
			controllertest.Change(r.t, r.h.Client, "default", "web", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(1)) })
			r.pod(0, func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending })
		}, 1, "False FailedGetResourceMetric: the HPA was unable to compute the replica count: failed to get cpu utilization: did not receive metrics for targeted pods (pods might be unready)"},
		"by a metric of pods":                    {2, nil, metrics(podsMetric(10_000)), func(r *rig) { r.values = map[string]int64{"web-0": 20_000, "web-1": 20_000} }, 4, "True ValidMetricFound: the HPA was able to successfully calculate a replica count from pods metric qps"},
		"nobody serves custom metrics":           {2, nil, metrics(podsMetric(10_000)), nil, 2, "False FailedGetPodsMetric: the HPA was unable to compute the replica count: unable to get metric qps: unable to fetch metrics from custom metrics API: no custom metrics API (custom.metrics.k8s.io) registered"},
		"by an object's value":                   {2, nil, metrics(objectMetric(value(10_000))), func(r *rig) { r.values["Service/web"] = 20_000 }, 4, "True ValidMetricFound: the HPA was able to successfully calculate a replica count from Service metric hits"},
		"by an object's average":                 {2, nil, metrics(objectMetric(averageOf(10_000))), func(r *rig) { r.values["Service/web"] = 31_000 }, 4, "True"},
		"an object without a metric":             {2, nil, metrics(objectMetric(value(10_000))), nil, 2, "False FailedGetObjectMetric: the HPA was unable to compute the replica count: unable to get metric hits on Service default/web: unable to fetch metrics from custom metrics API: no custom"},
		"by an external value":                   {2, nil, metrics(externalMetric(value(10_000))), func(r *rig) { r.external = []int64{9_000, 9_000} }, 4, "True"},
		"by an external average":                 {2, nil, metrics(externalMetric(averageOf(10_000))), func(r *rig) { r.external = []int64{20_000, 15_000} }, 4, "True"},
		"an endless external value":              {2, nil, metrics(externalMetric(averageOf(1))), func(r *rig) { r.external = []int64{1 << 62, 1 << 62, 1 << 62} }, 4, "True"},
		"nobody serves external metrics":         {2, nil, metrics(externalMetric(value(10_000))), nil, 2, "False FailedGetExternalMetric: the HPA was unable to compute the replica count: failed to get external metric queue: unable to get external metric default/queue/nil: unable to fetch metrics from external metrics API: the server could not find the requested resource (get queue.external.metrics.k8s.io)"},
		"one metric fails, the other wants more": {2, []int64{900, 900}, metrics(externalMetric(value(1)), cpu(50)), nil, 4, "True"},
		"one metric fails, the other wants less": {4, []int64{10, 10, 10, 10}, metrics(cpu(50), externalMetric(value(1))), func(r *rig) { r.settle() }, 4, "False FailedGetExternalMetric"},
		"its own tolerance": {2, []int64{700, 700}, func(h *hpaT) {
			h.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{Tolerance: resource.NewMilliQuantity(500, resource.DecimalSI)}}
		}, nil, 2, "True"},
		"no limit of the rate": {1, []int64{9000}, func(h *hpaT) { h.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{} }, nil, 5, "True"}, // the defaults: four pods or 100 % in 15 s
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.deploy(c.replicas)
			r.autoscaler(c.change)
			r.use(c.use...)
			if c.more != nil {
				c.more(r)
			}
			hpa, replicas := r.sync()
			if replicas != c.want {
				t.Errorf("%d replicas, want %d", replicas, c.want)
			}
			if got := condition(hpa, autoscalingv2.ScalingActive); !strings.HasPrefix(got, c.active) {
				t.Errorf("ScalingActive is %q, want %q", got, c.active)
			}
			if hpa.Status.ObservedGeneration == nil || *hpa.Status.ObservedGeneration != hpa.Generation {
				t.Errorf("observedGeneration is %v of %d", hpa.Status.ObservedGeneration, hpa.Generation)
			}
			if hpa.Status.CurrentReplicas != max(c.replicas, hpa.Status.CurrentReplicas) || strings.HasPrefix(c.active, "True") && len(hpa.Status.CurrentMetrics) == 0 {
				t.Errorf("the status is %+v", hpa.Status)
			}
		})
	}
}

// settle makes the recommendations old that an autoscaler begins with.
func (r *rig) settle() {
	used := r.used
	r.used = map[string][]int64{}
	r.sync()
	r.used = used
	r.clock.Advance(Defaults.DownscaleStabilization + time.Minute)
}

// TestScalingDownWaits: the highest recommendation of the last five minutes counts.
func TestScalingDownWaits(t *testing.T) {
	r := newRig(t)
	r.deploy(4)
	r.autoscaler(nil)
	r.use(500, 500, 500, 500)
	r.sync()
	r.use(10, 10, 10, 10)
	for range 19 { // at 15 s to 285 s
		r.later(15 * time.Second)
		if hpa, replicas := r.sync(); replicas != 4 || !strings.HasPrefix(condition(hpa, autoscalingv2.AbleToScale), "True ScaleDownStabilized: recent recommendations were higher") {
			t.Fatalf("%d replicas: %s", replicas, condition(hpa, autoscalingv2.AbleToScale))
		}
	}
	r.later(16 * time.Second)
	hpa, replicas := r.sync()
	if replicas != 1 || hpa.Status.DesiredReplicas != 1 || hpa.Status.CurrentReplicas != 4 || hpa.Status.LastScaleTime == nil {
		t.Errorf("%d replicas after five minutes: %+v", replicas, hpa.Status)
	}
	if got := r.rec.Events("Normal SuccessfulRescale"); len(got) != 1 || !strings.Contains(got[0], "New size: 1; reason: All metrics below target") {
		t.Errorf("events: %q", got)
	}
	if !slices.Contains(r.seen, "scale_down/none") {
		t.Errorf("observed: %q", r.seen)
	}
}

// TestBehavior: windows and policies say how soon and how fast.
func TestBehavior(t *testing.T) {
	rules := func(window int32, choose autoscalingv2.ScalingPolicySelect, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
		return &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window, SelectPolicy: &choose, Policies: policies}
	}
	podsIn := func(n, seconds int32) autoscalingv2.HPAScalingPolicy {
		return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: n, PeriodSeconds: seconds}
	}
	percentIn := func(n, seconds int32) autoscalingv2.HPAScalingPolicy {
		return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: n, PeriodSeconds: seconds}
	}
	const most, least, none = autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect, autoscalingv2.DisabledPolicySelect
	for name, c := range map[string]struct {
		up, down *autoscalingv2.HPAScalingRules
		replicas int32
		use      int64   // of each pod, in percent of the target
		want     []int32 // at each period of 15 s
		limited  string
	}{
		"one pod a minute":          {rules(0, most, podsIn(1, 60)), nil, 2, 400, []int32{3, 3, 3, 3, 4}, "True ScaleUpLimit: the desired replica count is increasing faster than the maximum scale rate"},
		"half as many, rounded up":  {rules(0, most, percentIn(50, 15)), nil, 3, 900, []int32{5, 8, 10}, "True TooManyReplicas"},
		"the least of two policies": {rules(0, least, podsIn(4, 15), percentIn(50, 15)), nil, 2, 900, []int32{3, 5, 8, 10}, "True TooManyReplicas"},
		"never up":                  {rules(0, none), nil, 2, 900, []int32{2, 2}, "True ScaleUpLimit"},
		"up after a minute":         {rules(60, most, podsIn(10, 15)), nil, 2, 200, []int32{2, 2, 2, 2, 4}, "False DesiredWithinRange"},
		"down at once":              {nil, rules(0, most, percentIn(100, 15)), 8, 25, []int32{2}, "False DesiredWithinRange"},
		"down two pods a period":    {nil, rules(0, most, podsIn(2, 15)), 8, 10, []int32{6, 4, 2, 1}, "False DesiredWithinRange"},
		"down a quarter":            {nil, rules(0, most, percentIn(25, 15)), 8, 10, []int32{6, 4, 3}, "True ScaleDownLimit"},
		"never down":                {nil, rules(0, none), 8, 10, []int32{8, 8}, "True ScaleDownLimit"},
		"down after 30 s":           {nil, rules(30, most, percentIn(100, 15)), 4, 50, []int32{4, 4, 2}, "False DesiredWithinRange"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.deploy(c.replicas)
			r.autoscaler(func(h *hpaT) {
				h.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: c.up, ScaleDown: c.down}
			})
			var last *hpaT
			for i, want := range c.want {
				if i > 0 {
					r.later(15 * time.Second)
				}
				each := make([]int64, 16)
				for i := range each {
					each[i] = c.use * 5 // the target is half a processor
				}
				r.use(each...)
				hpa, replicas := r.sync()
				if replicas != want {
					t.Fatalf("at %d s there are %d replicas, want %d: %+v", 15*i, replicas, want, hpa.Status.Conditions)
				}
				last = hpa
			}
			if got := condition(last, autoscalingv2.ScalingLimited); !strings.HasPrefix(got, c.limited) {
				t.Errorf("ScalingLimited is %q, want %q", got, c.limited)
			}
		})
	}
}

// TestToAndFromZero: only if the autoscaler itself has scaled to zero, and some metric does not come from the pods.
func TestToAndFromZero(t *testing.T) {
	r := newRig(t)
	r.deploy(1)
	r.autoscaler(func(h *hpaT) {
		h.Spec.MinReplicas, h.Spec.Metrics = new(int32(0)), []autoscalingv2.MetricSpec{externalMetric(averageOf(10_000))}
	})
	r.external = []int64{0}
	r.sync()
	r.later(Defaults.DownscaleStabilization + time.Second)
	hpa, replicas := r.sync()
	if replicas != 0 || !strings.HasPrefix(condition(hpa, autoscalingv2.ScaledToZero), "True ScaledToZero: the HPA controller scaled the workload to zero") {
		t.Fatalf("%d replicas, %s", replicas, condition(hpa, autoscalingv2.ScaledToZero))
	}
	r.later(15 * time.Second)
	r.external = []int64{25_000}
	hpa, replicas = r.sync()
	if replicas != 3 || !strings.HasPrefix(condition(hpa, autoscalingv2.ScaledToZero), "False NotScaledToZero") {
		t.Fatalf("%d replicas, %s", replicas, condition(hpa, autoscalingv2.ScaledToZero))
	}
	// Somebody scales to zero: that is to stop it.
	controllertest.Change(t, r.h.Client, "default", "web", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(0)) })
	r.later(15 * time.Second)
	if hpa, replicas := r.sync(); replicas != 0 || !strings.HasPrefix(condition(hpa, autoscalingv2.ScalingActive), "False ScalingDisabled") {
		t.Errorf("%d replicas, %s", replicas, condition(hpa, autoscalingv2.ScalingActive))
	}
}

// TestWhatCannotBeScaled: the reason is in a condition and an event, and the next reconciliation is after a period.
func TestWhatCannotBeScaled(t *testing.T) {
	for name, c := range map[string]struct {
		target autoscalingv2.CrossVersionObjectReference
		want   string
	}{
		"no such object":   {autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "none"}, `deployments/scale.apps "none" not found`},
		"no such kind":     {autoscalingv2.CrossVersionObjectReference{APIVersion: "example.com/v1", Kind: "Thing", Name: "web"}, `no matches for kind "Thing" in group "example.com"`},
		"nothing to scale": {autoscalingv2.CrossVersionObjectReference{APIVersion: "batch/v1", Kind: "CronJob", Name: "web"}, `the server could not find the requested resource`},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			r.autoscaler(func(h *hpaT) { h.Spec.ScaleTargetRef = c.target })
			hpa, _ := r.sync()
			if got, want := condition(hpa, autoscalingv2.AbleToScale), "False FailedGetScale: the HPA controller was unable to get the target's current scale: "+c.want; !strings.HasPrefix(got, want) {
				t.Errorf("AbleToScale is %q, want %q", got, want)
			}
			if got := r.rec.Events("Warning FailedGetScale"); len(got) != 1 || !strings.Contains(got[0], c.want) {
				t.Errorf("events %q", got)
			}
			before := hpa.ResourceVersion
			if hpa, _ := r.sync(); hpa.ResourceVersion != before {
				t.Error("a status that has not changed was written")
			}
		})
	}
}

// TestPodsHaveOneAutoscaler: two that select the same pods would scale against each other.
func TestPodsHaveOneAutoscaler(t *testing.T) {
	r := newRig(t)
	r.deploy(2)
	r.autoscaler(nil)
	r.use(900, 900)
	r.sync()
	other := &hpaT{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "other"}, Spec: autoscalingv2.HorizontalPodAutoscalerSpec{MaxReplicas: 3, Metrics: []autoscalingv2.MetricSpec{cpu(50)},
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"}}}
	controllertest.Create(t, r.h.Client, other)
	key := controller.Key{Namespace: "default", Name: "other"}
	if _, err := r.ctl.Reconcile(t.Context(), r.h.Client.View(), key); err != nil {
		t.Fatal(err)
	}
	now, _ := client.Get[*hpaT](r.h.Client.View(), "default", "other")
	d, _ := client.Get[*appsv1.Deployment](r.h.Client.View(), "default", "web")
	if got := condition(now, autoscalingv2.ScalingActive); *d.Spec.Replicas != 3 && !strings.HasPrefix(got, "False AmbiguousSelector: pods by selector app=web are controlled by more than one HPA") {
		t.Errorf("%d replicas, %s", *d.Spec.Replicas, got)
	}
	// When one is deleted, the other works.
	if err := r.h.Client.Delete(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ctl.Reconcile(t.Context(), r.h.Client.View(), key); err != nil {
		t.Fatal(err)
	}
	controllertest.Change(t, r.h.Client, "default", "web", func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32(2)) })
	if hpa, replicas := r.sync(); replicas != 4 {
		t.Errorf("%d replicas, %s", replicas, condition(hpa, autoscalingv2.ScalingActive))
	}
}

// TestTheControllerFollowsSpecifications: it acts on a new autoscaler and on one whose specification changes, and not on its own writes.
func TestTheControllerFollowsSpecifications(t *testing.T) {
	r := newRig(t)
	r.deploy(2)
	r.use(900, 900)
	controllertest.Run(t, r.h.Client, r.ctl)
	r.autoscaler(nil)
	controllertest.Await(t, r.h.Client, "default", "web", "scaled to four", func(d *appsv1.Deployment) bool { return *d.Spec.Replicas == 4 })
	controllertest.Change(t, r.h.Client, "default", "web", func(h *hpaT) { h.Spec.MaxReplicas = 3 })
	controllertest.Await(t, r.h.Client, "default", "web", "scaled to the new maximum", func(d *appsv1.Deployment) bool { return *d.Spec.Replicas == 3 })
}
