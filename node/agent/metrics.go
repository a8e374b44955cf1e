package agent

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/collectors"
	"github.com/kontiki/kontiki/internal/histogram"
)

// podMetrics count what becomes of pods, under the kubelet's names.
type podMetrics struct {
	collectors.Group
	began    time.Time
	duration prometheus.Histogram
	started  prometheus.Counter
	ended    *prometheus.CounterVec

	mu    sync.Mutex
	known map[types.UID]bool // pods that have been counted as running
}

// The buckets are upstream's.
var podStartBuckets = []float64{0.1, 0.25, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}

func newPodMetrics() *podMetrics {
	m := &podMetrics{began: time.Now(), known: map[types.UID]bool{},
		duration: histogram.New("kubelet_pod_start_duration_seconds", "Duration in seconds from kubelet seeing a pod for the first time to the pod starting to run", podStartBuckets),
		started:  prometheus.NewCounter(prometheus.CounterOpts{Name: "kubelet_started_pods_total", Help: "Cumulative number of pods started"}),
		ended:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kontiki_node_ended_pods_total", Help: "Pods that ended on this node, by their last phase."}, []string{"phase"}),
	}
	m.Group = collectors.Group{m.duration, m.started, m.ended}
	return m
}

// status takes the newest status of a pod. Pods that ran before this process started are not counted.
func (m *podMetrics) status(pod *corev1.Pod, status *corev1.PodStatus, terminated bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if status.Phase == corev1.PodRunning && !m.known[pod.UID] && !terminated {
		m.known[pod.UID] = true
		// The start time has whole seconds: one that began in the second before counts as well.
		if at := status.StartTime; at != nil && !at.Time.Before(m.began.Truncate(time.Second)) {
			m.started.Inc()
			m.duration.Observe(max(time.Since(at.Time), 0).Seconds())
		}
	}
	if terminated {
		delete(m.known, pod.UID)
		m.ended.WithLabelValues(string(status.Phase)).Inc()
	}
}

// PodMetrics collects what became of the pods, for the node's server.
func (a *Agent) PodMetrics() prometheus.Collector { return a.metrics }
