package e2e_test

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

func daemonSet(ns string, strategy string) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent, namespace: %s}
spec:
  selector: {matchLabels: {app: agent}}
  updateStrategy: %s
  template:
    metadata: {labels: {app: agent}}
    spec:
      terminationGracePeriodSeconds: 1
      nodeSelector: {e2e/agent: "yes"}
      containers:
      - name: c
        image: kontiki/tools:1
        command: [tools, serve]
        env: [{name: VERSION, value: "1"}]
`, ns, strategy)
}

// daemons returns the nodes and UIDs of the pods of daemonSet that are not being deleted.
func daemons(t *testing.T, ns string) map[string]types.UID {
	t.Helper()
	out := map[string]types.UID{}
	for _, p := range pods(t, ns, "app=agent") {
		if p.DeletionTimestamp == nil {
			out[p.Spec.NodeName] = p.UID
		}
	}
	return out
}

func TestDaemonSet(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	t.Cleanup(func() { kubectl(t, "label", "nodes", "worker-1", "worker-2", "e2e/agent-") })
	kubectl(t, "label", "node", "worker-1", "e2e/agent=yes")
	apply(t, daemonSet(ns, `{rollingUpdate: {maxUnavailable: 0, maxSurge: 1}}`))
	rolled := func() {
		t.Helper()
		kubectl(t, "-n", ns, "rollout", "status", "daemonset/agent", "--timeout=120s")
	}
	on := func(nodes ...string) {
		t.Helper()
		eventually(t, time.Minute, fmt.Sprintf("pods on %v", nodes), func() error {
			have := daemons(t, ns)
			for _, node := range nodes {
				if have[node] == "" {
					return fmt.Errorf("they are on %v", have)
				}
			}
			if len(have) != len(nodes) {
				return fmt.Errorf("they are on %v", have)
			}
			return nil
		})
		rolled()
	}
	on("worker-1")
	// A cordoned node gets one, too.
	kubectl(t, "cordon", "worker-2")
	t.Cleanup(func() { kubectl(t, "uncordon", "worker-2") })
	kubectl(t, "label", "node", "worker-2", "e2e/agent=yes")
	on("worker-1", "worker-2")

	before := daemons(t, ns)
	kubectl(t, "-n", ns, "set", "env", "daemonset/agent", "VERSION=2")
	rolled()
	for node, uid := range daemons(t, ns) {
		if uid == before[node] {
			t.Errorf("the pod on %s was not replaced", node)
		}
	}
	kubectl(t, "-n", ns, "rollout", "undo", "daemonset/agent")
	rolled()
	contains(t, kubectl(t, "-n", ns, "rollout", "history", "daemonset/agent"), "2", "3")
	contains(t, kubectl(t, "-n", ns, "get", "pods", "-o", "jsonpath={.items[*].spec.containers[0].env[0].value}"), "1")

	// The leader is killed during a roll-out.
	kubectl(t, "-n", ns, "set", "env", "daemonset/agent", "VERSION=3")
	leader, err := env.Leader()
	if err != nil {
		t.Fatal(err)
	}
	must(t, "dev", "kill", leader)
	rolled()
	must(t, "dev", "start", leader)
	healthy(t)
	if out := kubectl(t, "-n", ns, "get", "pods", "-o", "jsonpath={.items[*].spec.containers[0].env[0].value}"); out != "3 3" {
		t.Errorf("the pods have version %s", out)
	}

	kubectl(t, "label", "node", "worker-1", "e2e/agent-")
	on("worker-2")
}

// TestADaemonStaysOnAnUnreachableNode: it is not evicted, and goes on when the node is back.
func TestADaemonStaysOnAnUnreachableNode(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	t.Cleanup(func() { kubectl(t, "label", "nodes", "worker-1", "worker-2", "e2e/agent-") })
	kubectl(t, "label", "nodes", "worker-1", "worker-2", "e2e/agent=yes")
	apply(t, daemonSet(ns, `{rollingUpdate: {maxUnavailable: 1}}`))
	kubectl(t, "-n", ns, "rollout", "status", "daemonset/agent", "--timeout=120s")
	before := daemons(t, ns)
	containers := containerIDs(t, ns)
	t.Cleanup(func() {
		cable(t, "worker-2", true)
		awaitNode(t, "worker-2", corev1.ConditionTrue)
	})
	cable(t, "worker-2", false)
	awaitNode(t, "worker-2", corev1.ConditionUnknown)
	// The node is tainted: another pod would not be started there, so this one counts as misplaced.
	eventually(t, 30*time.Second, "the status to tell", func() error {
		if out := kubectl(t, "-n", ns, "get", "daemonset", "agent", "-o", "jsonpath={.status.desiredNumberScheduled} {.status.numberMisscheduled}"); out != "1 1" {
			return fmt.Errorf("desired and misplaced are %q", out)
		}
		return nil
	})
	// Nothing must happen for a while: there is no event to wait for.
	for deadline := time.Now().Add(3 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if now := daemons(t, ns); now["worker-2"] != before["worker-2"] {
			t.Fatalf("the daemon was evicted: %v", now)
		}
	}
	cable(t, "worker-2", true)
	awaitNode(t, "worker-2", corev1.ConditionTrue)
	kubectl(t, "-n", ns, "rollout", "status", "daemonset/agent", "--timeout=120s")
	sameContainers(t, containers, containerIDs(t, ns))
}
