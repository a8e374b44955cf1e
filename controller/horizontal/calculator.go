package horizontal

import (
	"errors"
	"fmt"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcehelpers "k8s.io/component-helpers/resource"

	"github.com/kontiki/kontiki/controller/pods"
)

// podMetric is a metric of a pod.
type podMetric struct {
	at     time.Time
	window time.Duration
	value  int64 // milli-units
}

// tolerances are by how much the ratio of the use to the target may differ from 1 before something is scaled.
type tolerances struct{ down, up float64 }

func (t tolerances) within(ratio float64) bool { return 1-t.down <= ratio && ratio <= 1+t.up }

// sorted are the pods of a workload, sorted by what their metrics are worth.
type sorted struct {
	ready int
	// unready pods are starting, missing ones have no metrics, ignored ones end or have failed.
	unready, missing, ignored []string
}

// sortPods sorts pods by upstream's rules. cpu says that the metric is processor time, which a pod that starts uses more of than later.
func (c *Config) sortPods(all []*corev1.Pod, metrics map[string]podMetric, cpu bool, now time.Time) (out sorted) {
	for _, pod := range all {
		metric, measured := metrics[pod.Name]
		switch {
		case pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed:
			out.ignored = append(out.ignored, pod.Name)
		case pod.Status.Phase == corev1.PodPending:
			out.unready = append(out.unready, pod.Name)
		case !measured:
			out.missing = append(out.missing, pod.Name)
		case cpu && c.starting(pod, metric, now):
			out.unready = append(out.unready, pod.Name)
		default:
			out.ready++
		}
	}
	return out
}

// starting says whether what a pod uses of processors is that of its start.
func (c *Config) starting(pod *corev1.Pod, metric podMetric, now time.Time) bool {
	ready := pods.ReadyCondition(pod)
	if ready == nil || pod.Status.StartTime == nil {
		return true
	}
	started, changed := pod.Status.StartTime.Time, ready.LastTransitionTime.Time
	unready := ready.Status == corev1.ConditionFalse
	if started.Add(c.CPUInitializationPeriod).After(now) {
		// A metric counts only if all of it was measured after the pod became ready.
		return unready || metric.at.Before(changed.Add(metric.window))
	}
	return unready && started.Add(c.InitialReadinessDelay).After(changed) // it has never been ready
}

// measure is how the use of pods compares with a target: the ratio of what they use to it.
type measure func(map[string]podMetric) (ratio float64, err error)

var errNoMetrics = errors.New("did not receive metrics for targeted pods (pods might be unready)")

// replicas returns how many replicas bring the use of pods to the target, by upstream's rules: pods that start or have no metrics are
// counted such that they dampen the change. assumed returns what a pod without a metric is assumed to use when less is needed. It changes
// metrics.
func (c *Config) replicas(current int32, all []*corev1.Pod, metrics map[string]podMetric, cpu bool, t tolerances, ratioOf measure, assumed func(pod string) int64) (int32, error) {
	sorted := c.sortPods(all, metrics, cpu, c.Now())
	for _, name := range append(sorted.ignored, sorted.unready...) {
		delete(metrics, name)
	}
	if len(metrics) == 0 {
		return 0, errNoMetrics
	}
	ratio, err := ratioOf(metrics)
	if err != nil {
		return 0, err
	}
	upWithUnready := len(sorted.unready) > 0 && ratio > 1
	if !upWithUnready && len(sorted.missing) == 0 {
		if t.within(ratio) {
			return current, nil
		}
		return ceil(ratio * float64(sorted.ready)), nil
	}
	for _, name := range sorted.missing {
		switch {
		case ratio < 1:
			metrics[name] = podMetric{value: assumed(name)}
		case ratio > 1:
			metrics[name] = podMetric{}
		}
	}
	if upWithUnready {
		for _, name := range sorted.unready {
			metrics[name] = podMetric{}
		}
	}
	again, err := ratioOf(metrics)
	if err != nil {
		return 0, err
	}
	if t.within(again) || ratio < 1 && again > 1 || ratio > 1 && again < 1 {
		return current, nil // the direction must not change by what was assumed
	}
	wanted := ceil(again * float64(len(metrics)))
	if again < 1 && wanted > current || again > 1 && wanted < current {
		return current, nil
	}
	return wanted, nil
}

