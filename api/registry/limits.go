package registry

import (
	"k8s.io/kubernetes/pkg/registry/core/limitrange"
	"k8s.io/kubernetes/pkg/registry/core/resourcequota"
	"k8s.io/kubernetes/pkg/registry/node/runtimeclass"
	"k8s.io/kubernetes/pkg/registry/policy/poddisruptionbudget"
	"k8s.io/kubernetes/pkg/registry/scheduling/priorityclass"
)

func limitRanges() *Resource {
	return follow(&Resource{Kind: "LimitRange", Resource: "limitranges", ShortNames: []string{"limits"}}, limitrange.Strategy, nil)
}

func resourceQuotas() *Resource {
	return follow(&Resource{
		Kind: "ResourceQuota", Resource: "resourcequotas", ShortNames: []string{"quota"}, ReturnDeleted: true,
	}, resourcequota.Strategy, resourcequota.StatusStrategy)
}

func priorityClasses() *Resource {
	return follow(&Resource{
		Group: "scheduling.k8s.io", Kind: "PriorityClass", Resource: "priorityclasses", ShortNames: []string{"pc"},
	}, priorityclass.Strategy, nil)
}

func runtimeClasses() *Resource {
	return follow(&Resource{Group: "node.k8s.io", Kind: "RuntimeClass", Resource: "runtimeclasses"}, runtimeclass.Strategy, nil)
}

func podDisruptionBudgets() *Resource {
	return follow(&Resource{
		Group: "policy", Kind: "PodDisruptionBudget", Resource: "poddisruptionbudgets", ShortNames: []string{"pdb"},
	}, poddisruptionbudget.Strategy, poddisruptionbudget.StatusStrategy)
}
