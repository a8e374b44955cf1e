// Package webhooks calls the webhooks of admission: it matches requests, sends AdmissionReviews (admission.k8s.io/v1 and v1beta1), applies
// patches and failure policies, with upstream's messages, audit annotations and metrics (k8s.io/apiserver/pkg/admission/plugin/webhook).
//
// A webhook with failure policy Ignore that does not answer in time is not asked again for a while: see circuit.
package webhooks

import (
	"context"
	"fmt"
	"sync"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	admissionmetrics "k8s.io/apiserver/pkg/admission/metrics"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	upstream "k8s.io/apiserver/pkg/admission/plugin/webhook"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/generic"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/predicates/namespace"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/predicates/object"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/predicates/rules"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/kontiki/kontiki/api/extension/admission/attributes"
	"github.com/kontiki/kontiki/api/extension/webhook"
)

// Hook is a webhook of a configuration. It is safe for concurrent use.
type Hook struct {
	upstream.WebhookAccessor
	mutating   *admissionv1.MutatingWebhook // nil for a validating one
	connection func() (*webhook.Client, error)
	circuit    circuit
}

// Calls is how webhooks are reached.
type Calls struct {
	Pods webhook.Pods
	// Local permits addresses of this host. It is for tests.
	Local bool
	// MutatingCredentials and ValidatingCredentials are by what masters identify themselves to webhooks; nil means by nothing.
	MutatingCredentials, ValidatingCredentials webhook.Credentials
	// Authorizer answers the match conditions that ask it.
	Authorizer authorizer.UnconditionalAuthorizer
}

// Mutating returns the webhooks of a configuration, in order.
func Mutating(config *admissionv1.MutatingWebhookConfiguration, c Calls) (hooks []*Hook) {
	id := ids(config.Name)
	for i := range config.Webhooks {
		w := &config.Webhooks[i]
		hooks = append(hooks, Of(upstream.NewMutatingWebhookAccessor(id(w.Name), config.Name, w), c))
	}
	return hooks
}

// Validating returns the webhooks of a configuration, in order.
func Validating(config *admissionv1.ValidatingWebhookConfiguration, c Calls) (hooks []*Hook) {
	id := ids(config.Name)
	for i := range config.Webhooks {
		w := &config.Webhooks[i]
		hooks = append(hooks, Of(upstream.NewValidatingWebhookAccessor(id(w.Name), config.Name, w), c))
	}
	return hooks
}

// ids returns a function that returns an id for each webhook of a configuration, several of which may have one name.
func ids(configuration string) func(name string) string {
	names := map[string]int{}
	return func(name string) string {
		n := names[name]
		names[name]++
		return fmt.Sprintf("%s/%s/%d", configuration, name, n)
	}
}

// Of returns the hook of a webhook that upstream's packages describe.
func Of(accessor upstream.WebhookAccessor, c Calls) *Hook {
	h := &Hook{WebhookAccessor: accessor}
	h.mutating, _ = accessor.GetMutatingWebhook()
	h.connection = sync.OnceValues(func() (*webhook.Client, error) {
		target, err := targetOf(accessor.GetClientConfig())
		if err != nil {
			return nil, err
		}
		if target.Credentials = c.ValidatingCredentials; h.mutating != nil {
			target.Credentials = c.MutatingCredentials
		}
		return webhook.New(target, c.Pods, c.Local)
	})
	return h
}

// targetOf returns what a webhook's configuration refers to.
func targetOf(config admissionv1.WebhookClientConfig) (webhook.Target, error) {
	target := webhook.Target{CABundle: config.CABundle}
	switch s := config.Service; {
	case config.URL != nil:
		target.URL = *config.URL
	case s != nil:
		target.Service = &webhook.Service{Namespace: s.Namespace, Name: s.Name, Port: 443}
		if s.Path != nil {
			target.Service.Path = *s.Path
		}
		if s.Port != nil {
			target.Service.Port = *s.Port
		}
	default:
		return target, fmt.Errorf("the webhook has neither a URL nor a service")
	}
	return target, nil
}

