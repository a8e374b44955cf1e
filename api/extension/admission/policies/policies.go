// Package policies applies ValidatingAdmissionPolicies and MutatingAdmissionPolicies. Their evaluation is upstream's
// (k8s.io/apiserver/pkg/admission/plugin/policy); this package compiles the stored objects, and gives it the namespaces and parameters of the
// state that a write is prepared against.
package policies

import (
	"context"
	"fmt"
	"slices"
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/policy/generic"
	"k8s.io/apiserver/pkg/admission/plugin/policy/matching"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/predicates/rules"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/kontiki/kontiki/api/extension/admission/attributes"
	"github.com/kontiki/kontiki/api/objects"
)

// baseEnvironment is that of all expressions. It is made when the first policy is compiled.
var baseEnvironment = sync.OnceValue(func() *environment.EnvSet {
	return environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())
})

// Validate evaluates validating policies for a request.
func Validate(ctx context.Context, by authorizer.UnconditionalAuthorizer, attr *attributes.Attributes, o admission.ObjectInterfaces, hooks []validating.PolicyHook) error {
	hooks = withParameters(attr.Request(), hooks, func(h *validating.PolicyHook) *admissionv1.ParamKind { return h.Policy.Spec.ParamKind })
	return validating.NewDispatcher(by, generic.NewPolicyMatcher(matcher(attr))).Dispatch(ctx, attr, o, hooks)
}

// Converters have the structure of the fields of kinds, for apply configurations.
type Converters interface {
	GetTypeConverter(gvk schema.GroupVersionKind) managedfields.TypeConverter
}

// Mutate evaluates mutating policies for a request and applies their patches.
func Mutate(ctx context.Context, by authorizer.UnconditionalAuthorizer, attr *attributes.Attributes, o admission.ObjectInterfaces, fields Converters, hooks []mutating.PolicyHook) error {
	hooks = withParameters(attr.Request(), hooks, func(h *mutating.PolicyHook) *admissionv1.ParamKind { return h.Policy.Spec.ParamKind })
	return mutating.NewDispatcher(by, matcher(attr), converters{fields}).Dispatch(ctx, attr, o, hooks)
}

// converters are Converters that need not be kept up to date.
type converters struct{ Converters }

func (converters) Run(context.Context) {}

func matcher(attr *attributes.Attributes) *matching.Matcher {
	return matching.NewMatcher(attributes.Namespaces{Request: attr.Request()}, attributes.NoClient{})
}

// withParameters returns hooks whose parameters are those of the state that a request is prepared against.
func withParameters[P runtime.Object, B runtime.Object, E any](a *objects.Attributes, hooks []generic.PolicyHook[P, B, E], kindOf func(*generic.PolicyHook[P, B, E]) *admissionv1.ParamKind) []generic.PolicyHook[P, B, E] {
	with := func(h *generic.PolicyHook[P, B, E]) bool { return kindOf(h) != nil }
	if !slices.ContainsFunc(hooks, func(h generic.PolicyHook[P, B, E]) bool { return with(&h) }) {
		return hooks
	}
	hooks = slices.Clone(hooks)
	for i := range hooks {
		h := &hooks[i]
		kind := kindOf(h)
		if kind == nil {
			continue
		}
		parameters, scope, err := attributes.ParametersOf(a, kind.APIVersion, kind.Kind)
		if err != nil {
			h.ConfigurationError = fmt.Errorf("failed to find resource referenced by paramKind: '%v'", schema.FromAPIVersionAndKind(kind.APIVersion, kind.Kind))
			continue
		}
		h.ParamInformer, h.ParamScope = parameters, scope
	}
	return hooks
}

// MayMatch says whether a policy's rules match a request, but for the names of objects. It depends on nothing but the resource, subresource and
// operation, and on whether the request has a namespace.
func MayMatch(constraints *admissionv1.MatchResources, attr admission.Attributes, o admission.ObjectInterfaces) bool {
	if constraints == nil || len(constraints.ResourceRules) == 0 {
		return true // without constraints, the policy is refused as such
	}
	matches := func(as admission.Attributes) bool {
		return slices.ContainsFunc(constraints.ResourceRules, func(rule admissionv1.NamedRuleWithOperations) bool {
			matcher := rules.Matcher{Rule: rule.RuleWithOperations, Attr: as}
			return matcher.Matches()
		})
	}
	if matches(attr) {
		return true
	}
	if policy := constraints.MatchPolicy; policy == nil || *policy == admissionv1.Exact {
		return false
	}
	equivalents := o.GetEquivalentResourceMapper().EquivalentResourcesFor(attr.GetResource(), attr.GetSubresource())
	return slices.ContainsFunc(equivalents, func(resource schema.GroupVersionResource) bool { return matches(other{attr, resource}) })
}

// other is a request for another version of its resource.
type other struct {
	admission.Attributes
	resource schema.GroupVersionResource
}

func (o other) GetResource() schema.GroupVersionResource { return o.resource }
