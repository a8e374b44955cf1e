package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestConfigurationsAreRolledOutAndBack: the annotations of docs/workloads.md, in containers.
func TestConfigurationsAreRolledOutAndBack(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	kubectl(t, "-n", ns, "create", "configmap", "app", "--from-literal=GREETING=one")
	apply(t, fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  namespace: %s
  annotations: {kontiki.io/rollout-on-change: "*", kontiki.io/rollback-on-deadline: "true"}
spec:
  replicas: 2
  progressDeadlineSeconds: 10
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: kontiki/tools:1
        command: [sh, -c, 'test "$GREETING" != bad && exec tools serve']
        envFrom: [{configMapRef: {name: app}}]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
`, ns))
	greeting := func(want string) {
		t.Helper()
		eventually(t, 90*time.Second, "all pods to greet with "+want, func() error {
			list := pods(t, ns, "app=web")
			if len(list) != 2 {
				return fmt.Errorf("%d pods", len(list))
			}
			for i := range list {
				if p := &list[i]; p.DeletionTimestamp != nil || !ready(p) {
					return fmt.Errorf("%s is not ready", p.Name)
				}
				out, err := kontiki("kubectl", "-n", ns, "exec", list[i].Name, "--", "sh", "-c", "echo $GREETING")
				if err != nil || strings.TrimSpace(out) != want {
					return fmt.Errorf("%s: %q %v", list[i].Name, out, err)
				}
			}
			return nil
		})
	}
	set := func(value string) {
		t.Helper()
		kubectl(t, "-n", ns, "patch", "configmap", "app", "--type=merge", "-p", fmt.Sprintf(`{"data":{"GREETING":%q}}`, value))
	}
	stored := func(want string) {
		t.Helper()
		if out := kubectl(t, "-n", ns, "get", "configmap", "app", "-o", "jsonpath={.data.GREETING}"); out != want {
			t.Errorf("the ConfigMap says %q, want %q", out, want)
		}
	}
	greeting("one")
	set("two")
	greeting("two")
	kubectl(t, "-n", ns, "rollout", "undo", "deployment/web")
	greeting("one")
	stored("one")
	// A configuration with which pods do not start is rolled back by itself, though the leader is killed meanwhile.
	set("bad")
	eventually(t, 30*time.Second, "the roll-out to begin", func() error {
		if out := kubectl(t, "-n", ns, "get", "events", "--field-selector=reason=ConfigurationChanged", "-o", "name"); strings.Count(out, "event/") < 2 {
			return fmt.Errorf("events %q", out)
		}
		return nil
	})
	leader, err := env.Leader()
	if err != nil {
		t.Fatal(err)
	}
	must(t, "dev", "kill", leader)
	eventually(t, 90*time.Second, "the ConfigMap to be restored", func() error {
		if out, err := kontiki("kubectl", "-n", ns, "get", "configmap", "app", "-o", "jsonpath={.data.GREETING}"); err != nil || out != "one" {
			return fmt.Errorf("it says %q, %v", out, err)
		}
		return nil
	})
	greeting("one")
	must(t, "dev", "start", leader)
	healthy(t)
}
