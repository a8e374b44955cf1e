package e2e_test

import (
	"fmt"
	"strings"
	"testing"
)

// TestAReleaseIsAppliedWholeAndUndone applies a release atomically, and rolls it back, with real containers.
func TestAReleaseIsAppliedWholeAndUndone(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	release := func(colour, command string) string {
		return fmt.Sprintf(`
apiVersion: v1
kind: ConfigMap
metadata: {name: settings, namespace: %[1]s, labels: {release: web}}
data: {colour: %[2]s}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: %[1]s, labels: {release: web}}
spec:
  replicas: 2
  progressDeadlineSeconds: 5
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: c, image: "kontiki/tools:1", command: %[3]s}
`, ns, colour, command)
	}
	out, err := kontikiWith(strings.NewReader(release("green", "[tools, serve]")), "apply", "--atomic", "-f", "-", "--wait", "--timeout", "90s")
	if err != nil {
		t.Fatal(err)
	}
	contains(t, out, "configmap/settings created", "deployment.apps/web created", "successfully rolled out")
	before := containerIDs(t, ns)

	out, err = kontikiWith(strings.NewReader(release("red", "[/no/such/program]")), "apply", "--atomic", "-f", "-", "--diff", "--wait", "--rollback-on-failure", "--timeout", "60s")
	if err == nil {
		t.Fatalf("a release that cannot start was rolled out: %s", out)
	}
	contains(t, out+err.Error(), "-  colour: green", "+  colour: red", "deployment.apps/web undone", "the release was rolled back")
	if colour := kubectl(t, "-n", ns, "get", "configmap", "settings", "-o", "jsonpath={.data.colour}"); colour != "green" {
		t.Errorf("the setting is %q", colour)
	}
	rollout(t, ns, "web")
	served := 0
	for name, id := range containerIDs(t, ns) {
		if before[name] == id {
			served++
		}
	}
	if served == 0 {
		t.Error("no container of the release that worked was left running")
	}
	if out, err := kontikiWith(strings.NewReader(release("blue", "[tools, serve]")), "apply", "-f", "-"); err == nil || !strings.Contains(err.Error(), "--atomic") {
		t.Errorf("without --atomic: %s %v", out, err)
	}
}
