package e2e_test

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"
)

// journals is a StatefulSet whose pods count in a file of their claims of the default class: a container continues from the file's last number.
func journals(ns string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: journal, namespace: %[1]s}
spec:
  replicas: 2
  podManagementPolicy: Parallel
  serviceName: journal
  selector: {matchLabels: {app: journal}}
  template:
    metadata: {labels: {app: journal}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints: [{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: DoNotSchedule, labelSelector: {matchLabels: {app: journal}}}]
      containers:
      - name: c
        image: kontiki/tools:1
        command: [sh, -c, 'n=$(tail -n 1 /data/numbers 2>/dev/null); n=${n:-0}; while :; do n=$((n+1)); echo $n >> /data/numbers; sleep 0.1; done']
        volumeMounts: [{name: data, mountPath: /data}]
  volumeClaimTemplates:
  - metadata: {name: data}
    spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
`, ns)
}

// numbers checks that the file of a pod counts without a gap, and returns the last number.
func numbers(t *testing.T, ns, pod string) (last int, err error) {
	t.Helper()
	out, err := kontiki("kubectl", "-n", ns, "exec", pod, "--", "cat", "/data/numbers")
	if err != nil {
		return 0, err
	}
	lines := strings.Split(out, "\n")
	for i, line := range lines[:len(lines)-1] { // the last one may be incomplete
		if line != fmt.Sprint(i+1) {
			t.Fatalf("line %d of the file of %s is %q", i+1, pod, line)
		}
	}
	return len(lines) - 1, nil
}

// TestDataOutlivesWhatServesIt: pods of a StatefulSet keep their data, and go on writing it, while agents, containerd and all masters are
// killed and pods are deleted.
func TestDataOutlivesWhatServesIt(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	apply(t, journals(ns))
	kubectl(t, "-n", ns, "rollout", "status", "statefulset/journal", "--timeout=90s")
	pods := []string{"journal-0", "journal-1"}
	reached := map[string]int{}
	grows := func(after string) {
		t.Helper()
		for _, pod := range pods {
			before := reached[pod]
			eventually(t, time.Minute, pod+" to go on writing after "+after, func() error {
				n, err := numbers(t, ns, pod)
				if err == nil && n <= before {
					err = fmt.Errorf("it has %d numbers, and had %d", n, before)
				}
				reached[pod] = n
				return err
			})
		}
	}
	grows("its start")
	containers := containerIDs(t, ns)

	for _, worker := range []string{"worker-1", "worker-2"} {
		must(t, "dev", "kill", worker)
		must(t, "dev", "start", worker)
	}
	grows("the agents were killed")
	pid, err := env.Process("containerd")
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	grows("containerd was killed")
	for i := range masters {
		must(t, "dev", "kill", fmt.Sprintf("master-%d", i+1))
	}
	for i := range masters {
		must(t, "dev", "start", fmt.Sprintf("master-%d", i+1))
	}
	healthy(t)
	grows("all masters were killed")
	sameContainers(t, containers, containerIDs(t, ns))

	// New pods find the data.
	kubectl(t, "-n", ns, "delete", "pod", "-l", "app=journal", "--timeout=60s")
	grows("the pods were deleted")
}
