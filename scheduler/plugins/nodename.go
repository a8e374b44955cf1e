package plugins

import (
	"github.com/kontiki/kontiki/scheduler/framework"
)

// NodeName refuses all nodes but the one that a pod names.
type NodeName struct{}

// Name returns the plugin's name.
func (NodeName) Name() string { return "NodeName" }

var otherName = framework.Refuse(framework.UnschedulableAndUnresolvable, "NodeName", "node(s) didn't match the requested node name")

type nameFilter string

// PreFilter returns a filter for a pod that names a node.
func (NodeName) PreFilter(_ *framework.Cluster, p *framework.PodInfo) (framework.PodFilter, *framework.Status) {
	if p.Spec.NodeName == "" {
		return nil, nil
	}
	return nameFilter(p.Spec.NodeName), nil
}

func (f nameFilter) Filter(n *framework.NodeInfo) *framework.Status {
	if n.Name != string(f) {
		return otherName
	}
	return nil
}

// Events says that the node may come.
func (NodeName) Events() []framework.Hint {
	return []framework.Hint{{Resource: framework.Node, Actions: framework.Add}}
}
