package authn

import (
	"context"
	"errors"
	"fmt"

	celgo "github.com/google/cel-go/cel"
	"github.com/google/cel-go/common/types"
	"github.com/google/cel-go/common/types/ref"
	"github.com/google/cel-go/common/types/traits"
	authenticationcel "k8s.io/apiserver/pkg/authentication/cel"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/lazy"
)

// claimValues returns claims as the variable `claims` of CEL expressions.
func claimValues(claims map[string]any) *lazy.MapValue {
	values := lazy.NewMapValue(types.NewObjectType("kubernetes.claims"))
	for name, value := range claims {
		values.Append(name, func(*lazy.MapValue) ref.Val { return escapable(types.DefaultTypeAdapter.NativeToValue(value)) })
	}
	return values
}

// userValues returns a user as the variable `user` of CEL expressions.
func userValues(info user.Info) *lazy.MapValue {
	values := lazy.NewMapValue(types.NewObjectType("kubernetes.UserInfo"))
	for name, value := range map[string]any{
		"username": info.GetName(), "uid": info.GetUID(), "groups": info.GetGroups(), "extra": info.GetExtra(),
	} {
		values.Append(name, func(*lazy.MapValue) ref.Val { return escapable(types.DefaultTypeAdapter.NativeToValue(value)) })
	}
	return values
}

// escapable makes keys that CEL cannot have as field names accessible under their escaped ones, such as a__dot__b for a.b, in maps at
// any depth.
func escapable(value ref.Val) ref.Val {
	switch value := value.(type) {
	case traits.Mapper:
		return &escapableMap{value}
	case traits.Lister:
		return &escapableList{value}
	}
	return value
}

type escapableMap struct{ traits.Mapper }

// Find implements traits.Mapper.
func (m *escapableMap) Find(key ref.Val) (ref.Val, bool) {
	if escaped, ok := key.(types.String); ok {
		if name, ok := cel.Unescape(string(escaped)); ok {
			key = types.String(name)
		}
	}
	value, found := m.Mapper.Find(key)
	return escapable(value), found
}

type escapableList struct{ traits.Lister }

// Get implements traits.Lister.
func (l *escapableList) Get(index ref.Val) ref.Val { return escapable(l.Lister.Get(index)) }

// evaluateText evaluates an expression that must return a string.
func evaluateText(ctx context.Context, rule authenticationcel.ClaimsMapper, values *lazy.MapValue, what string) (string, error) {
	result, err := rule.EvalClaimMapping(ctx, values)
	if err != nil {
		return "", fmt.Errorf("oidc: error evaluating %s claim expression: %w", what, err)
	}
	s, ok := result.EvalResult.Value().(string)
	if !ok || result.EvalResult.Type() != celgo.StringType {
		return "", fmt.Errorf("oidc: error evaluating %s claim expression: %s claim expression must return a string", what, what)
	}
	return s, nil
}

// texts returns the value of an expression that must be a string, a list of strings or null, without the empty strings.
func texts(value ref.Val) ([]string, error) {
	wrong := errors.New("expression must return a string or a list of strings")
	switch value := value.(type) {
	case types.Null:
		return nil, nil
	case types.String:
		if value == "" {
			return nil, nil
		}
		return []string{string(value)}, nil
	case traits.Lister:
		var out []string
		for it := value.Iterator(); it.HasNext() == types.True; {
			element, ok := it.Next().(types.String)
			if !ok {
				return nil, wrong
			}
			if element != "" {
				out = append(out, string(element))
			}
		}
		return out, nil
	}
	return nil, wrong
}

// allTrue returns an error with the message of the first rule that is not fulfilled.
func allTrue(results []authenticationcel.EvaluationResult, message func(authenticationcel.ExpressionAccessor) string) error {
	for _, result := range results {
		fulfilled, ok := result.EvalResult.(types.Bool)
		if !ok {
			return errors.New("validation expression must return a boolean")
		}
		if !fulfilled {
			return fmt.Errorf("validation expression '%s' failed: %s", result.ExpressionAccessor.GetExpression(), message(result.ExpressionAccessor))
		}
	}
	return nil
}
