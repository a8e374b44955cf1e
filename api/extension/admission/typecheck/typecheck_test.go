package typecheck_test

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"

	"github.com/kontiki/kontiki/api/extension/admission/typecheck"
	"github.com/kontiki/kontiki/api/registry/builtin"
)

// TestCheck: an expression is checked against the kinds that the policy's rules name, and what no schema is known of is not.
func TestCheck(t *testing.T) {
	for _, c := range []struct{ group, resource, expression, warning string }{
		{"apps", "deployments", "object.spec.replicas > 1", ""},
		{"apps", "deployments", "object.spec.replicas == 'x'", "no matching overload"},
		{"apps", "deployments", "object.spec.nothing == 1", "undefined field 'nothing'"},
		{"", "configmaps", "object.data.all(k, k != 'x')", ""},
		{"example.com", "widgets", "object.spec.nothing == 1", ""},
	} {
		policy := &admissionv1.ValidatingAdmissionPolicy{Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{"*"}, Rule: admissionv1.Rule{APIGroups: []string{c.group}, APIVersions: []string{"v1"}, Resources: []string{c.resource}}}}}},
			Validations: []admissionv1.Validation{{Expression: c.expression}},
		}}
		got := typecheck.Check(builtin.Kinds(), policy)
		switch {
		case c.warning == "" && len(got) > 0:
			t.Errorf("%s of %s: %v", c.expression, c.resource, got)
		case c.warning != "" && (len(got) != 1 || !strings.Contains(got[0].Warning, c.warning) || got[0].FieldRef != "spec.validations[0].expression"):
			t.Errorf("%s of %s: %v, want %q", c.expression, c.resource, got, c.warning)
		}
	}
}
