package authz

import (
	"context"
	"errors"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/auth"
)

// Authorizer is the cluster's authorizer. It is safe for concurrent use.
type Authorizer struct {
	Rules *Rules
	// Nodes is asked before Rules; nil is not asked.
	Nodes auth.Authorizer
}

var (
	_ authorizer.Authorizer = (*Authorizer)(nil)
	_ auth.Coarse           = (*Authorizer)(nil)
)

// Authorize implements authorizer.Authorizer.
func (z *Authorizer) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if auth.Privileged(a.GetUser()) || health(a) {
		return authorizer.DecisionAllow, "", nil
	}
	why, nodeErr := "", error(nil)
	if z.Nodes != nil {
		decision, reason, err := z.Nodes.Authorize(ctx, a)
		if decision != authorizer.DecisionNoOpinion {
			return decision, reason, err
		}
		why, nodeErr = reason, err
	}
	decision, reason, err := z.Rules.Authorize(ctx, a)
	if decision == authorizer.DecisionNoOpinion {
		if why != "" && reason != "" {
			why += "\n"
		}
		reason = why + reason
	}
	return decision, reason, errors.Join(nodeErr, err)
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
	if coarse, ok := z.Nodes.(auth.Coarse); ok {
		if may, _ := coarse.MayChange(ctx, u); may {
			return true, ""
		}
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
