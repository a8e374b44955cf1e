package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// statefulSet is a set named web with its service. Its containers would tell in the folder if two ran with one ordinal at once; the
// folder is on this machine, for all workers.
func statefulSet(ns, folder string, replicas int, further string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Service
metadata: {name: svc, namespace: %[1]s}
spec: {clusterIP: None, selector: {app: web}, ports: [{port: 8080}], publishNotReadyAddresses: true}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web, namespace: %[1]s}
spec:
  replicas: %[3]d
  serviceName: svc
  selector: {matchLabels: {app: web}}
%[4]s
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      tolerations:
      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      - {key: node.kubernetes.io/not-ready, operator: Exists, effect: NoExecute, tolerationSeconds: 1}
      containers:
      - name: alone
        image: kontiki/tools:1
        command: [tools, alone, /shared]
        env: [{name: VERSION, value: "1"}]
        volumeMounts: [{name: shared, mountPath: /shared}]
      - {name: serve, image: "kontiki/tools:1", command: [tools, serve]}
      volumes: [{name: shared, hostPath: {path: %[2]q}}]
`, ns, folder, replicas, further)
}

// neverTwice fails the test if a container of statefulSet found another one of its ordinal.
func neverTwice(t *testing.T, folder string) {
	t.Helper()
	told, err := os.ReadFile(filepath.Join(folder, "twice"))
	if err == nil {
		t.Errorf("ordinals ran twice at once:\n%s", told)
	} else if !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

func setRollout(t *testing.T, ns string) {
	t.Helper()
	kubectl(t, "-n", ns, "rollout", "status", "statefulset/web", "--timeout=180s")
}

func podUIDs(t *testing.T, ns, selector string) map[string]types.UID {
	t.Helper()
	out := map[string]types.UID{}
	for _, p := range pods(t, ns, selector) {
		out[p.Name] = p.UID
	}
	return out
}

func TestStatefulSet(t *testing.T) {
	healthy(t)
	ns, folder := namespace(t), t.TempDir()
	apply(t, statefulSet(ns, folder, 3, ""))
	setRollout(t, ns)
	for _, p := range pods(t, ns, "app=web") {
		out := kubectl(t, "-n", ns, "exec", "web-0", "-c", "serve", "--", "tools", "lookup", p.Name+".svc")
		if strings.TrimSpace(out) != p.Status.PodIP {
			t.Errorf("%s.svc is %q, its address is %s", p.Name, out, p.Status.PodIP)
		}
		if out := strings.TrimSpace(kubectl(t, "-n", ns, "exec", p.Name, "-c", "serve", "--", "hostname")); out != p.Name {
			t.Errorf("the host name of %s is %q", p.Name, out)
		}
	}
	before := podUIDs(t, ns, "app=web")
	kubectl(t, "-n", ns, "set", "env", "statefulset/web", "-c", "alone", "VERSION=2")
	setRollout(t, ns)
	for name, uid := range podUIDs(t, ns, "app=web") {
		if uid == before[name] {
			t.Errorf("%s was not replaced", name)
		}
	}
	kubectl(t, "-n", ns, "rollout", "undo", "statefulset/web")
	setRollout(t, ns)
	history := kubectl(t, "-n", ns, "rollout", "history", "statefulset/web")
	contains(t, history, "2", "3")
	if out := kubectl(t, "-n", ns, "get", "pod", "web-2", "-o", "jsonpath={.spec.containers[0].env[0].value}"); out != "1" {
		t.Errorf("after the undo, VERSION is %s", out)
	}
	kubectl(t, "-n", ns, "scale", "statefulset/web", "--replicas=1")
	kubectl(t, "-n", ns, "wait", "--for=delete", "pod/web-1", "pod/web-2", "--timeout=60s")
	neverTwice(t, folder)
}

// TestAnOrdinalOnAnUnreachableNode: the pod is evicted, but its end is not confirmed, so no other one with its ordinal is started
// until the node is back.
func TestAnOrdinalOnAnUnreachableNode(t *testing.T) {
	healthy(t)
	ns, folder := namespace(t), t.TempDir()
	apply(t, statefulSet(ns, folder, 2, "  podManagementPolicy: Parallel"))
	setRollout(t, ns)
	t.Cleanup(func() {
		cable(t, "worker-2", true)
		awaitNode(t, "worker-2", corev1.ConditionTrue)
	})
	kubectl(t, "cordon", "worker-1")
	t.Cleanup(func() { kubectl(t, "uncordon", "worker-1") })
	kubectl(t, "-n", ns, "delete", "pod", "web-0") // its successor can only be on worker-2
	setRollout(t, ns)
	kubectl(t, "uncordon", "worker-1")
	uid := podUIDs(t, ns, "app=web")["web-0"]
	cable(t, "worker-2", false)
	awaitNode(t, "worker-2", corev1.ConditionUnknown)
	web0 := func() (*corev1.Pod, error) {
		return env.Set.CoreV1().Pods(ns).Get(context.Background(), "web-0", metav1.GetOptions{})
	}
	eventually(t, 30*time.Second, "the pod to be evicted", func() error {
		pod, err := web0()
		if err == nil && pod.DeletionTimestamp == nil {
			err = errNotYet
		}
		return err
	})
	// Nothing must happen, beyond the pod's grace period and whatever the set is made to do: there is no event to wait for.
	kubectl(t, "-n", ns, "set", "env", "statefulset/web", "-c", "alone", "VERSION=2")
	for deadline := time.Now().Add(5 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		if pod, err := web0(); err != nil || pod.UID != uid {
			t.Fatalf("web-0 is replaced though its end is not confirmed: %v", err)
		}
	}
	cable(t, "worker-2", true)
	awaitNode(t, "worker-2", corev1.ConditionTrue)
	setRollout(t, ns)
	if pod, err := web0(); err != nil || pod.UID == uid {
		t.Errorf("web-0 is not replaced: %v", err)
	}
	neverTwice(t, folder)
}

// TestLeadersDieDuringStatefulSets: during a scale-up and a roll-out.
func TestLeadersDieDuringStatefulSets(t *testing.T) {
	healthy(t)
	ns, folder := namespace(t), t.TempDir()
	apply(t, statefulSet(ns, folder, 1, ""))
	setRollout(t, ns)
	for _, step := range []struct {
		change []string
		begun  string // the pod whose creation shows that the change is under way
	}{
		{[]string{"scale", "statefulset/web", "--replicas=5"}, "web-2"},
		{[]string{"set", "env", "statefulset/web", "-c", "alone", "VERSION=2"}, "web-3"},
	} {
		before := podUIDs(t, ns, "app=web")
		kubectl(t, append([]string{"-n", ns}, step.change...)...)
		eventually(t, time.Minute, "the change to be half done", func() error {
			if uid := podUIDs(t, ns, "app=web")[step.begun]; uid == "" || uid == before[step.begun] {
				return errNotYet
			}
			return nil
		})
		leader, err := env.Leader()
		if err != nil {
			t.Fatal(err)
		}
		must(t, "dev", "kill", leader)
		setRollout(t, ns)
		must(t, "dev", "start", leader)
		healthy(t)
	}
	for i := range 5 {
		name := fmt.Sprintf("web-%d", i)
		if out := kubectl(t, "-n", ns, "get", "pod", name, "-o", "jsonpath={.spec.containers[0].env[0].value} {.status.phase}"); out != "2 Running" {
			t.Errorf("%s: %s", name, out)
		}
	}
	neverTwice(t, folder)
}
