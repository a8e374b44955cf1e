package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/objects"
)

// taintNodesByCondition taints a new node as not ready, so that no pod is scheduled on it before the node controller has seen it ready.
func taintNodesByCondition() objects.Step {
	return objects.Step{
		Name:    "TaintNodesByCondition",
		Handles: handles(corev1.Resource("nodes"), objects.OpCreate),
		Mutate: func(_ context.Context, a *objects.Attributes) error {
			node, taint := a.Object.(*corev1.Node), corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
			for i := range node.Spec.Taints {
				if node.Spec.Taints[i].MatchTaint(&taint) {
					return nil
				}
			}
			node.Spec.Taints = append(node.Spec.Taints, taint)
			return nil
		},
	}
}
