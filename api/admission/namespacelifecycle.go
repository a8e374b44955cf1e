package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/objects"
)

// immortal namespaces cannot be deleted.
var immortal = []string{"default", "kube-system", "kube-public"}

// namespaceLifecycle forbids deleting the namespaces that the cluster itself needs. That objects can be created only in a namespace
// that exists and is not terminating is the object service's own rule, as it must hold when the command is applied.
func namespaceLifecycle() objects.Step {
	return objects.Step{
		Name:    "NamespaceLifecycle",
		Handles: handles(corev1.Resource("namespaces"), objects.OpDelete),
		Validate: func(_ context.Context, a *objects.Attributes) error {
			if slices.Contains(immortal, a.Name) {
				return a.Forbid("this namespace may not be deleted")
			}
			return nil
		},
	}
}
