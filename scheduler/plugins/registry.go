package plugins

import (
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/scheduler/framework"
)

// Default returns the plugins of the default profile with upstream's weights, in upstream's order.
func Default(view func() client.View, volumes *Volumes) *framework.Profile {
	affinity, err := NewNodeAffinity(nil)
	if err != nil {
		panic(err) // nothing was added that could be wrong
	}
	fit := NewNodeResourcesFit(Strategy{Type: LeastAllocated, Resources: DefaultResources}, nil, nil)
	spread := &PodTopologySpread{View: view, Defaults: SystemConstraints, SystemDefaults: true}
	binding := &VolumeBinding{Volumes: volumes, Timeout: DefaultBindTimeout, Shape: DefaultStorageShape}
	pods := &InterPodAffinity{HardWeight: 1}
	p := &framework.Profile{
		PreEnqueue: []framework.PreEnqueuePlugin{SchedulingGates{}},
		Filters: []framework.FilterPlugin{
			NodeName{}, NodeUnschedulable{}, TaintToleration{}, affinity, NodePorts{}, fit,
			&VolumeRestrictions{volumes}, &NodeVolumeLimits{volumes}, binding, &VolumeZone{volumes}, spread, pods, NodeDeclaredFeatures{},
		},
		Scores: []framework.WeightedScore{
			{ScorePlugin: TaintToleration{}, Weight: 3}, {ScorePlugin: affinity, Weight: 2}, {ScorePlugin: fit, Weight: 1},
			{ScorePlugin: spread, Weight: 2}, {ScorePlugin: pods, Weight: 2},
			{ScorePlugin: binding, Weight: 1},
			{ScorePlugin: NodeResourcesBalancedAllocation{DefaultResources}, Weight: 1}, {ScorePlugin: ImageLocality{}, Weight: 1},
		},
	}
	p.Hints = hintsOf(p)
	return p
}

// hintsOf collects the hints of a profile's plugins.
func hintsOf(p *framework.Profile) map[string][]framework.Hint {
	hints := map[string][]framework.Hint{}
	for _, plugin := range p.Filters {
		if h, ok := plugin.(framework.HintingPlugin); ok {
			hints[plugin.Name()] = h.Events()
		}
	}
	return hints
}
