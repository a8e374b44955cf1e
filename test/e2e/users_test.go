package e2e_test

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestAPodWithUsersOfItsOwn: the processes of a pod with hostUsers: false are no users of the host, and its container can use its volumes.
func TestAPodWithUsersOfItsOwn(t *testing.T) {
	healthy(t)
	if kubectl(t, "get", "node", "worker-1", "-o", "jsonpath={.status.runtimeHandlers[0].features.userNamespaces}") != "true" {
		t.Skip("this host has no user namespaces") // the node says so, and refuses such pods (node/pods: TestEveryFieldOfAPodIsKnown)
	}
	ns := namespace(t)
	apply(t, in(ns, strings.Replace(toolPod("web", "worker-1", "tools", "serve"), "  containers:", "  hostUsers: false\n  containers:", 1)))
	if _, err := kontiki("kubectl", "-n", ns, "wait", "--for=condition=Ready", "pod/web", "--timeout=60s"); err != nil {
		t.Fatal(err, kubectl(t, "-n", ns, "describe", "pod", "web"))
	}
	contains(t, kubectl(t, "-n", ns, "exec", "web", "--", "tools", "get", "http://127.0.0.1:8080/"), "web")
	p := getPod(t, ns, "web")
	id := strings.TrimPrefix(p.Status.ContainerStatuses[0].ContainerID, "containerd://")
	pids, err := cgroupFile(string(p.UID), id, "cgroup.procs", "cgroup.procs")
	if err != nil {
		t.Fatal(err)
	}
	ids, err := os.ReadFile(fmt.Sprintf("/proc/%s/uid_map", strings.Fields(pids)[0]))
	if f := strings.Fields(string(ids)); err != nil || len(f) != 3 || f[0] != "0" || f[1] == "0" || f[2] != "65536" {
		t.Errorf("its user ids are %q, %v", ids, err)
	}
	kubectl(t, "-n", ns, "delete", "pod", "web")
	eventually(t, 30*time.Second, "nothing of the pod to be left", func() error {
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err == nil && strings.Contains(string(mounts), id) {
			err = fmt.Errorf("there are mounts of container %s", id)
		}
		return err
	})
}
