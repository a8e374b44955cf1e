package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/objects"
)

// podTopologyLabels copies the labels that say where a node is to the pods that are created on it or bound to it, so that they can
// find out where they run.
func podTopologyLabels() objects.Step {
	return objects.Step{
		Name: "PodTopologyLabels",
		Handles: func(a *objects.Attributes) bool {
			return a.Operation == objects.OpCreate && (a.Is(pods, "") || a.Is(pods, "binding"))
		},
		Mutate: func(_ context.Context, a *objects.Attributes) error {
			switch typed := a.Object.(type) {
			case *corev1.Pod:
				return copyTopology(a, typed.Spec.NodeName, &typed.Labels)
			case *corev1.Binding:
				return copyTopology(a, typed.Target.Name, &typed.Labels)
			}
			return nil
		},
	}
}

func copyTopology(a *objects.Attributes, name string, into *map[string]string) error {
	if name == "" {
		return nil
	}
	node, ok, err := objects.Stored[*corev1.Node](a, "", name)
	if err != nil || !ok { // a pod may name a node that does not exist
		return err
	}
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		if value, ok := node.Labels[key]; ok {
			if *into == nil {
				*into = map[string]string{}
			}
			(*into)[key] = value
		}
	}
	return nil
}
