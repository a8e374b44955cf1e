package plugins

import (
	"github.com/kontiki/kontiki/scheduler/framework"
)

// NodePorts refuses nodes on which a host port of the pod is in use.
type NodePorts struct{}

// Name returns the plugin's name.
func (NodePorts) Name() string { return "NodePorts" }

var noPorts = framework.Refuse(framework.Unschedulable, "NodePorts", "node(s) didn't have free ports for the requested pod ports")

type portFilter []framework.HostPort

// PreFilter returns a filter for a pod with host ports.
func (NodePorts) PreFilter(_ *framework.Cluster, p *framework.PodInfo) (framework.PodFilter, *framework.Status) {
	if len(p.Ports) == 0 {
		return nil, nil
	}
	return portFilter(p.Ports), nil
}

func (f portFilter) Filter(n *framework.NodeInfo) *framework.Status {
	for _, other := range n.Porters {
		if portsConflict(f, other.Ports) {
			return noPorts
		}
	}
	return nil
}

func portsConflict(some, others []framework.HostPort) bool {
	for _, p := range some {
		for _, q := range others {
			if p.Conflicts(q) {
				return true
			}
		}
	}
	return false
}

// Events says that a new node, or a pod that gives back one of the ports, may help.
func (NodePorts) Events() []framework.Hint {
	return []framework.Hint{
		{Resource: framework.Node, Actions: framework.Add},
		{Resource: framework.AssignedPod, Actions: framework.Delete, Wakes: func(p *framework.PodInfo, e *framework.Event) bool {
			old, _ := e.Pods()
			return portsConflict(p.Ports, framework.NewPodInfo(old).Ports)
		}},
	}
}
