package scheduler

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/kontiki/kontiki/internal/collectors"
	"github.com/kontiki/kontiki/internal/histogram"
	"github.com/kontiki/kontiki/scheduler/queue"
)

// Metrics are the scheduler's, with upstream's names, labels and buckets. They outlive a Scheduler: a master may lead several times.
type Metrics struct {
	collectors.Group
	pending    *prometheus.GaugeVec
	incoming   *prometheus.CounterVec
	attempts   *prometheus.CounterVec
	duration   *prometheus.HistogramVec
	sli        *prometheus.HistogramVec
	preempting prometheus.Counter
	victims    prometheus.Histogram
}

// The results of attempts.
const (
	scheduled     = "scheduled"
	unschedulable = "unschedulable"
	failed        = "error"
)

// NewMetrics returns metrics of which none has been counted.
func NewMetrics() *Metrics {
	m := &Metrics{
		pending: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "scheduler_pending_pods",
			Help: "Number of pending pods, by queue: 'active' are to be tried now, 'backoff' after a while, 'unschedulable' when something changes, 'gated' must not be tried."}, []string{"queue"}),
		incoming: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "scheduler_queue_incoming_pods_total",
			Help: "Number of pods added to scheduling queues, by event and queue."}, []string{"queue", "event"}),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "scheduler_schedule_attempts_total",
			Help: "Number of attempts to schedule pods, by result: 'unschedulable' means that there was no node, 'error' an internal problem."}, []string{"result", "profile"}),
		duration: histogram.Vec("scheduler_scheduling_attempt_duration_seconds", "Duration of an attempt to schedule a pod, with its binding.", prometheus.ExponentialBuckets(0.001, 2, 15), "result", "profile"),
		sli:      histogram.Vec("scheduler_pod_scheduling_sli_duration_seconds", "Time from when a pod could first be tried until it was bound, by the number of attempts.", prometheus.ExponentialBuckets(0.01, 2, 20), "attempts"),
		preempting: prometheus.NewCounter(prometheus.CounterOpts{Name: "scheduler_preemption_attempts_total",
			Help: "Number of attempts to make room by preemption."}),
		victims: histogram.New("scheduler_preemption_victims", "Number of victims of a preemption.", prometheus.ExponentialBuckets(1, 2, 7)),
	}
	m.Group = collectors.Group{m.pending, m.incoming, m.attempts, m.duration, m.sli, m.preempting, m.victims}
	return m
}

// tried counts an attempt that has ended.
func (m *Metrics) tried(result, profile string, began time.Time) {
	m.attempts.WithLabelValues(result, profile).Inc()
	m.duration.WithLabelValues(result, profile).Observe(time.Since(began).Seconds())
}

// bound counts a pod that was bound.
func (m *Metrics) bound(e *queue.Entry, profile string, began time.Time, latency time.Duration) {
	m.tried(scheduled, profile, began)
	attempts := "15+"
	if e.Attempts < 15 {
		attempts = strconv.Itoa(e.Attempts)
	}
	m.sli.WithLabelValues(attempts).Observe(latency.Seconds())
}

// waiting sets how many pods are in the queues.
func (m *Metrics) waiting(q *queue.Queue) {
	active, backoff, waiting, gated := q.Len()
	for name, n := range map[string]int{"active": active, "backoff": backoff, "unschedulable": waiting, "gated": gated} {
		m.pending.WithLabelValues(name).Set(float64(n))
	}
}

// clear forgets how many pods are in the queues: this master does not schedule any more.
func (m *Metrics) clear() { m.pending.Reset() }
