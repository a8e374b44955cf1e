// Package audit records who did what through the API: Kubernetes' audit events (audit.k8s.io/v1), selected by Kubernetes' audit
// policy, from both fronts. docs/audit.md describes the log.
//
// A nil *Auditor and a nil *Record record nothing, at no cost.
package audit

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/audit"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	"k8s.io/apiserver/pkg/apis/audit/validation"
	upstream "k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/audit/policy"
)

// Policy says which requests are recorded, and how much of them. It is safe for concurrent use.
type Policy = upstream.PolicyRuleEvaluator

// LoadPolicy reads a Policy of audit.k8s.io/v1. Errors name the file, the field, and what is expected there. Unlike upstream, which
// only warns about unknown fields, it refuses them: a misspelt field would make it record too much or too little.
func LoadPolicy(path string) (Policy, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	parsed, err := parsePolicy(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return policy.NewPolicyRuleEvaluator(parsed), nil
}

func parsePolicy(data []byte) (*audit.Policy, error) {
	wanted := auditv1.SchemeGroupVersion.WithKind("Policy")
	parsed := &audit.Policy{}
	_, kind, err := serializer.NewCodecFactory(upstream.Scheme, serializer.EnableStrict).UniversalDecoder().Decode(data, nil, parsed)
	switch {
	case runtime.IsMissingVersion(err), runtime.IsMissingKind(err), runtime.IsNotRegisteredError(err), kind != nil && *kind != wanted:
		return nil, fmt.Errorf("apiVersion, kind: must be %s and %s", wanted.GroupVersion(), wanted.Kind)
	case runtime.IsStrictDecodingError(err):
		strict, _ := runtime.AsStrictDecodingError(err)
		problems := make([]error, len(strict.Errors()))
		for i, problem := range strict.Errors() {
			problems[i] = fmt.Errorf("%w; see https://kubernetes.io/docs/reference/config-api/apiserver-audit.v1/ for the fields that exist", problem)
		}
		return nil, errors.Join(problems...)
	case err != nil:
		return nil, fmt.Errorf("is not a %s of %s: %w", wanted.Kind, wanted.GroupVersion(), err)
	}
	if len(parsed.Rules) == 0 {
		return nil, errors.New(`rules: must have at least one, such as {"level": "Metadata"}; without any nothing would be recorded`)
	}
	problems := validation.ValidatePolicy(parsed)
	levels := policy.AllLevels().List()
	slices.SortFunc(levels, func(a, b string) int {
		switch {
		case audit.Level(a).Less(audit.Level(b)):
			return -1
		case audit.Level(b).Less(audit.Level(a)):
			return 1
		}
		return 0
	})
	for _, problem := range problems {
		if problem.Type == field.ErrorTypeRequired && problem.Detail == "" {
			problem.Detail = "must be one of " + strings.Join(levels, ", ")
		}
	}
	if len(problems) > 0 {
		return nil, problems.ToAggregate()
	}
	return parsed, nil
}
