package e2e_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/api/advice"
)

// TestRequestsFollowWhatPodsUse: `kontiki advise` says what requests would fit real containers, and the annotation makes the cluster change them
// in place, without a restart.
func TestRequestsFollowWhatPodsUse(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	apply(t, in(ns, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: idle}
spec:
  replicas: 1
  selector: {matchLabels: {app: idle}}
  template:
    metadata: {labels: {app: idle}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: busybox:latest
        imagePullPolicy: IfNotPresent
        command: [sleep, "10000"]
        resources: {requests: {cpu: 200m, memory: 64Mi}}
`))
	kubectl(t, "-n", ns, "rollout", "status", "deployment/idle", "--timeout=60s")
	eventually(t, 2*time.Minute, "there is advice", func() error {
		var l advice.List
		out, err := kontiki("advise", "idle", "-n", ns, "-o", "json")
		if err != nil {
			return err
		}
		if err := json.Unmarshal([]byte(out), &l); err != nil {
			return err
		}
		if len(l.Items) != 1 || l.Items[0].Kind != "Deployment" || l.Items[0].Container != "c" || l.Items[0].Pods != 1 || l.Items[0].CPU.Target.MilliValue() > 100 || l.Items[0].CPU.Target.IsZero() {
			return fmt.Errorf("advice %s", out)
		}
		return nil
	})
	shown := must(t, "advise", "-n", ns)
	t.Log("\n" + shown)
	contains(t, shown, "WORKLOAD", "deployment/idle", "200m", "64Mi")
	contains(t, must(t, "advise", "-A"), "deployment/idle")
	kubectl(t, "-n", ns, "annotate", "deployment", "idle", "kontiki.io/advice=apply")
	eventually(t, 2*time.Minute, "the request is changed in the running container", func() error {
		out, err := kontiki("kubectl", "-n", ns, "get", "pods", "-l", "app=idle", "-o", "jsonpath={.items[*].spec.containers[0].resources.requests.cpu} {.items[*].status.containerStatuses[0].resources.requests.cpu} {.items[*].status.containerStatuses[0].restartCount}")
		if err != nil || out != "100m 100m 0" { // by a step of a half
			return fmt.Errorf("%s %w", out, err)
		}
		return nil
	})
	if events := kubectl(t, "-n", ns, "get", "events"); !strings.Contains(events, "AdviceApplied") {
		t.Errorf("no event tells of it:\n%s", events)
	}
}
