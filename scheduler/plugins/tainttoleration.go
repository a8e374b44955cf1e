package plugins

import (
	corev1 "k8s.io/api/core/v1"
	corehelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/kontiki/kontiki/scheduler/framework"
)

// comparisonOperators says whether tolerations may compare numbers (operators Gt and Lt). Upstream's feature gate
// TaintTolerationComparisonOperators is off by default.
const comparisonOperators = false

// TaintToleration refuses nodes with taints that a pod does not tolerate, and prefers nodes with few soft ones of them.
type TaintToleration struct{}

// Name returns the plugin's name.
func (TaintToleration) Name() string { return "TaintToleration" }

var untolerated = framework.Refuse(framework.UnschedulableAndUnresolvable, "TaintToleration", "node(s) had untolerated taint(s)")

type taintFilter struct{ pod *corev1.Pod }

// PreFilter returns a filter.
func (TaintToleration) PreFilter(_ *framework.Cluster, p *framework.PodInfo) (framework.PodFilter, *framework.Status) {
	return taintFilter{p.Pod}, nil
}

func (f taintFilter) Filter(n *framework.NodeInfo) *framework.Status {
	if !tolerates(f.pod, n.Node) {
		return untolerated
	}
	return nil
}

// tolerates says whether a pod tolerates all NoSchedule and NoExecute taints of a node.
func tolerates(pod *corev1.Pod, node *corev1.Node) bool {
	if len(node.Spec.Taints) == 0 {
		return true
	}
	hard := func(taint *corev1.Taint) bool {
		return taint.Effect == corev1.TaintEffectNoSchedule || taint.Effect == corev1.TaintEffectNoExecute
	}
	_, untolerated := corehelpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations, hard, comparisonOperators)
	return !untolerated
}

type taintScore struct{ pod *corev1.Pod }

// PreScore returns a score if there are soft taints.
func (TaintToleration) PreScore(c *framework.Cluster, p *framework.PodInfo, _ framework.PodFilter) framework.PodScore {
	for _, n := range c.Nodes {
		for i := range n.Spec.Taints {
			if n.Spec.Taints[i].Effect == corev1.TaintEffectPreferNoSchedule {
				return taintScore{p.Pod}
			}
		}
	}
	return nil
}

// Score returns the number of soft taints that the pod does not tolerate.
func (s taintScore) Score(n *framework.NodeInfo) (count int64) {
	for i := range n.Spec.Taints {
		taint := &n.Spec.Taints[i]
		if taint.Effect == corev1.TaintEffectPreferNoSchedule && !corehelpers.TolerationsTolerateTaint(klog.Background(), s.pod.Spec.Tolerations, taint, comparisonOperators) {
			count++
		}
	}
	return count
}

func (taintScore) Normalize(_ []*framework.NodeInfo, scores []int64) {
	framework.NormalizeByMax(scores, true)
}

// Events says that a node whose taints the pod tolerates may help.
func (TaintToleration) Events() []framework.Hint {
	return []framework.Hint{{Resource: framework.Node, Actions: framework.Add | framework.Update, Wakes: func(p *framework.PodInfo, e *framework.Event) bool {
		old, now := e.Nodes()
		return tolerates(p.Pod, now) && (old == nil || !tolerates(p.Pod, old))
	}}}
}
