package builtin

import (
	"k8s.io/kubernetes/pkg/registry/autoscaling/horizontalpodautoscaler"

	"github.com/kontiki/kontiki/api/registry"
)

// horizontalPodAutoscalers are stored as autoscaling/v2: what autoscaling/v1 cannot express is in annotations there.
func horizontalPodAutoscalers() *registry.Resource {
	return follow(&registry.Resource{
		Group: "autoscaling", Versions: []string{"v2", "v1"}, Kind: "HorizontalPodAutoscaler", Resource: "horizontalpodautoscalers",
		ShortNames: []string{"hpa"}, Categories: []string{"all"},
	}, horizontalpodautoscaler.Strategy, horizontalpodautoscaler.StatusStrategy)
}
