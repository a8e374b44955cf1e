package pods

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/internal/collectors"
)

// probeMetrics count probes under the kubelet's names. What is counted for a pod is dropped when its probes end for good.
type probeMetrics struct {
	results   *prometheus.CounterVec
	durations *prometheus.HistogramVec

	mu    sync.Mutex
	names map[types.UID]types.NamespacedName // of pods with durations, whose labels have no UID
}

func newProbeMetrics() *probeMetrics {
	return &probeMetrics{
		results: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "prober_probe_total",
			Help: "Cumulative number of a liveness, readiness or startup probe for a container by result."},
			[]string{"probe_type", "result", "container", "pod", "namespace", "pod_uid"}),
		durations: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "prober_probe_duration_seconds", Help: "Duration in seconds for a probe response."},
			[]string{"probe_type", "container", "pod", "namespace"}),
		names: map[types.UID]types.NamespacedName{},
	}
}

// ProbeMetrics returns the collector of prober_probe_total and prober_probe_duration_seconds.
func (m *Manager) ProbeMetrics() prometheus.Collector {
	return collectors.Group{m.probed.results, m.probed.durations}
}

// count counts a probe with its result, "successful", "failed" or "unknown". Only one that succeeded has a duration, as a kubelet counts them.
func (p *probeMetrics) count(pod *corev1.Pod, container string, kind probeKind, result string, took time.Duration) {
	p.results.WithLabelValues(kind.title(), result, container, pod.Name, pod.Namespace, string(pod.UID)).Inc()
	if result == "successful" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.names[pod.UID] = types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}
		p.durations.WithLabelValues(kind.title(), container, pod.Name, pod.Namespace).Observe(took.Seconds())
	}
}

// forget drops what was counted for a pod.
func (p *probeMetrics) forget(uid types.UID) {
	p.results.DeletePartialMatch(prometheus.Labels{"pod_uid": string(uid)})
	p.mu.Lock()
	defer p.mu.Unlock()
	if name, ok := p.names[uid]; ok {
		p.durations.DeletePartialMatch(prometheus.Labels{"namespace": name.Namespace, "pod": name.Name})
		delete(p.names, uid)
	}
}
