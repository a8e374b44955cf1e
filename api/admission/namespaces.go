package admission

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/objects"
)

// immortal namespaces cannot be deleted.
var immortal = []string{"default", "kube-system", "kube-public"}

// Namespaces forbids deleting the namespaces that the cluster itself needs (upstream's NamespaceLifecycle). That objects can be
// created only in a namespace that exists and is not terminating is the object service's own rule, as it must hold when the command
// is applied.
type Namespaces struct{}

// Mutate implements objects.Admitter.
func (Namespaces) Mutate(context.Context, *objects.Attributes) error { return nil }

// Validate implements objects.Admitter.
func (Namespaces) Validate(_ context.Context, a *objects.Attributes) error {
	if a.Operation == objects.OpDelete && a.Kind.GroupResource() == corev1.Resource("namespaces") && slices.Contains(immortal, a.Name) {
		return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, fmt.Errorf("this namespace may not be deleted"))
	}
	return nil
}