// Close closes connections that are not used.
func (h *Hook) Close() {
	if client, err := h.connection(); err == nil {
		client.Close()
	}
}

// ignores says whether a failure to call the webhook admits the request.
func (h *Hook) ignores() bool {
	policy := h.GetFailurePolicy()
	return policy != nil && *policy == admissionv1.Ignore
}

// kind is what upstream's metrics call the webhook's kind.
func (h *Hook) kind() string {
	if h.mutating != nil {
		return "admit"
	}
	return "validating"
}

// Match is a webhook whose rules match a request, and the version of the request's resource that they name.
type Match struct {
	Hook     *Hook
	Resource schema.GroupVersionResource
	Kind     schema.GroupVersionKind
}

// MatchOf says whether a webhook's rules match a request. It depends on nothing but the resource, subresource and operation, and on whether
// the request has a namespace.
func MatchOf(h *Hook, attr admission.Attributes, o admission.ObjectInterfaces) (m Match, ok bool) {
	for _, rule := range h.GetRules() {
		if matcher := (rules.Matcher{Rule: rule, Attr: attr}); matcher.Matches() {
			return Match{h, attr.GetResource(), attr.GetKind()}, true
		}
	}
	if policy := h.GetMatchPolicy(); policy == nil || *policy != admissionv1.Equivalent {
		return m, false
	}
	equivalents := o.GetEquivalentResourceMapper().EquivalentResourcesFor(attr.GetResource(), attr.GetSubresource())
	for _, rule := range h.GetRules() {
		for _, equivalent := range equivalents {
			if equivalent == attr.GetResource() {
				continue
			}
			if matcher := (rules.Matcher{Rule: rule, Attr: other{attr, equivalent}}); matcher.Matches() {
				return Match{h, equivalent, o.GetEquivalentResourceMapper().KindFor(equivalent, attr.GetSubresource())}, true
			}
		}
	}
	return m, false
}

// other is a request for another version of its resource.
type other struct {
	admission.Attributes
	resource schema.GroupVersionResource
}

func (o other) GetResource() schema.GroupVersionResource { return o.resource }

var conditions = sync.OnceValue(func() cel.ConditionCompiler {
	return cel.NewConditionCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
})

// invocation returns the call that a webhook is to get for a request which its rules match, nil if its selectors or conditions do not. The
// checks and their order are those of upstream's generic.Webhook.ShouldCallHook.
func (m Match) invocation(ctx context.Context, c Calls, attr *attributes.Attributes, now admission.Attributes, version func(schema.GroupVersionKind) (*admission.VersionedAttributes, error)) (*generic.WebhookInvocation, error) {
	namespaces := namespace.Matcher{NamespaceLister: attributes.Namespaces{Request: attr.Request()}, Client: attributes.NoClient{}}
	matches, problem := namespaces.MatchNamespaceSelector(m.Hook, now)
	if !matches && problem == nil {
		return nil, nil
	}
	objects := object.Matcher{}
	matches, objectProblem := objects.MatchObjectSelector(m.Hook, now)
	switch {
	case !matches && objectProblem == nil:
		return nil, nil
	case problem != nil:
		return nil, problem
	case objectProblem != nil:
		return nil, objectProblem
	}
	if len(m.Hook.GetMatchConditions()) > 0 {
		versioned, err := version(m.Kind)
		if err != nil {
			return nil, apierrors.NewInternalError(err)
		}
		result := m.Hook.GetCompiledMatcher(conditions()).Match(ctx, versioned, nil, c.Authorizer)
		if result.Error != nil {
			return nil, apierrors.NewForbidden(attr.GetResource().GroupResource(), attr.GetName(), result.Error)
		}
		if !result.Matches {
			admissionmetrics.Metrics.ObserveMatchConditionExclusion(ctx, m.Hook.GetName(), "webhook", m.Hook.GetType(), string(attr.GetOperation()))
			return nil, nil
		}
	}
	return &generic.WebhookInvocation{Webhook: m.Hook, Resource: m.Resource, Subresource: attr.GetSubresource(), Kind: m.Kind}, nil
}
