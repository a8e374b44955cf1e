package builtin

import "github.com/kontiki/kontiki/api/registry"

// nodeMetrics and podMetrics, of metrics.k8s.io, are computed when they are read, from what the workers report.
func nodeMetrics() *registry.Resource {
	return &registry.Resource{Group: "metrics.k8s.io", Versions: []string{"v1", "v1beta1"}, Kind: "NodeMetrics", Resource: "nodes", Singular: "node", Verbs: []string{"get", "list"}}
}

func podMetrics() *registry.Resource {
	return &registry.Resource{Group: "metrics.k8s.io", Versions: []string{"v1", "v1beta1"}, Kind: "PodMetrics", Resource: "pods", Singular: "pod", Namespaced: true, Verbs: []string{"get", "list"}}
}
