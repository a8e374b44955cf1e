package e2e_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestANodeIsScrapedWithATokenOfTheAPI as Prometheus and metrics-server do it: with the token of a service account that may read the
// metrics of nodes, and nothing else of them.
func TestANodeIsScrapedWithATokenOfTheAPI(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	apply(t, in(ns, toolPod("web", "worker-1", "tools", "serve")))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
	kubectl(t, "-n", ns, "create", "serviceaccount", "prometheus")
	role := ns + "-scrape"
	kubectl(t, "create", "clusterrole", role, "--verb=get", "--resource=nodes/metrics")
	t.Cleanup(func() { kubectl(t, "delete", "clusterrole,clusterrolebinding", role) })
	kubectl(t, "create", "clusterrolebinding", role, "--clusterrole="+role, "--serviceaccount="+ns+":prometheus")
	token := strings.TrimSpace(kubectl(t, "-n", ns, "create", "token", "prometheus"))

	node, err := env.Set.CoreV1().Nodes().Get(t.Context(), "worker-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(kubectl(t, "-n", ns, "get", "configmap", "kube-root-ca.crt", "-o", `jsonpath={.data.ca\.crt}`))) {
		t.Fatal("kube-root-ca.crt has no certificate")
	}
	dial, err := env.DialFrom("master-1")
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: roots}}}
	defer client.CloseIdleConnections()
	get := func(path, token string) (int, string, error) {
		r, err := http.NewRequestWithContext(context.Background(), http.MethodGet, fmt.Sprintf("https://%s:%d%s", node.Status.Addresses[0].Address, node.Status.DaemonEndpoints.KubeletEndpoint.Port, path), nil)
		if err != nil {
			return 0, "", err
		}
		if token != "" {
			r.Header.Set("Authorization", "Bearer "+token)
		}
		response, err := client.Do(r)
		if err != nil {
			return 0, "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return response.StatusCode, string(body), err
	}
	eventually(t, 30*time.Second, "the metrics to be served", func() error {
		for path, want := range map[string]string{
			"/metrics/resource": fmt.Sprintf(`container_cpu_usage_seconds_total{container="c",namespace=%q,pod="web"}`, ns),
			"/metrics/cadvisor": fmt.Sprintf(`interface="eth0",name="POD_%s",namespace=%q,pod="web"}`, getPod(t, ns, "web").UID, ns),
		} {
			if code, body, err := get(path, token); err != nil || code != http.StatusOK || !strings.Contains(body, want) {
				return fmt.Errorf("%s: %d, %w, no %s in %.2000s", path, code, err, want, body)
			}
		}
		return nil
	})
	for _, x := range []struct {
		path, token string
		code        int
	}{{"/pods", token, http.StatusForbidden}, {"/exec/" + ns + "/web/c?command=id", token, http.StatusForbidden}, {"/metrics", "", http.StatusUnauthorized}, {"/metrics", token + "x", http.StatusUnauthorized}} {
		if code, body, err := get(x.path, x.token); err != nil || code != x.code {
			t.Errorf("%s: %d, want %d; %s, %v", x.path, code, x.code, body, err)
		}
	}
	if out := kubectl(t, "get", "--raw", "/api/v1/nodes/worker-1/proxy/configz"); !strings.Contains(out, `"kubeletconfig"`) || !strings.Contains(out, `"clusterDomain":"cluster.local"`) {
		t.Errorf("configz: %s", out)
	}
}