// ceil rounds a number of replicas up.
func ceil(replicas float64) int32 {
	if replicas > math.MaxInt32 {
		return math.MaxInt32
	}
	return int32(math.Ceil(replicas))
}

// average returns the average of metrics, and how it compares with a target.
func average(metrics map[string]podMetric, target int64) (ratio float64, value int64) {
	total := int64(0)
	for _, m := range metrics {
		total += m.value
	}
	value = total / int64(len(metrics))
	return float64(value) / float64(target), value
}

var errNoRequests = errors.New("no metrics returned matched known pods")

// utilization returns what pods use in percent of their requests, how that compares with a target, and the average use of a pod.
func utilization(metrics map[string]podMetric, requests map[string]int64, target int32) (ratio float64, percent int32, value int64, err error) {
	var used, requested, counted int64
	for name, m := range metrics {
		if request, ok := requests[name]; ok {
			used, requested, counted = used+m.value, requested+request, counted+1
		}
	}
	if requested == 0 {
		return 0, 0, 0, errNoRequests
	}
	percent = int32(used * 100 / requested)
	return float64(percent) / float64(target), percent, used / counted, nil
}

// requestsOf returns the requests of pods, or of one of their containers, in milli-units.
func requestsOf(all []*corev1.Pod, container string, name corev1.ResourceName) (map[string]int64, error) {
	out := make(map[string]int64, len(all))
	for _, pod := range all {
		var err error
		if container == "" && resourcehelpers.IsPodLevelRequestsSet(pod) {
			q, ok := resourcehelpers.PodRequests(pod, resourcehelpers.PodResourcesOptions{})[name]
			if !ok {
				return nil, fmt.Errorf("missing pod-level request for %s in Pod %s", name, pod.Name)
			}
			out[pod.Name] = q.MilliValue()
		} else if out[pod.Name], err = containersRequest(pod, container, name); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// containersRequest returns the sum of the requests of a pod's containers, sidecars included, or the request of one.
func containersRequest(pod *corev1.Pod, container string, name corev1.ResourceName) (sum int64, err error) {
	found := container == ""
	add := func(c *corev1.Container) error {
		if container != "" && container != c.Name {
			return nil
		}
		found = true
		q, ok := c.Resources.Requests[name]
		if !ok {
			return fmt.Errorf("missing request for %s in container %s of Pod %s", name, c.Name, pod.Name)
		}
		sum += q.MilliValue()
		return nil
	}
	for i := range pod.Spec.Containers {
		if err := add(&pod.Spec.Containers[i]); err != nil {
			return 0, err
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		if err := add(c); err != nil {
			return 0, err
		}
	}
	if !found {
		return 0, fmt.Errorf("container %s not found in Pod %s", container, pod.Name)
	}
	return sum, nil
}

// forTotal returns how many replicas a value that is not of the pods needs, given how it compares with the target for the present ones.
// Without a replica, the ratio is that number.
func (c *Config) forTotal(current int32, all []*corev1.Pod, ratio float64, t tolerances) (int32, error) {
	if current == 0 {
		return ceil(ratio), nil
	}
	if t.within(ratio) {
		return current, nil
	}
	if len(all) == 0 {
		return 0, fmt.Errorf("unable to calculate ready pods: %w", errNoPods)
	}
	ready := 0
	for _, pod := range all {
		if pod.Status.Phase == corev1.PodRunning && pods.Ready(pod) {
			ready++
		}
	}
	return ceil(ratio * float64(ready)), nil
}

// perPod returns how many replicas a value needs of which each takes a target, and the present average, or the value if there is no replica.
func perPod(current int32, value, target int64, t tolerances) (replicas int32, average int64) {
	if current == 0 {
		return ceil(float64(value) / float64(target)), value
	}
	replicas = current
	if ratio := float64(value) / (float64(target) * float64(current)); !t.within(ratio) {
		replicas = ceil(float64(value) / float64(target))
	}
	if value == math.MaxInt64 { // a sum that was too large
		return replicas, value
	}
	return replicas, int64(math.Ceil(float64(value) / float64(current)))
}
