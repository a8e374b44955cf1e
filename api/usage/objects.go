package usage

import (
	"context"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	metricsv1 "k8s.io/metrics/pkg/apis/metrics/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// Computers returns what computes the resources of metrics.k8s.io, with the semantics of metrics-server: a node or pod is left out until
// all of it has been measured twice, and so is a pod that does not run. view returns the state, of which nodes and pods are taken.
func (d *Directory) Computers(view func() client.View) map[schema.GroupResource]objects.Computer {
	return map[schema.GroupResource]objects.Computer{
		{Group: "metrics.k8s.io", Resource: "nodes"}: func(ctx context.Context, asked objects.Asked) (out []registry.Object) {
			s, v := d.Now(ctx), view()
			if asked.Name != "" {
				if node, ok := client.Get[*corev1.Node](v, "", asked.Name); ok {
					out = appendSome(out, s.NodeMetrics(node))
				}
				return out
			}
			for _, node := range client.List[*corev1.Node](v, "", asked.Labels) {
				out = appendSome(out, s.NodeMetrics(node))
			}
			return out
		},
		{Group: "metrics.k8s.io", Resource: "pods"}: func(ctx context.Context, asked objects.Asked) (out []registry.Object) {
			s, v := d.Now(ctx), view()
			if asked.Name != "" {
				if pod, ok := client.Get[*corev1.Pod](v, asked.Namespace, asked.Name); ok {
					out = appendSome(out, s.PodMetrics(pod))
				}
				return out
			}
			for _, pod := range client.List[*corev1.Pod](v, asked.Namespace, asked.Labels) {
				out = appendSome(out, s.PodMetrics(pod))
			}
			return out
		},
	}
}

// appendSome appends an object that is not nil.
func appendSome[T interface {
	comparable
	registry.Object
}](to []registry.Object, obj T) []registry.Object {
	var none T
	if obj == none {
		return to
	}
	return append(to, obj)
}

// NodeMetrics returns what a node uses; nil if it is not known.
func (s *Snapshot) NodeMetrics(node *corev1.Node) *metricsv1.NodeMetrics {
	u := s.Node(node.Name)
	if u == nil || u.Compute.WindowMs == 0 {
		return nil
	}
	return &metricsv1.NodeMetrics{
		ObjectMeta: metav1.ObjectMeta{Name: node.Name, Labels: node.Labels, CreationTimestamp: metav1.NewTime(s.now)},
		Timestamp:  metav1.Unix(0, u.Time), Window: window(u.Compute), Usage: resources(u.Compute),
	}
}

// PodMetrics returns what a pod uses; nil if that is not known of all its containers, or it does not run.
func (s *Snapshot) PodMetrics(pod *corev1.Pod) *metricsv1.PodMetrics {
	if pod.Status.Phase != corev1.PodRunning {
		return nil
	}
	u := s.Pod(pod)
	if u == nil || !u.Complete || len(u.Containers) == 0 {
		return nil
	}
	out := &metricsv1.PodMetrics{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, Labels: pod.Labels, CreationTimestamp: metav1.NewTime(s.now)}}
	for _, c := range u.Containers {
		if c.Compute.WindowMs == 0 {
			return nil
		}
		if at := metav1.Unix(0, c.Time); out.Timestamp.IsZero() || at.Before(&out.Timestamp) { // of the container that was measured first
			out.Timestamp, out.Window = at, window(c.Compute)
		}
		out.Containers = append(out.Containers, metricsv1.ContainerMetrics{Name: c.Name, Usage: resources(c.Compute)})
	}
	slices.SortFunc(out.Containers, func(a, b metricsv1.ContainerMetrics) int { return strings.Compare(a.Name, b.Name) })
	return out
}

func window(c *nodev1.ComputeUsage) metav1.Duration {
	return metav1.Duration{Duration: time.Duration(c.WindowMs) * time.Millisecond}
}

func resources(c *nodev1.ComputeUsage) corev1.ResourceList {
	return corev1.ResourceList{
		corev1.ResourceCPU:    *resource.NewScaledQuantity(int64(c.CpuNanocores), resource.Nano),
		corev1.ResourceMemory: *resource.NewQuantity(int64(c.MemoryWorkingSetBytes), resource.BinarySI),
	}
}
