package authn

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apiserver/pkg/apis/apiserver"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel/lazy"
)

// user returns whom verified claims stand for, by the issuer's mappings and rules.
func (i *issuer) user(ctx context.Context, claims map[string]any) (user.Info, error) {
	values := claimValues(claims)
	mappings := i.config.ClaimMappings
	info := &user.DefaultInfo{}
	var err error
	if info.Name, err = i.name(ctx, claims, values); err != nil {
		return nil, err
	}
	if info.Groups, err = i.groups(ctx, claims, values); err != nil {
		return nil, err
	}
	switch {
	case mappings.UID.Claim != "":
		if info.UID, err = text(claims, mappings.UID.Claim); err != nil {
			return nil, fmt.Errorf("oidc: parse uid claim %q: %w", mappings.UID.Claim, err)
		}
	case i.rules.UID != nil:
		if info.UID, err = evaluateText(ctx, i.rules.UID, values, "uid"); err != nil {
			return nil, err
		}
	}
	if info.Extra, err = i.extra(ctx, claims, values); err != nil {
		return nil, err
	}
	if err := i.checkClaims(ctx, claims, values); err != nil {
		return nil, err
	}
	if i.rules.UserValidationRules != nil {
		results, err := i.rules.UserValidationRules.EvalUser(ctx, userValues(info))
		if err == nil {
			err = allTrue(results, func(a authenticationcel.ExpressionAccessor) string {
				rule, _ := a.(*authenticationcel.UserValidationCondition)
				return rule.Message
			})
		}
		if err != nil {
			return nil, fmt.Errorf("oidc: error evaluating user info validation rule: %w", err)
		}
	}
	return info, nil
}

func (i *issuer) name(ctx context.Context, claims map[string]any, values *lazy.MapValue) (string, error) {
	if i.rules.Username != nil {
		name, err := evaluateText(ctx, i.rules.Username, values, "username")
		if err == nil && name == "" {
			err = errors.New("oidc: empty username via CEL expression is not allowed")
		}
		return name, err
	}
	mapping := i.config.ClaimMappings.Username
	name, err := text(claims, mapping.Claim)
	if err == nil && name == "" {
		err = errors.New("empty usernames are not allowed")
	}
	if err != nil {
		return "", fmt.Errorf("oidc: parse username claims %q: %w", mapping.Claim, err)
	}
	if verified, present := claims["email_verified"]; present && mapping.Claim == "email" {
		switch isVerified, ok := verified.(bool); {
		case !ok:
			return "", errors.New("oidc: parse 'email_verified' claim: it is not a boolean")
		case !isVerified:
			return "", errors.New("oidc: email not verified")
		}
	}
	return prefixed(mapping, name), nil
}

func (i *issuer) groups(ctx context.Context, claims map[string]any, values *lazy.MapValue) ([]string, error) {
	if i.rules.Groups != nil {
		result, err := i.rules.Groups.EvalClaimMapping(ctx, values)
		if err != nil {
			return nil, fmt.Errorf("oidc: error evaluating group claim expression: %w", err)
		}
		groups, err := texts(result.EvalResult)
		if err != nil {
			return nil, fmt.Errorf("oidc: error evaluating group claim expression: %w", err)
		}
		return groups, nil
	}
	mapping := i.config.ClaimMappings.Groups
	value, present := claims[mapping.Claim]
	if mapping.Claim == "" {
		return nil, nil
	}
	if !present {
		if names, _ := claims["_claim_names"].(map[string]any); names[mapping.Claim] != nil {
			// The groups would have to be fetched from a URL in the token.
			return nil, fmt.Errorf("oidc: could not expand distributed claims: claim %q is distributed, which this API server does not support", mapping.Claim)
		}
		return nil, nil
	}
	var groups []string
	switch value := value.(type) {
	case nil:
	case string: // some issuers have one role, not a list of groups
		groups = []string{prefixed(mapping, value)}
	case []any:
		for _, element := range value {
			group, ok := element.(string)
			if !ok {
				return nil, fmt.Errorf("oidc: parse groups claim %q: it must be a string or a list of strings", mapping.Claim)
			}
			groups = append(groups, prefixed(mapping, group))
		}
	default:
		return nil, fmt.Errorf("oidc: parse groups claim %q: it must be a string or a list of strings", mapping.Claim)
	}
	return groups, nil
}

func (i *issuer) extra(ctx context.Context, claims map[string]any, values *lazy.MapValue) (map[string][]string, error) {
	extra := map[string][]string{}
	if id, _ := claims["jti"].(string); id != "" {
		extra[user.CredentialIDKey] = []string{"JTI=" + id}
	}
	if i.rules.Extra != nil {
		results, err := i.rules.Extra.EvalClaimMappings(ctx, values)
		if err != nil {
			return nil, fmt.Errorf("oidc: error evaluating extra claim expression: %w", err)
		}
		for _, result := range results {
			mapping, ok := result.ExpressionAccessor.(*authenticationcel.ExtraMappingExpression)
			if !ok {
				return nil, fmt.Errorf("oidc: error evaluating extra claim expression: %T is not one", result.ExpressionAccessor)
			}
			list, err := texts(result.EvalResult)
			if err != nil {
				return nil, fmt.Errorf("oidc: error evaluating extra claim expression: %s: %w", mapping.Expression, err)
			}
			if len(list) > 0 {
				extra[mapping.Key] = list
			}
		}
	}
	if len(extra) == 0 {
		return nil, nil
	}
	return extra, nil
}

// checkClaims checks that the claims fulfill the issuer's rules.
func (i *issuer) checkClaims(ctx context.Context, claims map[string]any, values *lazy.MapValue) error {
	for _, rule := range i.config.ClaimValidationRules {
		if rule.Claim == "" {
			continue
		}
		if _, present := claims[rule.Claim]; !present {
			return fmt.Errorf("oidc: required claim %s not present in ID token", rule.Claim)
		}
		value, err := text(claims, rule.Claim)
		if err != nil {
			return fmt.Errorf("oidc: parse claim %s: %w", rule.Claim, err)
		}
		if value != rule.RequiredValue {
			return fmt.Errorf("oidc: required claim %s value does not match. Got = %s, want = %s", rule.Claim, value, rule.RequiredValue)
		}
	}
	if i.rules.ClaimValidationRules == nil {
		return nil
	}
	results, err := i.rules.ClaimValidationRules.EvalClaimMappings(ctx, values)
	if err == nil {
		err = allTrue(results, func(a authenticationcel.ExpressionAccessor) string {
			rule, _ := a.(*authenticationcel.ClaimValidationCondition)
			return rule.Message
		})
	}
	if err != nil {
		return fmt.Errorf("oidc: error evaluating claim validation expression: %w", err)
	}
	return nil
}

func prefixed(mapping apiserver.PrefixedClaimOrExpression, value string) string {
	if mapping.Prefix != nil {
		return *mapping.Prefix + value
	}
	return value
}

// text returns a claim that must be a string.
func text(claims map[string]any, name string) (string, error) {
	value, present := claims[name]
	if !present {
		return "", errors.New("claim not present")
	}
	s, ok := value.(string)
	if !ok {
		return "", fmt.Errorf("it is a %T, not a string", value)
	}
	return s, nil
}
