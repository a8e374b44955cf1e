package operators

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/test/await"
)

// overlay is what differs from metrics-server's own manifests: the image, and that workers are known by the cluster's CA.
const overlay = `
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [%s]
images: [{name: gcr.io/k8s-staging-metrics-server/metrics-server, newName: docker.io/kontiki/metrics-server, newTag: "1"}]
patches:
- target: {kind: Deployment, name: metrics-server}
  patch: |
    - {op: add, path: /spec/template/spec/containers/0/args/-, value: --kubelet-certificate-authority=/var/run/secrets/kubernetes.io/serviceaccount/ca.crt}
    - {op: replace, path: /spec/template/spec/containers/0/readinessProbe/initialDelaySeconds, value: 1}
    - {op: add, path: /spec/template/metadata/labels/operator, value: metrics-server}
`

const nodeMetrics = "/apis/metrics.k8s.io/v1beta1/nodes"

// TestMetricsServer puts upstream's metrics-server in the place of the built-in metrics API by its own manifests. It reads the workers, and kubectl top shows
// what it answers. While it has no pod there is no answer, and when its APIService is deleted the masters answer again.
func TestMetricsServer(t *testing.T) {
	dir := t.TempDir()
	base, err := filepath.Rel(dir, moduleFile(t, "metricsserver", "sigs.k8s.io/metrics-server", "manifests/base"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "kustomization.yaml"), fmt.Appendf(nil, overlay, base), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := cluster.Run("kubectl", "delete", "--ignore-not-found", "--timeout=90s", "-n", "kube-system", "apiservice/v1beta1.metrics.k8s.io",
			"deployment/metrics-server", "service/metrics-server", "serviceaccount/metrics-server", "rolebinding/metrics-server-auth-reader",
			"clusterrole/system:metrics-server", "clusterrolebinding/system:metrics-server", "clusterrolebinding/metrics-server:system:auth-delegator"); err != nil {
			t.Error(err)
		}
	})
	logsOnFailure(t, "kube-system")
	awaitMetrics(t, "the masters to answer")
	kubectl(t, "apply", "-k", dir)
	kubectl(t, "-n", "kube-system", "rollout", "status", "deployment/metrics-server", "--timeout=120s")
	kubectl(t, "wait", "--for=condition=Available", "apiservice/v1beta1.metrics.k8s.io", "--timeout=90s")
	awaitMetrics(t, "metrics-server to answer")
	await.That(t, "its own pod to be shown", func() error {
		out, err := cluster.Run("kubectl", "top", "pods", "-n", "kube-system")
		if err == nil && !strings.Contains(out, "metrics-server-") {
			err = fmt.Errorf("top shows %s", out)
		}
		return err
	})
	topReads(t, "v1beta1") // metrics-server has no other version

	kubectl(t, "-n", "kube-system", "scale", "deployment/metrics-server", "--replicas=0")
	await.That(t, "nobody to answer", func() error {
		err := cluster.Set.RESTClient().Get().AbsPath(nodeMetrics).MaxRetries(0).Do(t.Context()).Error()
		if !apierrors.IsServiceUnavailable(err) {
			return fmt.Errorf("the answer is %v", err)
		}
		return nil
	})
	kubectl(t, "delete", "apiservice", "v1beta1.metrics.k8s.io")
	awaitMetrics(t, "the masters to answer again")
	topReads(t, "v1")
}

// topReads fails unless kubectl top shows both workers as it reads of them in a version.
func topReads(t *testing.T, version string) {
	t.Helper()
	await.That(t, "top to read "+version, func() error {
		out, err := cluster.Run("kubectl", "top", "nodes", "-v=6")
		if err == nil && (strings.Count(out, "\nworker-") != 2 || !strings.Contains(out, "/apis/metrics.k8s.io/"+version+"/nodes")) {
			err = fmt.Errorf("top shows %s", out)
		}
		return err
	})
}

// awaitMetrics waits until both workers have metrics.
func awaitMetrics(t *testing.T, what string) {
	t.Helper()
	await.That(t, what, func() error {
		body, err := cluster.Set.RESTClient().Get().AbsPath(nodeMetrics).MaxRetries(0).Do(t.Context()).Raw()
		if err != nil {
			return err
		}
		var list struct {
			Items []struct{ Usage map[string]string }
		}
		if err := json.Unmarshal(body, &list); err != nil {
			return err
		}
		if len(list.Items) != 2 || list.Items[0].Usage["memory"] == "" || list.Items[1].Usage["cpu"] == "" {
			return fmt.Errorf("it is %s", body)
		}
		return nil
	})
}
