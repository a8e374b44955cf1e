package admission_test

import (
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
)

func constraints(group, version, resource string, operations ...admissionv1.OperationType) *admissionv1.MatchResources {
	return &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: rule(group, version, resource, operations...)[0]}}}
}

// policy creates a validating policy with a binding that refuses.
func (f *fixture) policy(name string, spec admissionv1.ValidatingAdmissionPolicySpec, change func(*admissionv1.ValidatingAdmissionPolicyBinding)) {
	f.t.Helper()
	if spec.MatchConstraints == nil {
		spec.MatchConstraints = constraints("", "v1", "configmaps", create, update)
	}
	if _, err := f.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(ctx, &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{}); err != nil {
		f.t.Fatal(err)
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}}}
	if change != nil {
		change(binding)
	}
	if _, err := f.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(ctx, binding, metav1.CreateOptions{}); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) drop(name string) {
	f.t.Helper()
	if err := f.AdmissionregistrationV1().ValidatingAdmissionPolicies().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		f.t.Fatal(err)
	}
	if err := f.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
		f.t.Fatal(err)
	}
}

func expression(text string) []admissionv1.Validation {
	return []admissionv1.Validation{{Expression: text}}
}

// TestValidatingPolicies has one line for each part of policies: a ConfigMap with the data {"k": "v"} and the label app=x is created.
func TestValidatingPolicies(t *testing.T) {
	f := start(t)
	if _, err := f.configMap("limits", func(cm *corev1.ConfigMap) {
		cm.Data = map[string]string{"max": "0"}
		cm.Labels = map[string]string{"for": "policies"}
	}); err != nil {
		t.Fatal(err)
	}
	configMaps := &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}
	deny := admissionv1.DenyAction
	named := func(name string) func(*admissionv1.ValidatingAdmissionPolicyBinding) {
		return func(b *admissionv1.ValidatingAdmissionPolicyBinding) {
			b.Spec.ParamRef = &admissionv1.ParamRef{Name: name, Namespace: "default", ParameterNotFoundAction: &deny}
		}
	}
	for _, c := range []struct {
		name string
		spec admissionv1.ValidatingAdmissionPolicySpec
		bind func(*admissionv1.ValidatingAdmissionPolicyBinding)
		says string // "" if the request is admitted
	}{
		{"passes", admissionv1.ValidatingAdmissionPolicySpec{Validations: expression(`object.data.k == "v" && oldObject == null && request.name.startsWith("passes")`)}, nil, ""},
		{"refuses", admissionv1.ValidatingAdmissionPolicySpec{Validations: expression(`object.data.k != "v"`)}, nil,
			`configmaps "refuses" is forbidden: ValidatingAdmissionPolicy 'refuses' with binding 'refuses' denied request: failed expression: object.data.k != "v"`},
		{"message", admissionv1.ValidatingAdmissionPolicySpec{Validations: []admissionv1.Validation{{Expression: "false", MessageExpression: `"k is " + object.data.k`, Reason: new(metav1.StatusReasonForbidden)}}}, nil, "denied request: k is v"},
		{"variables", admissionv1.ValidatingAdmissionPolicySpec{Variables: []admissionv1.Variable{{Name: "k", Expression: "object.data.k"}, {Name: "kk", Expression: "variables.k + variables.k"}},
			Validations: expression(`variables.kk == "v"`)}, nil, `failed expression: variables.kk == "v"`},
		{"condition", admissionv1.ValidatingAdmissionPolicySpec{MatchConditions: []admissionv1.MatchCondition{{Name: "n", Expression: `request.operation == "DELETE"`}}, Validations: expression("false")}, nil, ""},
		{"namespace", admissionv1.ValidatingAdmissionPolicySpec{Validations: expression(`namespaceObject.metadata.name == "other"`)}, nil, "failed expression"},
		{"authorizer", admissionv1.ValidatingAdmissionPolicySpec{Validations: expression(`authorizer.requestResource.check("create").allowed() && !authorizer.serviceAccount("default", "x").group("").resource("secrets").check("get").allowed()`)}, nil, ""},
		{"names", admissionv1.ValidatingAdmissionPolicySpec{MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{ResourceNames: []string{"other"},
			RuleWithOperations: rule("", "v1", "configmaps", create)[0]}}}, Validations: expression("false")}, nil, ""},
		{"excluded", admissionv1.ValidatingAdmissionPolicySpec{MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: rule("*", "*", "*", create)[0]}},
			ExcludeResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: rule("", "*", "configmaps", create)[0]}}}, Validations: expression("false")}, nil, ""},
		{"selector", admissionv1.ValidatingAdmissionPolicySpec{Validations: expression("false")}, func(b *admissionv1.ValidatingAdmissionPolicyBinding) {
			b.Spec.MatchResources = &admissionv1.MatchResources{ObjectSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "y"}}}
		}, ""},
		{"parameter", admissionv1.ValidatingAdmissionPolicySpec{ParamKind: configMaps, Validations: expression("size(object.data) <= int(params.data.max)")}, named("limits"), "failed expression: size(object.data) <= int(params.data.max)"},
		{"no-parameter", admissionv1.ValidatingAdmissionPolicySpec{ParamKind: configMaps, Validations: expression("true")}, named("missing"), "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"},
		{"parameters", admissionv1.ValidatingAdmissionPolicySpec{ParamKind: configMaps, Validations: expression("params.metadata.name != 'limits'")}, func(b *admissionv1.ValidatingAdmissionPolicyBinding) {
			b.Spec.ParamRef = &admissionv1.ParamRef{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"for": "policies"}}, ParameterNotFoundAction: &deny}
		}, "failed expression: params.metadata.name"},
		{"unknown-kind", admissionv1.ValidatingAdmissionPolicySpec{ParamKind: &admissionv1.ParamKind{APIVersion: "example.com/v1", Kind: "Limit"}, Validations: expression("true")}, named("x"),
			"failed to configure policy: failed to find resource referenced by paramKind: 'example.com/v1, Kind=Limit'"},
		{"error", admissionv1.ValidatingAdmissionPolicySpec{Validations: expression(`object.data.missing == "x"`)}, nil, "resulted in error: no such key: missing"},
		{"ignored-error", admissionv1.ValidatingAdmissionPolicySpec{FailurePolicy: new(admissionv1.Ignore), Validations: expression(`object.data.missing == "x"`)}, nil, ""},
		{"costs", admissionv1.ValidatingAdmissionPolicySpec{Variables: []admissionv1.Variable{{Name: "l", Expression: "[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20,21,22,23,24,25,26,27,28,29,30,31,32,33,34,35,36,37,38,39,40]"}},
			Validations: expression("variables.l.all(a, variables.l.all(b, variables.l.all(c, variables.l.all(d, a + b + c + d > 0))))")}, nil, "cost"},
		{"warns", admissionv1.ValidatingAdmissionPolicySpec{Validations: expression("false")}, func(b *admissionv1.ValidatingAdmissionPolicyBinding) {
			b.Spec.ValidationActions = []admissionv1.ValidationAction{admissionv1.Warn, admissionv1.Audit}
		}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			f.policy(c.name, c.spec, c.bind)
			defer f.drop(c.name)
			_, err := f.configMap(c.name, func(cm *corev1.ConfigMap) {
				cm.Labels, cm.Data = map[string]string{"app": "x"}, map[string]string{"k": "v"}
			})
			if c.says == "" && err != nil || c.says != "" && (err == nil || !strings.Contains(err.Error(), c.says)) {
				t.Fatal(err)
			}
		})
	}
}

