package e2e_test

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"

	"github.com/kontiki/kontiki/client"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// auditNamespace is the only namespace whose objects the tests' cluster audits, in the masters' own logs. Access to pods (exec,
// logs, ...) is audited in all namespaces.
const auditNamespace = "t-theauditlogtellswhotouchedasecret"

const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, namespaces: [` + auditNamespace + `], resources: [{group: "", resources: [secrets]}]}
- {level: RequestResponse, namespaces: [` + auditNamespace + `], resources: [{group: "", resources: [configmaps]}]}
- level: Metadata
  resources: [{group: "", resources: [pods/log, pods/exec, pods/attach, pods/portforward, pods/proxy, services/proxy, nodes/proxy]}]
- {level: None}
`

// auditPolicyFile writes the policy to a file. Remove it.
func auditPolicyFile() (string, error) {
	file, err := os.CreateTemp("", "kte-audit")
	if err != nil {
		return "", err
	}
	_, err = file.WriteString(auditPolicy)
	return file.Name(), errors.Join(err, file.Close())
}

// audited returns the events that the masters have recorded.
func audited(t *testing.T) (events []auditv1.Event) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(env.Dir, "logs", "master-*.log"))
	if err != nil || len(logs) != masters {
		t.Fatalf("logs %v: %v", logs, err)
	}
	for _, log := range logs {
		data, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			var e auditv1.Event
			if strings.HasPrefix(line, `{"kind":"Event","apiVersion":"audit.k8s.io/v1"`) && json.Unmarshal([]byte(line), &e) == nil {
				events = append(events, e)
			}
		}
	}
	return events
}

func TestTheAuditLogTellsWhoTouchedASecret(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	if ns != auditNamespace {
		t.Fatalf("the namespace is %s", ns)
	}
	const password = "correct-horse-battery"
	manifest := fmt.Sprintf(`
apiVersion: v1
kind: Secret
metadata: {name: released, namespace: %[1]s, labels: {release: audited}}
stringData: {password: %[2]s}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: released, namespace: %[1]s, labels: {release: audited}}
data: {colour: mauve}
`, ns, password)
	// By kubectl, by a transaction, and by gRPC.
	kubectl(t, "-n", ns, "create", "secret", "generic", "by-kubectl", "--from-literal=password="+password)
	contains(t, kubectl(t, "-n", ns, "get", "secret", "by-kubectl", "-o", "yaml"), base64.StdEncoding.EncodeToString([]byte(password)))
	kubectl(t, "-n", ns, "delete", "secret", "by-kubectl")
	if _, err := kontikiWith(strings.NewReader(manifest), "apply", "--atomic", "-f", "-"); err != nil {
		t.Fatal(err)
	}
	conn, err := client.New(client.Config{Kubeconfig: env.Kubeconfig(), Name: "auditor"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if _, err := kontikiv1.NewObjectsClient(conn).Get(ctx, &kontikiv1.GetRequest{Reference: &kontikiv1.Reference{Kind: &kontikiv1.Kind{Version: "v1", Kind: "Secret"}, Namespace: ns, Name: "released"}}); err != nil {
		t.Fatal(err)
	}

	for _, want := range []struct {
		verb, resource, name, uri string
		code                      int32
		content                   bool
	}{
		{"create", "secrets", "by-kubectl", "/api/v1/namespaces/" + ns + "/secrets", http.StatusCreated, false},
		{"get", "secrets", "by-kubectl", "/api/v1/namespaces/" + ns + "/secrets/by-kubectl", http.StatusOK, false},
		{"delete", "secrets", "by-kubectl", "/api/v1/namespaces/" + ns + "/secrets/by-kubectl", http.StatusOK, false},
		{"patch", "secrets", "released", "ransact", http.StatusCreated, false},
		{"patch", "configmaps", "released", "ransact", http.StatusCreated, true},
		{"get", "secrets", "released", "/kontiki.v1.Objects/Get", http.StatusOK, false},
	} {
		eventually(t, 10*time.Second, fmt.Sprintf("the event of %s %s/%s", want.verb, want.resource, want.name), func() error {
			for _, e := range audited(t) {
				if e.Verb != want.verb || e.ObjectRef == nil || e.ObjectRef.Resource != want.resource || e.ObjectRef.Name != want.name || !strings.Contains(e.RequestURI, want.uri) || e.Annotations["kontiki.io/dry-run"] != "" {
					continue
				}
				if e.User.Username != "kubernetes-admin" || e.Stage != auditv1.StageResponseComplete || e.ResponseStatus.Code != want.code || e.ObjectRef.Namespace != ns ||
					len(e.SourceIPs) == 0 || e.AuditID == "" || (e.RequestObject != nil) != want.content || (e.ResponseObject != nil) != want.content {
					return fmt.Errorf("recorded %+v, want %+v", e, want)
				}
				return nil
			}
			return errNotYet
		})
	}
	logs, err := filepath.Glob(filepath.Join(env.Dir, "logs", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, log := range logs {
		data, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{password, base64.StdEncoding.EncodeToString([]byte(password))} {
			if strings.Contains(string(data), text) {
				t.Errorf("%s holds the Secret's content", filepath.Base(log))
			}
		}
		if strings.HasPrefix(filepath.Base(log), "master-") && strings.Contains(string(data), `"namespace":"kube-system"`) {
			t.Errorf("%s records what the policy does not ask for", filepath.Base(log))
		}
	}
}

func TestTheAuditLogTellsWhoWasInAPod(t *testing.T) {
	ns := namespace(t)
	apply(t, strings.Replace(toolPod("inside", "worker-1", "tools", "serve"), "name: inside,", "name: inside, namespace: "+ns+",", 1))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/inside", "--timeout=60s")
	kubectl(t, "-n", ns, "logs", "inside")
	contains(t, kubectl(t, "-n", ns, "exec", "inside", "--", "sh", "-c", "echo hello"), "hello")
	for _, subresource := range []string{"log", "exec"} {
		eventually(t, 10*time.Second, "the events of "+subresource, func() error {
			var stages []auditv1.Stage
			for _, e := range audited(t) {
				if e.ObjectRef == nil || e.ObjectRef.Namespace != ns || e.ObjectRef.Subresource != subresource {
					continue
				}
				if e.ObjectRef.Name != "inside" || e.User.Username != "kubernetes-admin" || e.ResponseStatus.Code >= 300 || e.Annotations["authorization.k8s.io/decision"] != "allow" {
					return fmt.Errorf("recorded %+v", e)
				}
				stages = append(stages, e.Stage)
			}
			if !slices.Equal(stages, []auditv1.Stage{auditv1.StageResponseStarted, auditv1.StageResponseComplete}) {
				return fmt.Errorf("stages %v", stages)
			}
			return nil
		})
	}
}

func TestAServerWithABadAuditPolicyDoesNotStart(t *testing.T) {
	policy := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(policy, []byte("apiVersion: audit.k8s.io/v1\nkind: Policy\nrules: [{level: Loud}]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	out, err := kontiki("server", "--data-dir", data, "--node-ip", "192.0.2.1", "--audit-policy-file", policy, "--audit-log-path", "-")
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("%s %v", out, err)
	}
	contains(t, err.Error(), "--audit-policy-file: "+policy+": rules[0].level: Unsupported value", `"Metadata"`)
	if entries, err := os.ReadDir(data); err != nil || len(entries) != 0 {
		t.Errorf("it left %v %v", entries, err)
	}
}
