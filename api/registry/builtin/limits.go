package builtin

import (
	"k8s.io/kubernetes/pkg/registry/core/limitrange"
	"k8s.io/kubernetes/pkg/registry/core/resourcequota"
	"k8s.io/kubernetes/pkg/registry/node/runtimeclass"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	"k8s.io/kubernetes/pkg/registry/scheduling/priorityclass"

	"github.com/kontiki/kontiki/api/registry"
)

func limitRanges() *registry.Resource {
	return follow(&registry.Resource{Kind: "LimitRange", Resource: "limitranges", ShortNames: []string{"limits"}}, limitrange.Strategy, nil)
}

func resourceQuotas() *registry.Resource {
	return follow(&registry.Resource{
		Kind: "ResourceQuota", Resource: "resourcequotas", ShortNames: []string{"quota"}, ReturnDeleted: true,
	}, resourcequota.Strategy, resourcequota.StatusStrategy)
}

func priorityClasses() *registry.Resource {
	return follow(&registry.Resource{
		Group: "scheduling.k8s.io", Kind: "PriorityClass", Resource: "priorityclasses", ShortNames: []string{"pc"},
	}, priorityclass.Strategy, nil)
}

func runtimeClasses() *registry.Resource {
	return follow(&registry.Resource{Group: "node.k8s.io", Kind: "RuntimeClass", Resource: "runtimeclasses"}, runtimeclass.Strategy, nil)
}

func podDisruptionBudgets() *registry.Resource {
	return follow(&registry.Resource{
		Group: "policy", Kind: "PodDisruptionBudget", Resource: "poddisruptionbudgets", ShortNames: []string{"pdb"},
	}, poddisruptionbudget.Strategy, poddisruptionbudget.StatusStrategy)
}
