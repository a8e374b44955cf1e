// Package admissionpolicy writes the status of ValidatingAdmissionPolicies: warnings about the types in their expressions, as upstream's
// controller validatingadmissionpolicy-status does.
package admissionpolicy

import (
	"context"

	admissionv1 "k8s.io/api/admissionregistration/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// New returns the controller. Its keys are policies. check returns the warnings about a policy; the policy is read-only.
func New(c *client.Client, check func(*admissionv1.ValidatingAdmissionPolicy) []admissionv1.ExpressionWarning) *controller.Controller {
	return &controller.Controller{
		Name:    "validatingadmissionpolicy-status",
		Watches: []client.Object{&admissionv1.ValidatingAdmissionPolicy{}},
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "", func(policy *admissionv1.ValidatingAdmissionPolicy) bool {
				enqueue(controller.KeyOf(policy))
				return true
			})
		},
		Enqueue: func(_ client.View, event client.Event, enqueue func(controller.Key)) {
			if event.New != nil {
				enqueue(controller.KeyOf(event.New))
			}
		},
		Reconcile: func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error) {
			policy, ok := client.Get[*admissionv1.ValidatingAdmissionPolicy](v, "", key.Name)
			if !ok || policy.Generation <= policy.Status.ObservedGeneration {
				return controller.Result{}, nil
			}
			checked := policy.DeepCopy()
			checked.Status.ObservedGeneration = policy.Generation
			checked.Status.TypeChecking = &admissionv1.TypeChecking{ExpressionWarnings: check(policy)}
			_, err := client.UpdateStatus(ctx, c, checked)
			return controller.Result{}, err
		},
	}
}
