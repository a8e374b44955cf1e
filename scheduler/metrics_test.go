package scheduler_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/gathered"
)

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
	const profile = `profile="default-scheduler"`
	await.That(t, "the metrics to tell", func() error {
		values := gathered.Values(t, b.metrics)
		for key, least := range map[string]float64{
			"scheduler_schedule_attempts_total{" + profile + `,result="scheduled"}`:                     2,
			"scheduler_schedule_attempts_total{" + profile + `,result="unschedulable"}`:                 2,
			"scheduler_scheduling_attempt_duration_seconds{" + profile + `,result="scheduled"}`:         2,
			`scheduler_pod_scheduling_sli_duration_seconds{attempts="1"}`:                               1,
			"scheduler_preemption_attempts_total{}":                                                     1,
			"scheduler_preemption_victims{}":                                                            1,
			`scheduler_queue_incoming_pods_total{event="UnscheduledPodAdd",queue="active"}`:             3,
			`scheduler_queue_incoming_pods_total{event="UnscheduledPodAdd",queue="gated"}`:              1,
			`scheduler_queue_incoming_pods_total{event="ScheduleAttemptFailure",queue="unschedulable"}`: 2,
			`scheduler_pending_pods{queue="gated"}`:                                                     1,
		} {
			if values[key] < least {
				return fmt.Errorf("%s is %v, want at least %v; all: %v", key, values[key], least, values)
			}
		}
		// The large pod is tried again now and then.
		if n := values[`scheduler_pending_pods{queue="unschedulable"}`] + values[`scheduler_pending_pods{queue="backoff"}`]; n != 1 {
			return fmt.Errorf("%v pods wait", n)
		}
		return nil
	})
	if values := gathered.Values(t, b.metrics); values["scheduler_preemption_victims{}"] != 1 || values["scheduler_schedule_attempts_total{"+profile+",result=\"scheduled\"}"] != 2 {
		t.Errorf("preemptions or bindings were counted that there were not: %v", values)
	}
	b.stop()
	for key := range gathered.Values(t, b.metrics) {
		if strings.HasPrefix(key, "scheduler_pending_pods") {
			t.Errorf("a scheduler that has ended tells %s", key)
		}
	}
	b.run()
}
