package admission_test

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/test/harness"
)

// TestPoliciesReadOnlyWhatTheirAuthorsMayRead: a policy's parameters, and those of its bindings.
func TestPoliciesReadOnlyWhatTheirAuthorsMayRead(t *testing.T) {
	h := harness.New(t)
	ctx := t.Context()
	author := rbacv1.PolicyRule{Verbs: []string{"create", "update", "get"}, APIGroups: []string{admissionv1.GroupName}, Resources: []string{"*"}}
	reads := rbacv1.PolicyRule{Verbs: []string{"get", "list"}, APIGroups: []string{""}, Resources: []string{"configmaps"}}
	without, with := grantRules(t, h, "without", author), grantRules(t, h, "with", author, reads)
	exact := admissionv1.Exact
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		ParamKind:   &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"},
		Validations: []admissionv1.Validation{{Expression: "object.metadata.name != params.data.name"}},
		MatchConstraints: &admissionv1.MatchResources{MatchPolicy: &exact, ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Create},
			Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"secrets"}}}}}},
	}}
	_, err := without.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(ctx, policy, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `must have "get" permission on all objects of the referenced paramKind (kind=ConfigMap, apiVersion=v1)`) {
		t.Errorf("a policy of one who may not read its parameters: %v", err)
	}
	made, err := with.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(ctx, policy, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	made.Labels = map[string]string{"a": "b"}
	if _, err := without.AdmissionregistrationV1().ValidatingAdmissionPolicies().Update(ctx, made, metav1.UpdateOptions{}); err != nil {
		t.Errorf("the parameters do not change: %v", err)
	}
	deny := admissionv1.DenyAction
	binding := func(name, policy string, ref *admissionv1.ParamRef) *admissionv1.ValidatingAdmissionPolicyBinding {
		ref.ParameterNotFoundAction = &deny
		return &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: policy, ParamRef: ref, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}}}
	}
	for text, b := range map[string]*admissionv1.ValidatingAdmissionPolicyBinding{
		`does not have "get" permission on the object referenced by paramRef`: binding("one", "p", &admissionv1.ParamRef{Name: "c", Namespace: "default"}),
		`does not have "list" permission on the object referenced by paramRef`: binding("all", "p", &admissionv1.ParamRef{
			Namespace: "default", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "b"}}}),
		`unable to get policy none to determine minimum required permissions`: binding("none", "none", &admissionv1.ParamRef{Name: "c", Namespace: "default"}),
	} {
		_, err := without.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(ctx, b, metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", b.Name, err)
		}
		_, err = with.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(ctx, b, metav1.CreateOptions{})
		if b.Name != "none" && err != nil {
			t.Errorf("%s: %v", b.Name, err)
		}
		if b.Name == "none" && !apierrors.IsInvalid(err) {
			t.Errorf("parameters that are not known need the right to read everything: %v", err)
		}
	}
}
