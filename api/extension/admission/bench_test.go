package admission_test

import (
	"context"
	"fmt"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/client"
	extension "github.com/kontiki/kontiki/api/extension/admission"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/test/harness"
)

// configure creates validating policies about creations of a resource, of which half read the object and half the request and the namespace.
func configure(tb testing.TB, h *harness.Harness, n int, resource string) {
	tb.Helper()
	for i := range n {
		text := `!has(object.data) || object.data.all(k, size(k) < 100)`
		if i%2 == 0 {
			text = `request.userInfo.username != "nobody" && namespaceObject.metadata.name == "default" && object.metadata.name.size() > 1`
		}
		name := fmt.Sprint("policy-", i)
		everything := &metav1.LabelSelector{}
		matches := constraints("", "v1", resource, create, update)
		matches.NamespaceSelector, matches.ObjectSelector = everything, everything
		if _, err := client.Create(ctx, h.Client, &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: admissionv1.ValidatingAdmissionPolicySpec{MatchConstraints: matches, Validations: expression(text)}}); err != nil {
			tb.Fatal(err)
		}
		if _, err := client.Create(ctx, h.Client, &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny}}}); err != nil {
			tb.Fatal(err)
		}
	}
}

// BenchmarkPolicies creates ConfigMaps with no policies, with ten that concern them and with ten that do not: the differences are what
// policies add to a write.
func BenchmarkPolicies(b *testing.B) {
	for _, c := range []struct {
		name     string
		policies int
		resource string
	}{
		{"none", 0, ""},
		{"ten", 10, "configmaps"},
		{"ten-of-others", 10, "secrets"},
	} {
		b.Run(c.name, func(b *testing.B) {
			h := harness.New(b)
			configure(b, h, c.policies, c.resource)
			i := 0
			b.ReportAllocs()
			for b.Loop() {
				i++
				if _, err := client.Create(ctx, h.Client, configMapNamed(i)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func configMapNamed(i int) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: fmt.Sprint("object-", i)}, Data: map[string]string{"a": "b", "c": "d"}}
}

// TestNoConfigurationsCostNothing: a write allocates nothing for webhooks and policies if there are none.
func TestNoConfigurationsCostNothing(t *testing.T) {
	steps := extension.Steps(extension.New(extension.Config{}))
	asked := false
	h := harness.NewConfigured(t, func(c *apiserver.Config) {
		c.Admission.Extra = append(c.Admission.Extra, objects.Step{Name: "Test", Handles: func(a *objects.Attributes) bool {
			if asked || a.Kind.Resource != "configmaps" {
				return false
			}
			asked = true
			for _, step := range steps {
				if step.Handles(a) {
					t.Errorf("%s handles the write", step.Name)
				}
				if n := testing.AllocsPerRun(100, func() { step.Handles(a) }); n != 0 {
					t.Errorf("%s: %g allocations", step.Name, n)
				}
			}
			return false
		}, Validate: func(context.Context, *objects.Attributes) error { return nil }})
	})
	if _, err := client.Create(ctx, h.Client, configMapNamed(0)); err != nil || !asked {
		t.Fatal(err, asked)
	}
}
