package objects

import (
	"context"
	"errors"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/kubernetes/pkg/registry/rbac"
	"k8s.io/kubernetes/pkg/registry/rbac/validation"

	"github.com/kontiki/kontiki/api/auth"
)

// everything are the rules that an aggregation rule may gather.
var everything = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

// checkEscalation refuses a role that allows more than its writer may do, unless the writer has the verb "escalate" for it, and a
// binding of a role that does, unless the writer has the verb "bind" for that role. It runs after mutating admission, as upstream,
// whose rules and words these are. ctx is the request's.
func (s *Service) checkEscalation(ctx context.Context, a *Attributes) error {
	if a.Trusted || a.Kind.Group != rbacv1.GroupName || auth.Privileged(a.User) {
		return nil
	}
	if a.Old != nil && rbac.IsOnlyMutatingGCFields(a.Object, a.Old, apiequality.Semantic) {
		return nil
	}
	switch obj := a.Object.(type) {
	case *rbacv1.Role:
		return s.checkRole(ctx, a, obj.Rules, false)
	case *rbacv1.ClusterRole:
		aggregates := hasAggregationRule(obj)
		if old, ok := a.Old.(*rbacv1.ClusterRole); ok {
			aggregates = aggregates || hasAggregationRule(old)
		}
		return s.checkRole(ctx, a, obj.Rules, aggregates)
	case *rbacv1.RoleBinding:
		return s.checkBinding(ctx, a, obj.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		return s.checkBinding(ctx, a, obj.RoleRef)
	}
	return nil
}

func hasAggregationRule(role *rbacv1.ClusterRole) bool {
	return role.AggregationRule != nil && len(role.AggregationRule.ClusterRoleSelectors) > 0
}

func (s *Service) checkRole(ctx context.Context, a *Attributes, rules []rbacv1.PolicyRule, aggregates bool) error {
	escalate := a.Attributes("escalate")
	escalate.APIVersion = "*"
	if info, ok := genericapirequest.RequestInfoFrom(ctx); ok {
		escalate.Name = info.Name // a creation has none
	}
	if s.allows(ctx, escalate) {
		return nil
	}
	if err := validation.ConfirmNoEscalation(ctx, s.rules, rules); err != nil {
		return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, err)
	}
	if aggregates {
		if err := validation.ConfirmNoEscalation(ctx, s.rules, everything); err != nil {
			return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, errors.New("must have cluster-admin privileges to use the aggregationRule"))
		}
	}
	return nil
}

func (s *Service) checkBinding(ctx context.Context, a *Attributes, ref rbacv1.RoleRef) error {
	resources := map[string]string{"ClusterRole": "clusterroles", "Role": "roles"}
	bind := &authorizer.AttributesRecord{
		User: a.User, Verb: "bind", Namespace: a.Namespace, APIGroup: ref.APIGroup, APIVersion: "*", Resource: resources[ref.Kind], Name: ref.Name, ResourceRequest: true,
	}
	if bind.Resource != "" && s.allows(ctx, bind) {
		return nil
	}
	rules, err := rulesOfRole(a, ref)
	if err != nil {
		return err
	}
	if err := validation.ConfirmNoEscalation(ctx, s.rules, rules); err != nil {
		return apierrors.NewForbidden(a.Kind.GroupResource(), a.Name, err)
	}
	return nil
}

func (s *Service) allows(ctx context.Context, a *authorizer.AttributesRecord) bool {
	decision, _, _ := s.authorizer.Authorize(ctx, a) // an error is no permission
	return decision == authorizer.DecisionAllow
}

// rulesOfRole returns the rules of the role that a binding refers to, in the state that the write is prepared against: within a
// transaction, the role may be one of its operations.
func rulesOfRole(a *Attributes, ref rbacv1.RoleRef) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	found := false
	switch ref.Kind {
	case "ClusterRole":
		role, ok, err := Stored[*rbacv1.ClusterRole](a, "", ref.Name)
		if err != nil {
			return nil, err
		}
		if found = ok; ok {
			rules = role.Rules
		}
	case "Role":
		role, ok, err := Stored[*rbacv1.Role](a, a.Namespace, ref.Name)
		if err != nil {
			return nil, err
		}
		if found = ok; ok {
			rules = role.Rules
		}
	default:
		return nil, apierrors.NewBadRequest("unsupported role reference kind: \"" + ref.Kind + "\"")
	}
	if !found {
		resources := map[string]string{"ClusterRole": "clusterroles", "Role": "roles"}
		return nil, apierrors.NewNotFound(rbacv1.Resource(resources[ref.Kind]), ref.Name)
	}
	return slices.Clone(rules), nil
}
