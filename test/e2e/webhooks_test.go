package e2e_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/testcert"
)

const webhook = `
apiVersion: v1
kind: Secret
metadata: {name: webhook, namespace: %[1]s}
type: kubernetes.io/tls
data: {tls.crt: %[2]s, tls.key: %[3]s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: webhook, namespace: %[1]s}
spec:
  replicas: 2
  selector: {matchLabels: {app: webhook}}
  template:
    metadata: {labels: {app: webhook}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: kontiki/tools:1
        imagePullPolicy: IfNotPresent
        command: [tools, review, /tls]
        readinessProbe: {tcpSocket: {port: 8443}, periodSeconds: 1}
        volumeMounts: [{name: tls, mountPath: /tls}]
      volumes: [{name: tls, secret: {secretName: webhook}}]
---
apiVersion: v1
kind: Service
metadata: {name: webhook, namespace: %[1]s}
spec: {selector: {app: webhook}, ports: [{port: 443, targetPort: 8443}]}
`

const webhookConfigurations = `
apiVersion: admissionregistration.k8s.io/v1
kind: MutatingWebhookConfiguration
metadata: {name: %[1]s}
webhooks:
- name: labels.example.com
  clientConfig: {caBundle: %[2]s, service: {namespace: %[1]s, name: webhook, path: /mutate}}
  rules: [{apiGroups: [""], apiVersions: [v1], resources: [configmaps], operations: [CREATE, UPDATE]}]
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[1]s}}
  matchConditions: [{name: others, expression: 'object.metadata.name != "kube-root-ca.crt"'}]
  sideEffects: None
  timeoutSeconds: 5
  admissionReviewVersions: [v1]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: %[1]s}
webhooks:
- name: names.example.com
  clientConfig: {caBundle: %[2]s, service: {namespace: %[1]s, name: webhook, path: /validate}}
  rules: [{apiGroups: [""], apiVersions: [v1], resources: [configmaps], operations: [CREATE]}]
  namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[1]s}}
  sideEffects: None
  timeoutSeconds: 5
  admissionReviewVersions: [v1]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: %[1]s}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], resources: [configmaps], operations: [CREATE]}]}
  validations: [{expression: 'object.metadata.?labels.seen == optional.of("create")', message: the policy sees what the webhook has added}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: %[1]s}
spec: {policyName: %[1]s, validationActions: [Deny], matchResources: {namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: %[1]s}}, excludeResourceRules: [{apiGroups: [""], apiVersions: [v1], resources: [configmaps], operations: [CREATE], resourceNames: [kube-root-ca.crt]}]}}
`

// TestWebhooksInPods: each master reaches webhooks that run as pods behind a service, and applies policies to what they return. When all of their
// pods are gone, writes are refused, as the failure policy says.
func TestWebhooksInPods(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	cert, key := testcert.Base64(testcert.SelfSigned(t, "webhook."+ns+".svc"))
	apply(t, fmt.Sprintf(webhook, ns, cert, key))
	kubectl(t, "-n", ns, "rollout", "status", "deployment/webhook", "--timeout=60s")
	kinds := "mutatingwebhookconfigurations,validatingwebhookconfigurations,validatingadmissionpolicies,validatingadmissionpolicybindings"
	t.Cleanup(func() {
		for kind := range strings.SplitSeq(kinds, ",") {
			if _, err := kontiki("kubectl", "delete", kind, ns, "--ignore-not-found"); err != nil {
				t.Error(err)
			}
		}
	})
	apply(t, fmt.Sprintf(webhookConfigurations, ns, cert))
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for i := range masters {
		master := fmt.Sprint("master-", i+1)
		config, err := clientcmd.BuildConfigFromFlags("", env.Kubeconfig())
		if err != nil {
			t.Fatal(err)
		}
		if config.Dial, err = env.DialFrom(master); err != nil {
			t.Fatal(err)
		}
		config.Host = "https://127.0.0.1:6443"
		heard := &warned{}
		config.WarningHandlerWithContext = heard
		client, err := kubernetes.NewForConfig(config)
		if err != nil {
			t.Fatal(err)
		}
		create := func(name string) (*corev1.ConfigMap, error) {
			return client.CoreV1().ConfigMaps(ns).Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		}
		await.That(t, master+" calls the webhooks", func() error { // it may not have applied the configurations yet
			cm, err := create(fmt.Sprintf("%s-%d", master, time.Now().UnixNano()))
			if err == nil && cm.Labels["seen"] != "create" {
				err = fmt.Errorf("labels %v", cm.Labels)
			}
			return err
		})
		if len(heard.texts) == 0 || !strings.HasPrefix(heard.texts[len(heard.texts)-1], "the webhook has seen "+master) {
			t.Errorf("%s: warnings %q", master, heard.texts)
		}
		if _, err := create("refused"); err == nil || err.Error() != `admission webhook "names.example.com" denied the request: the name is refused` {
			t.Errorf("%s: %v", master, err)
		}
	}
	kubectl(t, "-n", ns, "scale", "deployment/webhook", "--replicas=0")
	await.That(t, "writes are refused without the webhooks", func() error {
		out, err := kontiki("kubectl", "-n", ns, "create", "configmap", "late", "--dry-run=server")
		if err == nil {
			return fmt.Errorf("admitted: %s", out)
		}
		if !strings.Contains(err.Error()+out, `failed calling webhook "labels.example.com"`) {
			return err
		}
		return nil
	})
}

// warned collects warnings.
type warned struct{ texts []string }

func (w *warned) HandleWarningHeaderWithContext(_ context.Context, _ int, _, text string) {
	w.texts = append(w.texts, text)
}
