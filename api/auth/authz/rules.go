package authz

import (
	"context"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	rbacv1helpers "k8s.io/kubernetes/pkg/apis/rbac/v1"
	"k8s.io/kubernetes/pkg/registry/rbac/validation"

	"github.com/kontiki/kontiki/api/auth"
)

var (
	_ auth.Authorizer                      = (*Rules)(nil)
	_ auth.Coarse                          = (*Rules)(nil)
	_ authorizer.RuleResolver              = ResolvedRules{}
	_ validation.AuthorizationRuleResolver = (*Rules)(nil)
)

// Authorize implements auth.Authorizer: it allows what a role that is bound to the user allows, and has no opinion about the rest.
func (r *Rules) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	asked := newQuestion(a)
	var by *grant
	var problems []error
	r.visit(a.GetUser(), a.GetNamespace(), func(g *grant, rules []rbacv1.PolicyRule, err error) bool {
		if err != nil {
			problems = append(problems, err)
		}
		if slices.ContainsFunc(rules, asked.allowedBy) {
			by = g
		}
		return by == nil
	})
	switch {
	case by != nil:
		return authorizer.DecisionAllow, by.reason, nil
	case len(problems) > 0:
		return authorizer.DecisionNoOpinion, fmt.Sprintf("RBAC: %v", utilerrors.NewAggregate(problems)), nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// question is a request that rules are compared with.
type question struct {
	authorizer.Attributes
	resource string // with the subresource
}

func newQuestion(a authorizer.Attributes) question {
	q := question{a, a.GetResource()}
	if sub := a.GetSubresource(); sub != "" {
		q.resource += "/" + sub
	}
	return q
}

func (q *question) allowedBy(rule rbacv1.PolicyRule) bool {
	if !rbacv1helpers.VerbMatches(&rule, q.GetVerb()) {
		return false
	}
	if !q.IsResourceRequest() {
		return rbacv1helpers.NonResourceURLMatches(&rule, q.GetPath())
	}
	return rbacv1helpers.APIGroupMatches(&rule, q.GetAPIGroup()) && rbacv1helpers.ResourceMatches(&rule, q.resource, q.GetSubresource()) &&
		rbacv1helpers.ResourceNameMatches(&rule, q.GetName())
}

// MayChange implements auth.Coarse: it says whether any role that is bound to the user anywhere allows more than reading.
func (r *Rules) MayChange(_ context.Context, u user.Info) (bool, string) {
	may := false
	r.visitAnywhere(u, func(rules []rbacv1.PolicyRule) bool {
		may = slices.ContainsFunc(rules, changes)
		return !may
	})
	return may, ""
}

// changes says whether a rule allows to change something. The reviews of these groups, which everybody may create of themselves, are not
// stored.
func changes(rule rbacv1.PolicyRule) bool {
	reviews := len(rule.APIGroups) > 0 && !slices.ContainsFunc(rule.APIGroups, func(group string) bool {
		return group != "authentication.k8s.io" && group != "authorization.k8s.io"
	})
	return !reviews && slices.ContainsFunc(rule.Verbs, func(verb string) bool { return verb != "get" && verb != "list" && verb != "watch" })
}

// VisitRulesFor calls visitor with each rule that applies to a user in a namespace ("" for the whole cluster), and with each error,
// until visitor returns false. visitor must not use the Rules.
func (r *Rules) VisitRulesFor(_ context.Context, u user.Info, namespace string, visitor func(source fmt.Stringer, rule *rbacv1.PolicyRule, err error) bool) {
	var seen []*binding
	r.visit(u, namespace, func(g *grant, rules []rbacv1.PolicyRule, err error) bool {
		if slices.Contains(seen, g.binding) { // it is bound to the user twice
			return true
		}
		seen = append(seen, g.binding)
		if err != nil {
			return visitor(nil, nil, err)
		}
		for i := range rules {
			if !visitor(g, &rules[i], nil) {
				return false
			}
		}
		return true
	})
}

// RulesFor returns the rules that apply to a user in a namespace. With an error, they are those that could be found.
func (r *Rules) RulesFor(ctx context.Context, u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	var out []rbacv1.PolicyRule
	var problems []error
	r.VisitRulesFor(ctx, u, namespace, func(_ fmt.Stringer, rule *rbacv1.PolicyRule, err error) bool {
		if rule != nil {
			out = append(out, *rule)
		}
		if err != nil {
			problems = append(problems, err)
		}
		return true
	})
	return out, utilerrors.NewAggregate(problems)
}

// GetRoleReferenceRules returns the rules of the role that a binding in a namespace refers to ("" for a ClusterRoleBinding).
func (r *Rules) GetRoleReferenceRules(_ context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	r.catchUp()
	r.mu.RLock()
	defer r.mu.RUnlock()
	resource := "clusterroles"
	switch ref.Kind {
	case "ClusterRole":
		namespace = ""
	case "Role":
		resource = "roles"
	default:
		return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
	}
	found := r.roles[roleKey{namespace, ref.Name}]
	if found == nil || ref.Kind == "Role" && namespace == "" {
		return nil, apierrors.NewNotFound(rbacv1.Resource(resource), ref.Name)
	}
	return found.rules, found.err
}

// ResolvedRules lists the rules that apply to a user, for SelfSubjectRulesReview.
type ResolvedRules struct{ *Rules }

// RulesFor implements authorizer.RuleResolver.
func (r ResolvedRules) RulesFor(ctx context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	rules, err := r.Rules.RulesFor(ctx, u, namespace)
	for _, rule := range rules {
		if len(rule.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{
				Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames})
		}
		if len(rule.NonResourceURLs) > 0 {
			paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
		}
	}
	return resources, paths, false, err
}
