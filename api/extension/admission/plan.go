package admission

import (
	"context"
	"strings"
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"

	"github.com/kontiki/kontiki/api/extension/admission/attributes"
	"github.com/kontiki/kontiki/api/extension/admission/policies"
	"github.com/kontiki/kontiki/api/extension/admission/webhooks"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/registry"
)

// plans are the plans of a set.
type plans struct {
	interfaces attributes.Interfaces
	made       sync.Map // planKey -> *plan
}

// planKey is what rules depend on. There are as many as resources, subresources and operations.
type planKey struct {
	kind        *registry.Kind
	subresource string
	operation   objects.Operation
	namespaced  bool
}

// plan has the hooks whose rules can match a request, in order. Selectors and conditions are not considered yet.
type plan struct {
	interfaces         *attributes.Interfaces
	mutatingPolicies   []mutating.PolicyHook
	mutatingWebhooks   []webhooks.Match
	validatingPolicies []validating.PolicyHook
	validatingWebhooks []webhooks.Match
}

// nothing is the plan of a request that no hook concerns.
var nothing = &plan{}

// plan returns the plan of a request.
func (c *Configured) plan(a *objects.Attributes) *plan {
	s := c.at(a)
	if s.empty() {
		return nothing
	}
	key := planKey{a.Kind, a.Subresource, a.Operation, a.Namespace != ""}
	if known, ok := s.plans.made.Load(key); ok {
		return known.(*plan)
	}
	made, _ := s.plans.made.LoadOrStore(key, s.plan(a))
	return made.(*plan)
}

// reviews are resources that nothing is asked about, so that nobody can shut a cluster's administrators out: those are upstream's excluded
// resources (k8s.io/kubernetes/pkg/kubeapiserver/admission/exclusion).
var reviews = map[schema.GroupResource]bool{
	{Group: "authentication.k8s.io", Resource: "selfsubjectreviews"}:       true,
	{Group: "authentication.k8s.io", Resource: "tokenreviews"}:             true,
	{Group: "authorization.k8s.io", Resource: "localsubjectaccessreviews"}: true,
	{Group: "authorization.k8s.io", Resource: "selfsubjectaccessreviews"}:  true,
	{Group: "authorization.k8s.io", Resource: "selfsubjectrulesreviews"}:   true,
	{Group: "authorization.k8s.io", Resource: "subjectaccessreviews"}:      true,
}

// plan finds the hooks whose rules can match a request.
func (s *set) plan(a *objects.Attributes) *plan {
	if reviews[a.Kind.GroupResource()] {
		return nothing
	}
	hooks := &s.all
	if a.Kind.Group == admissionv1.GroupName {
		hooks = &s.static // a configuration that is an object must not keep itself from being changed
	}
	p := &plan{interfaces: &s.plans.interfaces}
	var o admission.ObjectInterfaces = p.interfaces
	attr, _ := attributes.Of(context.Background(), a)
	for _, h := range hooks.mutatingPolicies {
		if a.Operation != objects.OpDelete && policies.MayMatch(h.Policy.Spec.MatchConstraints, attr, o) {
			p.mutatingPolicies = append(p.mutatingPolicies, h)
		}
	}
	for _, h := range hooks.validatingPolicies {
		if policies.MayMatch(h.Policy.Spec.MatchConstraints, attr, o) {
			p.validatingPolicies = append(p.validatingPolicies, h)
		}
	}
	matching := func(hooks []*webhooks.Hook) (out []webhooks.Match) {
		for _, h := range hooks {
			if m, ok := webhooks.MatchOf(h, attr, o); ok {
				out = append(out, m)
			}
		}
		return out
	}
	p.mutatingWebhooks, p.validatingWebhooks = matching(hooks.mutatingWebhooks), matching(hooks.validatingWebhooks)
	return p
}

// kindOf returns the kind of a key of this group.
func kindOf(table *registry.Table, key string) (*registry.Kind, bool) {
	resource, _, _ := strings.Cut(strings.TrimPrefix(key, prefix), "/")
	return table.ByGroupResource(admissionv1.GroupName, resource)
}
