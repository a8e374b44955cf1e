package policies

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"
)

// CompileValidating compiles a policy. What cannot be compiled is an error of each evaluation. It does what upstream's compilePolicy does.
func CompileValidating(policy *admissionv1.ValidatingAdmissionPolicy) validating.Validator {
	spec := &policy.Spec
	compiler, err := cel.NewCompositedCompiler(baseEnvironment())
	if err != nil {
		return validating.NewValidator(nil, nil, nil, nil, spec.FailurePolicy, err)
	}
	declared := cel.OptionalVariableDeclarations{HasParams: spec.ParamKind != nil, HasAuthorizer: true}
	messages := cel.OptionalVariableDeclarations{HasParams: spec.ParamKind != nil}
	compiler.CompileAndStoreVariables(variables(spec.Variables), declared, environment.StoredExpressions)
	conditions := matchConditions(compiler, spec.MatchConditions, declared, spec.FailurePolicy, policy.Name)
	checks := make([]cel.ExpressionAccessor, len(spec.Validations))
	var texts []cel.ExpressionAccessor // if there are none, nothing is evaluated for them
	for i, v := range spec.Validations {
		checks[i] = &validating.ValidationCondition{Expression: v.Expression, Message: v.Message, Reason: v.Reason}
		if v.MessageExpression != "" {
			if texts == nil {
				texts = make([]cel.ExpressionAccessor, len(spec.Validations))
			}
			texts[i] = &validating.MessageExpressionCondition{MessageExpression: v.MessageExpression}
		}
	}
	annotations := make([]cel.ExpressionAccessor, len(spec.AuditAnnotations))
	for i, a := range spec.AuditAnnotations {
		annotations[i] = &validating.AuditAnnotationCondition{Key: a.Key, ValueExpression: a.ValueExpression}
	}
	return validating.NewValidator(
		compiler.CompileCondition(checks, declared, environment.StoredExpressions),
		conditions,
		compiler.CompileCondition(annotations, declared, environment.StoredExpressions),
		compiler.CompileCondition(texts, messages, environment.StoredExpressions),
		spec.FailurePolicy, nil)
}

// CompileMutating compiles a policy. What cannot be compiled is an error of each evaluation. It does what upstream's compilePolicy does.
func CompileMutating(policy *admissionv1.MutatingAdmissionPolicy) mutating.PolicyEvaluator {
	spec := &policy.Spec
	compiler, err := cel.NewCompositedCompiler(baseEnvironment())
	if err != nil {
		return mutating.PolicyEvaluator{Error: err}
	}
	declared := cel.OptionalVariableDeclarations{HasParams: spec.ParamKind != nil, HasAuthorizer: true}
	compiler.CompileAndStoreVariables(variables(spec.Variables), declared, environment.StoredExpressions)
	conditions := matchConditions(compiler, spec.MatchConditions, declared, spec.FailurePolicy, policy.Name)
	declared.HasPatchTypes = true
	var patchers []patch.Patcher
	for _, m := range spec.Mutations {
		switch {
		case m.PatchType == admissionv1.PatchTypeJSONPatch && m.JSONPatch != nil:
			accessor := &patch.JSONPatchCondition{Expression: m.JSONPatch.Expression}
			patchers = append(patchers, patch.NewJSONPatcher(compiler.CompileMutatingEvaluator(accessor, declared, environment.StoredExpressions)))
		case m.PatchType == admissionv1.PatchTypeApplyConfiguration && m.ApplyConfiguration != nil:
			accessor := &patch.ApplyConfigurationCondition{Expression: m.ApplyConfiguration.Expression}
			patchers = append(patchers, patch.NewApplyConfigurationPatcher(compiler.CompileMutatingEvaluator(accessor, declared, environment.StoredExpressions)))
		}
	}
	return mutating.PolicyEvaluator{Matcher: conditions, Mutators: patchers, CompositedCompiler: compiler}
}

func variables(given []admissionv1.Variable) []cel.NamedExpressionAccessor {
	out := make([]cel.NamedExpressionAccessor, len(given))
	for i, v := range given {
		out[i] = &validating.Variable{Name: v.Name, Expression: v.Expression}
	}
	return out
}

// matchConditions returns the compiled conditions of a policy, nil if it has none.
func matchConditions(compiler *cel.CompositedCompiler, given []admissionv1.MatchCondition, declared cel.OptionalVariableDeclarations, failure *admissionv1.FailurePolicyType, policy string) matchconditions.Matcher {
	if len(given) == 0 {
		return nil
	}
	conditions := make([]cel.ExpressionAccessor, len(given))
	for i := range given {
		conditions[i] = (*matchconditions.MatchCondition)(&given[i])
	}
	return matchconditions.NewMatcher(compiler.CompileCondition(conditions, declared, environment.StoredExpressions), failure, "policy", "validate", policy)
}
