package admissionpolicy_test

import (
	"context"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/kontiki/kontiki/api/extension/admission/typecheck"
	"github.com/kontiki/kontiki/controller/admissionpolicy"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/test/harness"
)

const definition = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  names: {kind: Widget, plural: widgets}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {size: {type: integer}}}}}}
`

// TestTypesAreChecked: a policy's status says which fields its expressions use wrongly, of built-in and custom kinds, and again when it changes.
func TestTypesAreChecked(t *testing.T) {
	h := harness.New(t)
	h.Serve()
	c, err := dynamic.NewForConfig(h.Config("admin", "system:masters"))
	if err != nil {
		t.Fatal(err)
	}
	crd := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(definition), &crd.Object); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}).Create(context.Background(), crd, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Run(t, h.Client, admissionpolicy.New(h.Client, func(policy *admissionv1.ValidatingAdmissionPolicy) []admissionv1.ExpressionWarning {
		return typecheck.Check(h.Catalog.Table(), policy)
	}))
	for _, x := range []struct {
		name, group, resource, right, wrong, says string
	}{
		{"builtin", "apps", "deployments", "object.spec.replicas > 1 && object.metadata.labels.app == 'x'", "object.spec.replicas > 'x'", "no matching overload"},
		{"missing", "apps", "deployments", "object.spec.template.spec.containers.all(c, c.image != '')", "object.spec.missing == 1", "undefined field 'missing'"},
		{"custom", "example.com", "widgets", "object.spec.size > 1 && object.metadata.name != ''", "object.spec.weight > 1", "undefined field 'weight'"},
	} {
		policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: x.name}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create}, Rule: admissionv1.Rule{APIGroups: []string{x.group}, APIVersions: []string{"v1"}, Resources: []string{x.resource}}}}}},
			Validations: []admissionv1.Validation{{Expression: x.right}, {Expression: x.wrong}},
		}}
		controllertest.Create(t, h.Client, policy)
		checked := func(generation int64) *admissionv1.ValidatingAdmissionPolicy {
			return controllertest.Await(t, h.Client, "", x.name, "its types are checked", func(p *admissionv1.ValidatingAdmissionPolicy) bool { return p.Status.ObservedGeneration == generation })
		}
		warnings := checked(1).Status.TypeChecking.ExpressionWarnings
		if len(warnings) != 1 || warnings[0].FieldRef != "spec.validations[1].expression" || !strings.Contains(warnings[0].Warning, x.says) {
			t.Errorf("%s: %v", x.name, warnings)
		}
		controllertest.Change(t, h.Client, "", x.name, func(p *admissionv1.ValidatingAdmissionPolicy) { p.Spec.Validations = p.Spec.Validations[:1] })
		if warnings := checked(2).Status.TypeChecking.ExpressionWarnings; len(warnings) != 0 {
			t.Errorf("%s without what is wrong: %v", x.name, warnings)
		}
	}
}
