package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestAConnectionWakesAWorkload: the annotation of docs/autoscaling.md, in containers: the first connection, from a pod and through a node
// port, waits for the first replica.
func TestAConnectionWakesAWorkload(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	apply(t, fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: %[1]s}
spec:
  replicas: 0
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: kontiki/tools:1
        command: [tools, serve]
        readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata:
  name: web
  namespace: %[1]s
  annotations: {kontiki.io/wake: Deployment/web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
`, ns))
	apply(t, in(ns, toolPod("client", "worker-1", "tools", "sleep")))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/client", "--timeout=60s")
	replicas := func() string {
		return kubectl(t, "-n", ns, "get", "deployment", "web", "-o", "jsonpath={.spec.replicas}")
	}
	port := kubectl(t, "-n", ns, "get", "service", "web", "-o", "jsonpath={.spec.ports[0].nodePort}")
	address := kubectl(t, "get", "node", "worker-2", "-o", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
	for i, url := range []string{"http://web/", "http://" + address + ":" + port + "/"} {
		if got := replicas(); got != "0" {
			t.Fatalf("before a connection there are %s replicas", got)
		}
		// One attempt: its connection waits until the pod is ready.
		out := kubectl(t, "-n", ns, "exec", "client", "--", "tools", "get", url)
		if !strings.HasPrefix(strings.TrimSpace(out), "web-") {
			t.Errorf("%s answers %q", url, out)
		}
		if got := replicas(); got != "1" {
			t.Errorf("after a connection there are %s replicas", got)
		}
		if events := kubectl(t, "-n", ns, "get", "events", "--field-selector=reason=Woken,involvedObject.name=web", "-o", "name"); strings.Count(events, "event/") != i+1 {
			t.Errorf("events: %q", events)
		}
		kubectl(t, "-n", ns, "scale", "deployment/web", "--replicas=0")
		eventually(t, 60*time.Second, "the pods to be gone", func() error {
			if list := pods(t, ns, "app=web"); len(list) > 0 {
				return fmt.Errorf("%d pods", len(list))
			}
			return nil
		})
	}
	// A service that names nothing sensible is refused when it is written.
	if out, err := kontiki("kubectl", "-n", ns, "annotate", "--overwrite", "service/web", "kontiki.io/wake=web"); err == nil || !strings.Contains(err.Error(), "want KIND/NAME") {
		t.Errorf("%v: %s", err, out)
	}
}
