package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/objects"
)

// denyServiceExternalIPs refuses new external addresses of services: whoever may create a service could receive what is sent to them
// (CVE-2020-8554). It is off by default, as upstream.
func denyServiceExternalIPs() objects.Step {
	return objects.Step{
		Name:    "DenyServiceExternalIPs",
		Handles: handles(corev1.Resource("services"), objects.OpCreate, objects.OpUpdate),
		Validate: func(_ context.Context, a *objects.Attributes) error {
			var before []string
			if old, ok := a.Old.(*corev1.Service); ok && old != nil {
				before = old.Spec.ExternalIPs
			}
			for _, ip := range a.Object.(*corev1.Service).Spec.ExternalIPs {
				if !slices.Contains(before, ip) {
					return a.Forbid("Use of external IPs is denied by admission control")
				}
			}
			return nil
		},
	}
}
