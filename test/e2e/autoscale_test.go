package e2e_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/test/await"
)

// TestLoadScalesAWorkload: containers that use processors make replicas rise, and fall again when they stop; `kubectl top` shows what they use.
func TestLoadScalesAWorkload(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	apply(t, in(ns, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 1
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: busybox:latest
        imagePullPolicy: IfNotPresent
        command: [sh, -c, "while :; do if [ -e /tmp/load ]; then i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; else sleep 0.2; fi; done"]
        resources: {requests: {cpu: 100m, memory: 16Mi}, limits: {cpu: 300m}}
`))
	kubectl(t, "-n", ns, "rollout", "status", "deployment/web", "--timeout=60s")
	contains(t, kubectl(t, "-n", ns, "autoscale", "deployment", "web", "--min=1", "--max=3", "--cpu=50%"), "autoscaled")
	kubectl(t, "-n", ns, "patch", "hpa", "web", "--type=merge", "-p", `{"spec":{"behavior":{"scaleDown":{"stabilizationWindowSeconds":0}}}}`)

	top := func(want string, args ...string) {
		t.Helper()
		await.That(t, "kubectl top "+strings.Join(args, " "), func() error {
			out, err := kontiki(append([]string{"kubectl", "-n", ns, "top"}, args...)...)
			if err != nil || !strings.Contains(out, want) {
				return fmt.Errorf("%s %w", out, err)
			}
			return nil
		})
	}
	top("worker-1", "nodes")
	top("web-", "pods")
	top(" c ", "pods", "--containers", "-l", "app=web")
	wait := func(what, condition string) {
		t.Helper()
		if out, err := kontiki("kubectl", "-n", ns, "wait", what, "--for="+condition, "--timeout=180s"); err != nil {
			shown, _ := kontiki("kubectl", "-n", ns, "describe", "hpa", "web")
			t.Fatalf("%s %v\n%s", out, err, shown)
		}
	}
	replicas := func(want string) {
		t.Helper()
		wait("deployment/web", "jsonpath={.spec.replicas}="+want)
	}
	wait("hpa/web", "condition=ScalingActive")
	began := time.Now()
	loaded := kubectl(t, "-n", ns, "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[0].metadata.name}")
	kubectl(t, "-n", ns, "exec", loaded, "--", "touch", "/tmp/load")
	replicas("3")
	t.Logf("from the load to three replicas: %s", time.Since(began).Round(time.Second))
	contains(t, kubectl(t, "-n", ns, "describe", "hpa", "web"), "SuccessfulRescale", "cpu resource utilization (percentage of request) above target", "ValidMetricFound")

	began = time.Now()
	kubectl(t, "-n", ns, "exec", loaded, "--", "rm", "/tmp/load")
	replicas("1")
	t.Logf("from the end of the load to one replica: %s", time.Since(began).Round(time.Second))
	contains(t, kubectl(t, "-n", ns, "get", "events", "--field-selector=involvedObject.kind=HorizontalPodAutoscaler"), "All metrics below target")
}
