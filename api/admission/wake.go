package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/internal/wake"
)

// wakeAnnotation checks the annotation by which connections to a Service wake a workload: that it is well formed, that the Service can hold
// connections, and that its author may scale the workload. It cannot be disabled: the master that wakes a workload asks nobody.
func wakeAnnotation(by auth.Authorizer) objects.Step {
	return objects.Step{
		Name:    "WakeAnnotation",
		Handles: handles(corev1.Resource("services"), objects.OpCreate, objects.OpUpdate),
		Validate: func(ctx context.Context, a *objects.Attributes) error {
			service := a.Object.(*corev1.Service)
			target, asks, err := wake.Of(service)
			if err != nil {
				if old, ok := a.Old.(*corev1.Service); ok && old != nil {
					if _, _, before := wake.Of(old); before != nil && before.Error() == err.Error() {
						return nil // it was stored as it is
					}
				}
				return a.Forbid("%v", err)
			}
			if !asks || a.Trusted {
				return nil
			}
			if old, ok := a.Old.(*corev1.Service); ok && old != nil && old.Annotations[wake.Annotation] == service.Annotations[wake.Annotation] {
				return nil
			}
			asked := &authorizer.AttributesRecord{User: a.User, Verb: "update", APIGroup: target.Kind.Group, APIVersion: "v1", Resource: target.Resource,
				Subresource: "scale", Namespace: a.Namespace, Name: target.Name, ResourceRequest: true}
			if err := auth.Check(ctx, by, asked); err != nil {
				return a.Forbid("%s: %s is scaled when a connection comes: %v", wake.Annotation, target, err)
			}
			return nil
		},
	}
}
