package scheduler_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/test/await"
)

// gathered returns the values of counters and gauges, and the numbers of observations of histograms, by name and labels.
func gathered(t *testing.T, c prometheus.Collector) map[string]float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			var pairs []string
			for _, l := range m.Label {
				pairs = append(pairs, l.GetName()+"="+l.GetValue())
			}
			slices.Sort(pairs)
			key := f.GetName() + "{" + strings.Join(pairs, ",") + "}"
			switch {
			case m.Counter != nil:
				values[key] = m.Counter.GetValue()
			case m.Gauge != nil:
				values[key] = m.Gauge.GetValue()
			default:
				values[key] = float64(m.Histogram.GetSampleCount())
			}
		}
	}
	return values
}

func TestMetrics(t *testing.T) {
	b := start(t)
	b.classes()
	b.node("a", "1")
	b.pod("victim", "800m", class("low"))
	b.placed("victim")
	b.pod("gated", "100m", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "example.com/wait"}} })
	b.pod("large", "2")
	b.refused("large", "0/1 nodes are available: 1 Insufficient cpu.")
	b.pod("preemptor", "800m", class("high"))
	b.await("victim", "its deletion", leaving)
	b.kill("victim")
	b.placed("preemptor")
	const profile = "profile=default-scheduler"
	await.That(t, "the metrics to tell", func() error {
		values := gathered(t, b.metrics)
		for key, least := range map[string]float64{
			"scheduler_schedule_attempts_total{" + profile + ",result=scheduled}":                   2,
			"scheduler_schedule_attempts_total{" + profile + ",result=unschedulable}":               2,
			"scheduler_scheduling_attempt_duration_seconds{" + profile + ",result=scheduled}":       2,
			"scheduler_pod_scheduling_sli_duration_seconds{attempts=1}":                             1,
			"scheduler_preemption_attempts_total{}":                                                 1,
			"scheduler_preemption_victims{}":                                                        1,
			"scheduler_queue_incoming_pods_total{event=UnscheduledPodAdd,queue=active}":             3,
			"scheduler_queue_incoming_pods_total{event=UnscheduledPodAdd,queue=gated}":              1,
			"scheduler_queue_incoming_pods_total{event=ScheduleAttemptFailure,queue=unschedulable}": 2,
			"scheduler_pending_pods{queue=gated}":                                                   1,
		} {
			if values[key] < least {
				return fmt.Errorf("%s is %v, want at least %v; all: %v", key, values[key], least, values)
			}
		}
		// The large pod is tried again now and then.
		if n := values["scheduler_pending_pods{queue=unschedulable}"] + values["scheduler_pending_pods{queue=backoff}"]; n != 1 {
			return fmt.Errorf("%v pods wait", n)
		}
		return nil
	})
	if values := gathered(t, b.metrics); values["scheduler_preemption_victims{}"] != 1 || values["scheduler_schedule_attempts_total{"+profile+",result=scheduled}"] != 2 {
		t.Errorf("preemptions or bindings were counted that there were not: %v", values)
	}
	b.stop()
	for key := range gathered(t, b.metrics) {
		if strings.HasPrefix(key, "scheduler_pending_pods") {
			t.Errorf("a scheduler that has ended tells %s", key)
		}
	}
	b.run()
}
