package policies_test

import (
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"

	"github.com/kontiki/kontiki/api/extension/admission/policies"
)

// TestMayMatch: what the rules exclude costs no evaluation.
func TestMayMatch(t *testing.T) {
	exact := admissionv1.Exact
	rule := func(operation admissionv1.OperationType, resource string) *admissionv1.MatchResources {
		return &admissionv1.MatchResources{MatchPolicy: &exact, ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{operation}, Rule: admissionv1.Rule{APIGroups: []string{"apps"}, APIVersions: []string{"v1"}, Resources: []string{resource}}}}}}
	}
	update := admission.NewAttributesRecord(nil, nil, schema.GroupVersionKind{}, "ns", "a", schema.GroupVersionResource{Group: "apps", Version: "v1", Resource: "deployments"}, "",
		admission.Update, nil, false, nil)
	for _, c := range []struct {
		constraints *admissionv1.MatchResources
		want        bool
	}{
		{nil, true},
		{&admissionv1.MatchResources{}, true},
		{rule("*", "*"), true},
		{rule("UPDATE", "deployments"), true},
		{rule("CREATE", "deployments"), false},
		{rule("UPDATE", "daemonsets"), false},
		{rule("UPDATE", "deployments/status"), false},
	} {
		if got := policies.MayMatch(c.constraints, update, nil); got != c.want {
			t.Errorf("%+v: %v", c.constraints, got)
		}
	}
}
