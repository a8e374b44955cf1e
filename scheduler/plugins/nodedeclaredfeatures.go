package plugins

import (
	"slices"

	"k8s.io/component-helpers/nodedeclaredfeatures"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// NodeDeclaredFeatures refuses nodes that do not declare a feature that the pod needs.
type NodeDeclaredFeatures struct{}

// Name returns the plugin's name.
func (NodeDeclaredFeatures) Name() string { return "NodeDeclaredFeatures" }

var featureMissing = framework.Refuse(framework.UnschedulableAndUnresolvable, "NodeDeclaredFeatures", "node(s) didn't match Pod's required features")

type featureFilter struct {
	required nodedeclaredfeatures.FeatureSet
}

// PreFilter returns a filter for a pod that needs features.
func (NodeDeclaredFeatures) PreFilter(_ *framework.Cluster, p *framework.PodInfo) (framework.PodFilter, *framework.Status) {
	required := framework.RequiredFeatures(p.Pod)
	if required.IsEmpty() {
		return nil, nil
	}
	return featureFilter{required}, nil
}

func (f featureFilter) Filter(n *framework.NodeInfo) *framework.Status {
	match, err := nodedeclaredfeatures.DefaultFramework.MatchNode(f.required, n.Node)
	if err != nil {
		return framework.Failed("NodeDeclaredFeatures", err)
	}
	if !match.IsMatch {
		return featureMissing
	}
	return nil
}

// Events says that a node that declares other features may help.
func (NodeDeclaredFeatures) Events() []framework.Hint {
	return []framework.Hint{{Resource: framework.Node, Actions: framework.Add | framework.Update, Wakes: func(_ *framework.PodInfo, e *framework.Event) bool {
		old, now := e.Nodes()
		return old == nil || !slices.Equal(old.Status.DeclaredFeatures, now.Status.DeclaredFeatures)
	}}}
}
