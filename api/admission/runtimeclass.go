package admission

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"

	"github.com/kontiki/kontiki/api/objects"
)

// runtimeClass adds the overhead, the node selector and the tolerations of its RuntimeClass to a new pod.
func runtimeClass() objects.Step {
	return objects.Step{
		Name:    "RuntimeClass",
		Handles: handles(pods, objects.OpCreate),
		Mutate: func(_ context.Context, a *objects.Attributes) error {
			pod := a.Object.(*corev1.Pod)
			class, err := classOf(a, pod)
			if err != nil || class == nil {
				return err
			}
			if class.Overhead != nil {
				if len(pod.Spec.Overhead) > 0 && !apiequality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
					return a.Forbid("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
				}
				pod.Spec.Overhead = class.Overhead.PodFixed.DeepCopy()
			}
			return schedule(a, pod, class)
		},
		Validate: func(_ context.Context, a *objects.Attributes) error {
			pod := a.Object.(*corev1.Pod)
			class, err := classOf(a, pod)
			switch {
			case err != nil:
				return err
			case class != nil && class.Overhead != nil:
				if !apiequality.Semantic.DeepEqual(class.Overhead.PodFixed, pod.Spec.Overhead) {
					return a.Forbid("pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead")
				}
			case pod.Spec.Overhead != nil:
				return a.Forbid("pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead")
			}
			return nil
		},
	}
}

// classOf returns a pod's RuntimeClass, nil if it names none.
func classOf(a *objects.Attributes, pod *corev1.Pod) (*nodev1.RuntimeClass, error) {
	name := pod.Spec.RuntimeClassName
	if name == nil {
		return nil, nil
	}
	class, ok, err := objects.Stored[*nodev1.RuntimeClass](a, "", *name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, a.Forbid("pod rejected: RuntimeClass %q not found", *name)
	}
	return class, nil
}

func schedule(a *objects.Attributes, pod *corev1.Pod, class *nodev1.RuntimeClass) error {
	if class.Scheduling == nil {
		return nil
	}
	for key, value := range class.Scheduling.NodeSelector {
		if have, ok := pod.Spec.NodeSelector[key]; ok && have != value {
			return a.Forbid("conflict: runtimeClass.scheduling.nodeSelector[%s] = %s; pod.spec.nodeSelector[%s] = %s", key, value, key, have)
		}
	}
	if pod.Spec.NodeSelector == nil && len(class.Scheduling.NodeSelector) > 0 {
		pod.Spec.NodeSelector = map[string]string{}
	}
	maps.Copy(pod.Spec.NodeSelector, class.Scheduling.NodeSelector)
	pod.Spec.Tolerations = mergeTolerations(pod.Spec.Tolerations, class.Scheduling.Tolerations)
	return nil
}

// mergeTolerations returns the tolerations of both lists without those that another one includes.
func mergeTolerations(first, second []corev1.Toleration) []corev1.Toleration {
	all := append(append([]corev1.Toleration(nil), first...), second...)
	var merged []corev1.Toleration
next:
	for i, t := range all {
		for _, have := range merged {
			if includes(have, t) {
				continue next
			}
		}
		for _, later := range all[i+1:] {
			if !apiequality.Semantic.DeepEqual(t, later) && includes(later, t) {
				continue next
			}
		}
		merged = append(merged, t)
	}
	return merged
}

// includes says whether the first toleration tolerates everything that the second one does.
func includes(ss, t corev1.Toleration) bool {
	if apiequality.Semantic.DeepEqual(ss, t) {
		return true
	}
	if t.Key != ss.Key && !(ss.Key == "" && ss.Operator == corev1.TolerationOpExists) {
		return false // an empty key with Exists matches all keys
	}
	if t.Effect != ss.Effect && ss.Effect != "" {
		return false
	}
	if ss.Effect == corev1.TaintEffectNoExecute && ss.TolerationSeconds != nil && (t.TolerationSeconds == nil || *t.TolerationSeconds > *ss.TolerationSeconds) {
		return false
	}
	switch ss.Operator {
	case corev1.TolerationOpEqual, "":
		return (t.Operator == corev1.TolerationOpEqual || t.Operator == "") && t.Value == ss.Value
	case corev1.TolerationOpExists:
		return true
	}
	return false
}
