package admission_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/admission"
	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/extension/admission/manifests"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/harness"
)

const staticPolicy = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: %[1]s.static.k8s.io}
spec:
  matchConstraints: {resourceRules: [{apiGroups: ["*"], apiVersions: ["*"], resources: ["configmaps", "validatingwebhookconfigurations"], operations: [CREATE]}]}
  validations: [{expression: 'object.metadata.name != "%[1]s"', message: "the files say no"}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: %[1]s.static.k8s.io}
spec: {policyName: %[1]s.static.k8s.io, validationActions: [Deny]}
`

const staticWebhook = `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: labels.static.k8s.io}
webhooks:
- name: labels.example.com
  clientConfig: {url: "%s/labels", caBundle: %s}
  rules: [{apiGroups: [""], apiVersions: [v1], resources: [configmaps], operations: [CREATE]}]
  sideEffects: None
  admissionReviewVersions: [v1]
`

// TestManifests: hooks in files apply without any object, also to configurations that are objects, and follow the files.
func TestManifests(t *testing.T) {
	s := newServer(t)
	s.answers["/labels"] = patching(`[{"op":"add","path":"/metadata/labels","value":{"from":"files"}}]`)
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			t.Fatal(err)
		}
	}
	write("policies/a.yaml", fmt.Sprintf(staticPolicy, "bad"))
	write("webhooks/a.yaml", fmt.Sprintf(staticWebhook, s.url, base64.StdEncoding.EncodeToString(s.bundle)))
	configuration := fmt.Sprintf(`
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: ValidatingAdmissionPolicy
  configuration: {apiVersion: apiserver.config.k8s.io/v1, kind: ValidatingAdmissionPolicyConfiguration, staticManifestsDir: %[1]s/policies}
- name: MutatingAdmissionWebhook
  configuration: {apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration, staticManifestsDir: %[1]s/webhooks}
`, dir)
	h := harness.NewConfigured(t, func(c *apiserver.Config) { c.Admission.Configuration = []byte(configuration) })
	h.Serve()
	f := &fixture{h, s, h.Clientset()}
	cm, err := f.configMap("good", nil)
	if err != nil || cm.Labels["from"] != "files" {
		t.Fatalf("%v, %v", cm, err)
	}
	if _, err := f.configMap("bad", nil); err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'bad.static.k8s.io' with binding 'bad.static.k8s.io' denied request: the files say no") {
		t.Error(err)
	}
	_, err = f.AdmissionregistrationV1().ValidatingWebhookConfigurations().Create(ctx, &admissionv1.ValidatingWebhookConfiguration{ObjectMeta: metav1.ObjectMeta{Name: "bad"}}, metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "the files say no") {
		t.Errorf("a configuration: %v", err)
	}
	write("policies/a.yaml", "nonsense") // does not change what was read
	write("policies/b.yaml", fmt.Sprintf(staticPolicy, "worse"))
	if _, err := f.configMap("bad", nil); err == nil {
		t.Error("a file that cannot be read has undone what was read before")
	}
	write("policies/a.yaml", fmt.Sprintf(staticPolicy, "evil"))
	await.That(t, "the files are read again", func() error {
		_, err := f.CoreV1().ConfigMaps("default").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "evil"}}, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		if err == nil || !strings.Contains(err.Error(), "the files say no") {
			return fmt.Errorf("the answer is %v", err)
		}
		return nil
	})
	if _, err := f.configMap("bad", nil); err != nil {
		t.Errorf("a policy whose file has gone: %v", err)
	}
}

// TestWrongManifests: a master does not start with files that cannot be read.
func TestWrongManifests(t *testing.T) {
	dir := t.TempDir()
	for says, text := range map[string]string{
		`must have a name ending with`: strings.ReplaceAll(fmt.Sprintf(staticPolicy, "x"), ".static.k8s.io", ""),
		"is not supported":             strings.Replace(fmt.Sprintf(staticPolicy, "x"), "spec:\n", "spec:\n  paramKind: {apiVersion: v1, kind: ConfigMap}\n", 1),
		"compilation failed":           strings.Replace(fmt.Sprintf(staticPolicy, "x"), "object.metadata.name", "object.(", 1),
		"unsupported resource type":    fmt.Sprintf(staticWebhook, "https://example.com", "eA=="),
	} {
		if err := os.WriteFile(filepath.Join(dir, "a.yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		c := admission.Config{Configuration: []byte(`{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AdmissionConfiguration", "plugins": [{"name": "ValidatingAdmissionPolicy", "configuration":
			{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "ValidatingAdmissionPolicyConfiguration", "staticManifestsDir": "` + dir + `"}}]}`)}
		if _, err := manifests.Open(c.PluginConfiguration); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q: %v", says, err)
		}
	}
}

// TestCredentialsForWebhooks: masters identify themselves to mutating and to validating webhooks by what the configuration of each plugin names.
func TestCredentialsForWebhooks(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"mutating", "validating"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(`{apiVersion: v1, kind: Config, users: [{name: "*", user: {token: `+name+`}}]}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h := harness.NewConfigured(t, func(c *apiserver.Config) {
		c.LocalWebhooks = true
		c.Admission.Configuration = fmt.Appendf(nil, `
apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: MutatingAdmissionWebhook
  configuration: {apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration, kubeConfigFile: %[1]s/mutating}
- name: ValidatingAdmissionWebhook
  configuration: {apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration, kubeConfigFile: %[1]s/validating}
`, dir)
	})
	h.Serve()
	f := &fixture{h, newServer(t), h.Clientset()}
	f.mutates("change", "/change", rule("", "v1", "configmaps", create), nil)
	f.validates("check", "/check", rule("", "v1", "configmaps", create), nil)
	f.taken()
	if _, err := f.configMap("a", nil); err != nil {
		t.Fatal(err)
	}
	by := map[string]string{}
	for _, a := range f.taken() {
		by[a.path] = a.by
	}
	if by["/change"] != "Bearer mutating" || by["/check"] != "Bearer validating" {
		t.Errorf("webhooks saw %v", by)
	}
}
