package admission_test

import (
	"testing"

	reviewv1 "k8s.io/api/admission/v1"
	admissionv1 "k8s.io/api/admissionregistration/v1"

	extension "github.com/kontiki/kontiki/api/extension/admission"
)

// TestMetrics: calls, refusals and what policies decide are counted under upstream's names, and nothing else is among them.
func TestMetrics(t *testing.T) {
	f := start(t)
	f.answers["/no"] = func(_ *reviewv1.AdmissionRequest, r *reviewv1.AdmissionResponse) { r.Allowed = false }
	f.validates("metrics", "/no", rule("", "v1", "configmaps", create), nil)
	if _, err := f.configMap("a", nil); err == nil {
		t.Fatal("admitted")
	}
	f.policy("metrics", admissionv1.ValidatingAdmissionPolicySpec{Validations: expression("false")}, nil)
	if _, err := f.configMap("a", nil); err == nil {
		t.Fatal("admitted")
	}
	families, err := extension.Metrics().Gather()
	if err != nil {
		t.Fatal(err)
	}
	counted := map[string]bool{}
	for _, family := range families {
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				if v := label.GetValue(); v == "metrics.example.com" || v == "metrics" {
					counted[family.GetName()] = true
				}
			}
		}
		if family.GetName() == "go_goroutines" {
			t.Error("metrics of the process are among them")
		}
	}
	for _, name := range []string{"apiserver_admission_webhook_request_total", "apiserver_admission_webhook_rejection_count", "apiserver_admission_webhook_admission_duration_seconds", "apiserver_validating_admission_policy_check_total"} {
		if !counted[name] {
			t.Errorf("%s is not counted", name)
		}
	}
}
