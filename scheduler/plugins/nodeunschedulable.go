package plugins

import (
	corev1 "k8s.io/api/core/v1"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// NodeUnschedulable refuses cordoned nodes.
type NodeUnschedulable struct{}

// Name returns the plugin's name.
func (NodeUnschedulable) Name() string { return "NodeUnschedulable" }

var (
	cordonTaint = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}
	cordoned    = framework.Refuse(framework.UnschedulableAndUnresolvable, "NodeUnschedulable", "node(s) were unschedulable")
)

type cordonFilter struct{}

// PreFilter returns a filter, unless the pod tolerates cordoned nodes.
func (NodeUnschedulable) PreFilter(_ *framework.Cluster, p *framework.PodInfo) (framework.PodFilter, *framework.Status) {
	if toleratesCordon(p) {
		return nil, nil
	}
	return cordonFilter{}, nil
}

func toleratesCordon(p *framework.PodInfo) bool {
	return corehelpers.TolerationsTolerateTaint(klog.Background(), p.Spec.Tolerations, &cordonTaint, comparisonOperators)
}

func (cordonFilter) Filter(n *framework.NodeInfo) *framework.Status {
	if n.Spec.Unschedulable {
		return cordoned
	}
	return nil
}

// Events says that a node that can be used may help.
func (NodeUnschedulable) Events() []framework.Hint {
	return []framework.Hint{{Resource: framework.Node, Actions: framework.Add | framework.Update, Wakes: func(p *framework.PodInfo, e *framework.Event) bool {
		old, now := e.Nodes()
		return !now.Spec.Unschedulable && (old == nil || old.Spec.Unschedulable)
	}}}
}
