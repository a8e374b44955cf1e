package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/objects"
)

// DefaultTolerationSeconds is Kubernetes' default.
const DefaultTolerationSeconds = 300

// defaultTolerationSeconds adds tolerations with a time to pods that have none for nodes that are not ready or not reachable.
func defaultTolerationSeconds(seconds int64) objects.Step {
	return objects.Step{
		Name:    "DefaultTolerationSeconds",
		Handles: handles(pods, objects.OpCreate, objects.OpUpdate),
		Mutate: func(_ context.Context, a *objects.Attributes) error {
			pod := a.Object.(*corev1.Pod)
			tolerate(pod, corev1.TaintNodeNotReady, seconds)
			tolerate(pod, corev1.TaintNodeUnreachable, seconds)
			return nil
		},
	}
}

func tolerate(pod *corev1.Pod, taint string, seconds int64) {
	for _, t := range pod.Spec.Tolerations {
		if (t.Key == taint || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "") {
			return
		}
	}
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
		Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
	})
}
