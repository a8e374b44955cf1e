package authz

import (
	"context"
	"strings"

	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/auth"
)

// Authorizer is the cluster's authorizer. It is safe for concurrent use.
type Authorizer struct {
	Rules *Rules
	Nodes *Nodes
}

// New returns the authorizer. Rules.Decode and Nodes.Client must be set before the first use.
func New(rules *Rules) *Authorizer { return &Authorizer{Rules: rules, Nodes: NewNodes()} }

var (
	_ authorizer.Authorizer   = (*Authorizer)(nil)
	_ authorizer.RuleResolver = (*Authorizer)(nil)
	_ auth.Coarse             = (*Authorizer)(nil)
)

// Authorize implements authorizer.Authorizer.
func (z *Authorizer) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if auth.Privileged(a.GetUser()) || health(a) {
		return authorizer.DecisionAllow, "", nil
	}
	decision, why, err := z.Nodes.Authorize(ctx, a)
	if decision != authorizer.DecisionNoOpinion {
		return decision, why, err
	}
	decision, reason, err := z.Rules.Authorize(ctx, a)
	if decision == authorizer.DecisionNoOpinion && why != "" {
		reason = strings.TrimSuffix(why+"\n"+reason, "\n")
	}
	return decision, reason, err
}

// RulesFor implements authorizer.RuleResolver.
func (z *Authorizer) RulesFor(ctx context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	_, _, incomplete, nodeErr := z.Nodes.RulesFor(ctx, u, namespace)
	resources, paths, _, err := ResolvedRules{z.Rules}.RulesFor(ctx, u, namespace)
	return resources, paths, incomplete, utilerrors.NewAggregate([]error{nodeErr, err})
}

// health says whether a request asks whether this master is alive or ready. Everyone may, as in upstream's
// system:public-info-viewer; but also before there are any roles, because that is what makes a master not ready.
func health(a authorizer.Attributes) bool {
	if a.IsResourceRequest() || a.GetVerb() != "get" {
		return false
	}
	switch a.GetPath() {
	case "/healthz", "/livez", "/readyz":
		return true
	}
	return false
}

// MayChange implements auth.Coarse.
func (z *Authorizer) MayChange(ctx context.Context, u user.Info) (bool, string) {
	if auth.Privileged(u) {
		return true, ""
	}
	if may, _ := z.Nodes.MayChange(ctx, u); may {
		return true, ""
	}
	return z.Rules.MayChange(ctx, u)
}

// ConditionsAwareAuthorize implements authorizer.Authorizer: no decision has conditions.
func (z *Authorizer) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(z.Authorize(ctx, a))
}

// EvaluateConditions implements authorizer.Authorizer.
func (z *Authorizer) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}
