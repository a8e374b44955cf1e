package admission

import (
	"context"

	"github.com/kontiki/kontiki/api/extension/admission/attributes"
	"github.com/kontiki/kontiki/api/extension/admission/policies"
	"github.com/kontiki/kontiki/api/extension/admission/webhooks"
	"github.com/kontiki/kontiki/api/objects"
)

// Steps returns the steps, under upstream's names.
func Steps(c *Configured) []objects.Step {
	return []objects.Step{
		{
			Name:    "MutatingAdmissionPolicy",
			Handles: func(a *objects.Attributes) bool { return len(c.plan(a).mutatingPolicies) > 0 },
			Mutate: func(ctx context.Context, a *objects.Attributes) error {
				plan := c.plan(a)
				attr, ctx := attributes.Of(ctx, a)
				return policies.Mutate(ctx, c.authorizer, attr, plan.interfaces, plan.interfaces, plan.mutatingPolicies)
			},
		},
		{
			Name:    webhooks.Name,
			Once:    true,
			Handles: func(a *objects.Attributes) bool { return len(c.plan(a).mutatingWebhooks) > 0 },
			Mutate: func(ctx context.Context, a *objects.Attributes) error {
				plan := c.plan(a)
				attr, ctx := attributes.Of(ctx, a)
				return webhooks.Mutate(ctx, c.calls, attr, plan.interfaces, plan.mutatingWebhooks)
			},
		},
		{
			Name:    "ValidatingAdmissionPolicy",
			Handles: func(a *objects.Attributes) bool { return len(c.plan(a).validatingPolicies) > 0 },
			Validate: func(ctx context.Context, a *objects.Attributes) error {
				plan := c.plan(a)
				attr, ctx := attributes.Of(ctx, a)
				return policies.Validate(ctx, c.authorizer, attr, plan.interfaces, plan.validatingPolicies)
			},
		},
		{
			Name:    "ValidatingAdmissionWebhook",
			Once:    true,
			Handles: func(a *objects.Attributes) bool { return len(c.plan(a).validatingWebhooks) > 0 },
			Validate: func(ctx context.Context, a *objects.Attributes) error {
				plan := c.plan(a)
				attr, ctx := attributes.Of(ctx, a)
				return webhooks.Validate(ctx, c.calls, attr, plan.interfaces, plan.validatingWebhooks)
			},
		},
	}
}