// TestPoliciesOfSubresourcesAndConnections: they are matched as those.
func TestPoliciesOfSubresourcesAndConnections(t *testing.T) {
	f := start(t)
	f.policy("exec", admissionv1.ValidatingAdmissionPolicySpec{MatchConstraints: constraints("", "v1", "pods/exec", connect), Validations: expression(`object.kind == "PodExecOptions" && object.command[0] != "sh"`)}, nil)
	err := f.CoreV1().RESTClient().Post().Namespace("default").Resource("pods").Name("p").SubResource("exec").Param("command", "sh").Param("stdout", "true").Do(ctx).Error()
	if err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'exec' with binding 'exec' denied request") {
		t.Error(err)
	}
	f.policy("delete", admissionv1.ValidatingAdmissionPolicySpec{MatchConstraints: constraints("", "v1", "namespaces", remove), Validations: expression(`object == null && oldObject.metadata.name != "kept"`)}, nil)
	if _, err := f.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "kept"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := f.CoreV1().Namespaces().Delete(ctx, "kept", metav1.DeleteOptions{}); err == nil || !strings.Contains(err.Error(), "denied request") {
		t.Error(err)
	}
}

// TestWarningsOfPolicies: what a binding only warns of reaches the client.
func TestWarningsOfPolicies(t *testing.T) {
	f := start(t)
	f.policy("warns", admissionv1.ValidatingAdmissionPolicySpec{Validations: []admissionv1.Validation{{Expression: "false", Message: "better not"}}}, func(b *admissionv1.ValidatingAdmissionPolicyBinding) {
		b.Spec.ValidationActions = []admissionv1.ValidationAction{admissionv1.Warn}
	})
	heard := &heard{}
	result := f.CoreV1().RESTClient().Post().Namespace("default").Resource("configmaps").WarningHandler(heard).Body(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "a"}}).Do(ctx)
	if err := result.Error(); err != nil || len(heard.texts) != 1 || heard.texts[0] != "Validation failed for ValidatingAdmissionPolicy 'warns' with binding 'warns': better not" {
		t.Errorf("%v, %q", err, heard.texts)
	}
}

