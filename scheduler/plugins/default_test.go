package plugins

import "github.com/kontiki/kontiki/scheduler/framework"

// withoutAPI is the default profile (package config) without the plugins and defaults that need an API.
func withoutAPI() *framework.Profile {
	affinity, err := NewNodeAffinity(nil)
	if err != nil {
		panic(err) // nothing was added that could be wrong
	}
	fit := NewNodeResourcesFit(Strategy{Type: LeastAllocated, Resources: DefaultResources}, nil, nil)
	spread, pods := &PodTopologySpread{}, &InterPodAffinity{HardWeight: 1}
	return &framework.Profile{
		Filters: []framework.FilterPlugin{NodeName{}, NodeUnschedulable{}, TaintToleration{}, affinity, NodePorts{}, fit, spread, pods, NodeDeclaredFeatures{}},
		Scores: []framework.WeightedScore{
			{ScorePlugin: TaintToleration{}, Weight: 3}, {ScorePlugin: affinity, Weight: 2}, {ScorePlugin: fit, Weight: 1},
			{ScorePlugin: spread, Weight: 2}, {ScorePlugin: pods, Weight: 2},
			{ScorePlugin: NodeResourcesBalancedAllocation{DefaultResources}, Weight: 1}, {ScorePlugin: ImageLocality{}, Weight: 1},
		},
	}
}
