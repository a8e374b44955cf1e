package admission_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	reviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/audit"
	"github.com/kontiki/kontiki/test/harness"
)

// TestAuditAnnotations: an event says what webhooks and policies did, under upstream's names; patches are for events with bodies alone.
func TestAuditAnnotations(t *testing.T) {
	dir := t.TempDir()
	policy, log := filepath.Join(dir, "policy.yaml"), filepath.Join(dir, "audit.log")
	if err := os.WriteFile(policy, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nomitStages: [RequestReceived]\nrules: [{level: Request, resources: [{group: '', resources: [configmaps]}]}, {level: Metadata}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	auditor, err := audit.New(audit.Config{PolicyFile: policy, LogPath: log, Mode: audit.ModeBlocking})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { auditor.Close() })
	h := harness.NewConfigured(t, func(c *apiserver.Config) { c.LocalWebhooks, c.Audit = true, auditor })
	h.Serve()
	f := &fixture{h, newServer(t), h.Clientset()}
	f.answers["/m"] = patching(`[{"op":"add","path":"/metadata/annotations","value":{"a":"b"}}]`)
	f.answers["/v"] = func(_ *reviewv1.AdmissionRequest, r *reviewv1.AdmissionResponse) {
		r.AuditAnnotations = map[string]string{"said": "yes"}
	}
	both := rule("", "v1", "*", create)
	both[0].Resources = []string{"configmaps", "secrets"}
	f.mutates("m", "/m", both, nil)
	f.validates("v", "/v", both, nil)
	f.validates("gone", "/v", both, func(w *admissionv1.ValidatingWebhook) {
		nowhere := "https://127.0.0.1:1/"
		w.ClientConfig.URL, w.FailurePolicy = &nowhere, new(admissionv1.Ignore)
	})
	spec := admissionv1.ValidatingAdmissionPolicySpec{Validations: []admissionv1.Validation{{Expression: "false", Message: "not so"}}, AuditAnnotations: []admissionv1.AuditAnnotation{{Key: "name", ValueExpression: "string(object.metadata.name)"}}}
	spec.MatchConstraints = constraints("", "v1", "*", create)
	f.policy("p", spec, func(b *admissionv1.ValidatingAdmissionPolicyBinding) {
		b.Spec.ValidationActions = []admissionv1.ValidationAction{admissionv1.Audit}
	})
	if _, err := f.configMap("a", nil); err != nil {
		t.Fatal(err)
	}
	secret := &corev1.Secret{}
	secret.Name = "s"
	if err := f.CoreV1().RESTClient().Post().Namespace("default").Resource("secrets").Body(secret).Do(ctx).Error(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]map[string]string{}
	for line := range strings.Lines(string(text)) {
		event := auditv1.Event{}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			t.Fatal(err)
		}
		if event.Verb == "create" && event.ObjectRef != nil {
			seen[event.ObjectRef.Resource] = event.Annotations
		}
	}
	for _, resource := range []string{"configmaps", "secrets"} {
		name := map[string]string{"configmaps": "a", "secrets": "s"}[resource]
		for key, want := range map[string]string{
			"mutation.webhook.admission.k8s.io/round_0_index_0":               `{"configuration":"m","webhook":"m.example.com","mutated":true}`,
			"failed-open.validating.webhook.admission.k8s.io/round_0_index_0": "gone.example.com",
			"v.example.com/said": "yes",
			"p/name":             name,
			"validation.policy.admission.k8s.io/validation_failure": `[{"message":"not so","policy":"p","binding":"p","expressionIndex":0,"validationActions":["Audit"]}]`,
		} {
			if got := seen[resource][key]; got != want {
				t.Errorf("%s: %s is %q, want %q", resource, key, got, want)
			}
		}
	}
	const patch = "patch.webhook.admission.k8s.io/round_0_index_0"
	if got := seen["configmaps"][patch]; !strings.Contains(got, `"patchType":"JSONPatch"`) || !strings.Contains(got, `"value":{"a":"b"}`) {
		t.Errorf("the patch: %q", got)
	}
	if got := seen["secrets"][patch]; got != "" {
		t.Errorf("the patch of an event without bodies: %q", got)
	}
}
