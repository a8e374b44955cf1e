package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/kubernetes/pkg/apis/core/v1/helper"

	"github.com/kontiki/kontiki/api/objects"
)

// extendedResourceToleration lets a pod that requests an extended resource onto the nodes that are tainted with the resource's name.
func extendedResourceToleration() objects.Step {
	return objects.Step{
		Name:    "ExtendedResourceToleration",
		Handles: handles(pods, objects.OpCreate, objects.OpUpdate),
		Mutate: func(_ context.Context, a *objects.Attributes) error {
			pod := a.Object.(*corev1.Pod)
			names := sets.New[string]()
			for _, list := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
				for _, c := range list {
					for name := range c.Resources.Requests {
						if helper.IsExtendedResourceName(name) {
							names.Insert(string(name))
						}
					}
				}
			}
			for _, name := range sets.List(names) {
				addToleration(pod, corev1.Toleration{Key: name, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule})
			}
			return nil
		},
	}
}

// addToleration adds a toleration, or replaces one for the same taint.
func addToleration(pod *corev1.Pod, t corev1.Toleration) {
	for i := range pod.Spec.Tolerations {
		have := &pod.Spec.Tolerations[i]
		if have.MatchToleration(&t) {
			if !apiequality.Semantic.DeepEqual(*have, t) {
				*have = t
			}
			return
		}
	}
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, t)
}