type heard struct{ texts []string }

func (h *heard) HandleWarningHeader(_ int, _, text string) { h.texts = append(h.texts, text) }

var _ rest.WarningHandler = (*heard)(nil)

// TestMutatingPolicies: patches of both kinds are applied, with parameters, and again if a later one has changed the object.
func TestMutatingPolicies(t *testing.T) {
	f := start(t)
	mutates := func(name string, spec admissionv1.MutatingAdmissionPolicySpec) {
		t.Helper()
		spec.MatchConstraints = constraints("", "v1", "configmaps", create, update)
		if spec.ReinvocationPolicy == "" {
			spec.ReinvocationPolicy = admissionv1.NeverReinvocationPolicy
		}
		if _, err := f.AdmissionregistrationV1().MutatingAdmissionPolicies().Create(ctx, &admissionv1.MutatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := f.AdmissionregistrationV1().MutatingAdmissionPolicyBindings().Create(ctx, &admissionv1.MutatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: admissionv1.MutatingAdmissionPolicyBindingSpec{PolicyName: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	applied := func(text string) []admissionv1.Mutation {
		return []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeApplyConfiguration, ApplyConfiguration: &admissionv1.ApplyConfiguration{Expression: text}}}
	}
	mutates("a", admissionv1.MutatingAdmissionPolicySpec{ReinvocationPolicy: admissionv1.IfNeededReinvocationPolicy,
		Mutations: applied(`Object{data: {"seen": string(size(object.data))}}`)})
	mutates("b", admissionv1.MutatingAdmissionPolicySpec{
		Variables: []admissionv1.Variable{{Name: "value", Expression: `object.data.k + "!"`}},
		Mutations: []admissionv1.Mutation{{PatchType: admissionv1.PatchTypeJSONPatch, JSONPatch: &admissionv1.JSONPatch{Expression: `[JSONPatch{op: "add", path: "/data/" + jsonpatch.escapeKey("by.b"), value: variables.value}]`}}}})
	cm, err := f.configMap("a", func(cm *corev1.ConfigMap) { cm.Data = map[string]string{"k": "v"} })
	if err != nil {
		t.Fatal(err)
	}
	if cm.Data["by.b"] != "v!" || cm.Data["seen"] != "3" || len(cm.Data) != 3 {
		t.Errorf("%v", cm.Data)
	}
	for _, m := range cm.ManagedFields {
		if strings.Contains(string(m.FieldsV1.GetRawBytes()), "by.b") {
			t.Errorf("the client owns what a policy added: %v", m)
		}
	}
	if _, err := f.configMap("b", nil); err == nil || !strings.Contains(err.Error(), "policy 'a' with binding 'a' denied request") {
		t.Errorf("a policy that fails: %v", err)
	}
	if _, err := f.CoreV1().ConfigMaps("default").Patch(ctx, "a", types.MergePatchType, []byte(`{"data":{"k":"w"}}`), metav1.PatchOptions{}); err != nil {
		t.Error(err)
	}
	if cm, err = f.CoreV1().ConfigMaps("default").Get(ctx, "a", metav1.GetOptions{}); err != nil || cm.Data["by.b"] != "w!" {
		t.Errorf("%v, %v", cm, err)
	}
}
