package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/test/filetree"
)

// The procedures of docs/operations.md, as an operator would follow them.

// clusterStatus is the output of `kontiki cluster status`; degraded is its exit status. No response counts as degraded, too.
func clusterStatus(t *testing.T) (s cluster.Status, degraded bool) {
	t.Helper()
	out, err := kontiki("cluster", "status", "-o", "json")
	var exit *exec.ExitError
	if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 2) {
		s.Problems = []string{err.Error()}
		return s, true
	}
	if jsonErr := json.NewDecoder(strings.NewReader(out)).Decode(&s); jsonErr != nil {
		t.Fatalf("%v: %s", jsonErr, out)
	}
	return s, err != nil
}

func hostDir(host string) string { return filepath.Join(env.Dir, "hosts", host) }

// newMachine replaces a master's machine by an empty one.
func newMachine(t *testing.T, host string) {
	t.Helper()
	if err := os.RemoveAll(hostDir(host)); err != nil {
		t.Fatal(err)
	}
	must(t, "dev", "start", host)
}

func TestSnapshotIsSavedInspectedAndRestored(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	kubectl(t, "-n", ns, "create", "secret", "generic", "password", "--from-literal=word=hush-hush")
	kubectl(t, "-n", ns, "create", "configmap", "settings", "--from-literal=colour=green")
	apply(t, in(ns, toolPod("stays", "worker-1", "tools", "serve")))
	apply(t, deployment(ns, "old", 2))
	rollout(t, ns, "old")
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/stays", "--timeout=60s")
	stays := containerIDs(t, ns)["stays/c"]
	if stays == "" {
		t.Fatalf("no container of the pod that stays: %v", containerIDs(t, ns))
	}

	file := filepath.Join(t.TempDir(), "state.snapshot")
	contains(t, must(t, "snapshot", "save", file), "saved revision")
	out := must(t, "snapshot", "inspect", file)
	contains(t, out, "deployments.apps", "secrets", "Revision:")
	if data, err := os.ReadFile(file); err != nil || strings.Contains(string(data), "hush-hush") || strings.Contains(out, "hush-hush") {
		t.Errorf("a secret is readable in the snapshot: %v", err)
	}

	watcher, err := env.Set.CoreV1().ConfigMaps(ns).Watch(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watcher.Stop()
	kubectl(t, "-n", ns, "delete", "deployment", "old")
	kubectl(t, "-n", ns, "delete", "secret", "password")
	kubectl(t, "-n", ns, "patch", "configmap", "settings", "-p", `{"data":{"colour":"red"}}`)
	apply(t, deployment(ns, "new", 2))
	rollout(t, ns, "new")
	before, _ := clusterStatus(t)

	contains(t, must(t, "snapshot", "restore", file), "restored revision")
	after, degraded := clusterStatus(t)
	if after.Epoch != before.Epoch+1 || after.Revision <= before.Revision || degraded {
		t.Errorf("epoch %d, revision %d, before %d and %d: %v", after.Epoch, after.Revision, before.Epoch, before.Revision, after.Problems)
	}
	if colour := kubectl(t, "-n", ns, "get", "configmap", "settings", "-o", "jsonpath={.data.colour}"); colour != "green" {
		t.Errorf("the setting is %q", colour)
	}
	if word := kubectl(t, "-n", ns, "get", "secret", "password", "-o", "jsonpath={.data.word}"); word != "aHVzaC1odXNo" {
		t.Errorf("the secret is %q", word)
	}
	eventually(t, time.Minute, "workers to do as the snapshot says", func() error {
		running := 0
		for _, pod := range pods(t, ns, "") {
			switch {
			case strings.HasPrefix(pod.Name, "new-"):
				return fmt.Errorf("pod %s is still there", pod.Name)
			case strings.HasPrefix(pod.Name, "old-") && pod.Status.Phase == corev1.PodRunning && pod.DeletionTimestamp == nil && ready(&pod):
				running++
			}
		}
		if running != 2 {
			return fmt.Errorf("%d pods of the deployment run", running)
		}
		return nil
	})
	rollout(t, ns, "old")
	if got := containerIDs(t, ns)["stays/c"]; got != stays {
		t.Errorf("the container of a pod that the restore did not change was %s, is %s", stays, got)
	}
	// The watch continues over the restore; its revisions never decrease.
	last, green := uint64(0), false
	for deadline := time.After(30 * time.Second); !green; {
		select {
		case event, ok := <-watcher.ResultChan():
			if !ok {
				t.Fatal("the watch ended")
			}
			cm, ok := event.Object.(*corev1.ConfigMap)
			if !ok {
				t.Fatalf("the watch ended with %+v", event.Object)
			}
			revision, err := strconv.ParseUint(cm.ResourceVersion, 10, 64)
			if err != nil || event.Type != "ADDED" && revision <= last {
				t.Errorf("resource version %s after %d (%v)", cm.ResourceVersion, last, err)
			}
			last = max(last, revision)
			green = cm.Name == "settings" && cm.Data["colour"] == "green" && revision > before.Revision
		case <-deadline:
			t.Fatal("the watch does not tell of the restore")
		}
	}
	// A damaged file is rejected before anything changes.
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, command := range []string{"inspect", "restore"} {
		if out, err := kontiki("snapshot", command, file); err == nil || !strings.Contains(err.Error(), "undamaged backup") {
			t.Errorf("%s of a damaged snapshot: %s %v", command, out, err)
		}
	}
}

// TestARestoreInTheMiddleOfADeletion: controllers do not continue after the restore what they had begun before it.
func TestARestoreInTheMiddleOfADeletion(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	for i := range 20 {
		kubectl(t, "-n", ns, "create", "configmap", fmt.Sprint("kept-", i))
	}
	apply(t, deployment(ns, "web", 2))
	rollout(t, ns, "web")
	file := filepath.Join(t.TempDir(), "state.snapshot")
	must(t, "snapshot", "save", file)
	for range 3 {
		kubectl(t, "delete", "namespace", ns, "--wait=false")
		must(t, "snapshot", "restore", file)
		eventually(t, time.Minute, "the deployment to be whole", func() error {
			d, err := env.Set.AppsV1().Deployments(ns).Get(context.Background(), "web", metav1.GetOptions{})
			if err == nil && (d.Status.AvailableReplicas != 2 || d.Status.ObservedGeneration < d.Generation) {
				err = fmt.Errorf("%d replicas are available", d.Status.AvailableReplicas)
			}
			return err
		})
		got, err := env.Set.CoreV1().Namespaces().Get(context.Background(), ns, metav1.GetOptions{})
		if err != nil || got.DeletionTimestamp != nil {
			t.Fatalf("the namespace: %+v, %v", got, err)
		}
		if list, err := env.Set.CoreV1().ConfigMaps(ns).List(context.Background(), metav1.ListOptions{}); err != nil || len(list.Items) < 20 {
			t.Fatalf("%d configmaps are there, %v", len(list.Items), err)
		}
	}
}

func ready(pod *corev1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

func deployment(ns, name string, replicas int) string {
	return fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: %[2]s, namespace: %[1]s}
spec:
  replicas: %[3]d
  selector: {matchLabels: {app: %[2]s}}
  template:
    metadata: {labels: {app: %[2]s}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: c, image: "kontiki/tools:1", command: [tools, serve]}
`, ns, name, replicas)
}

func TestMastersAreTransferredReplacedAndRemoved(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	kubectl(t, "-n", ns, "create", "configmap", "kept")
	contains(t, must(t, "cluster", "transfer", "master-2"), "master-2 leads")
	if s, degraded := clusterStatus(t); s.Leader != "master-2" || degraded {
		t.Errorf("%s leads, degraded %v: %v", s.Leader, degraded, s.Problems)
	}
	contains(t, must(t, "cluster", "members"), "master-3", "worker-2", "alive")

	// The leader's machine is lost, and an empty one replaces it.
	must(t, "dev", "kill", "master-2")
	eventually(t, 20*time.Second, "the status to say so", func() error {
		s, degraded := clusterStatus(t)
		if text := strings.Join(s.Problems, "\n"); !degraded || !strings.Contains(text, "master-2") || !strings.Contains(text, "one more failure") || s.FailuresTolerated != 0 {
			return fmt.Errorf("%v", s.Problems)
		}
		return nil
	})
	newMachine(t, "master-2")
	healthy(t)

	// The first master, whose data had the first tokens, is replaced in the same way.
	must(t, "dev", "kill", "master-1")
	newMachine(t, "master-1")
	healthy(t)

	// A master is removed; it notices that, and stays out until it joins with a token and an empty disk.
	contains(t, must(t, "cluster", "remove", "master-3"), "removed")
	// One that does not get the entry that removes it, as a leader that has passed on its leadership may not, asks after half a minute.
	eventually(t, time.Minute, "the removed master to say so", func() error {
		data, err := os.ReadFile(filepath.Join(env.Dir, "logs", "master-3.log"))
		if err == nil && !strings.Contains(string(data), "was removed from its cluster") {
			err = errors.New("its log says nothing")
		}
		return err
	})
	if s, _ := clusterStatus(t); len(s.Members) != 2 {
		t.Errorf("members: %+v", s.Members)
	}
	if out, err := kontiki("dev", "kill", "master-3"); err != nil && !strings.Contains(err.Error(), "down already") {
		t.Fatal(out, err)
	}
	newMachine(t, "master-3")
	healthy(t)
	if out, err := kontiki("cluster", "remove", "nobody"); err == nil || !strings.Contains(err.Error(), "no such master") {
		t.Errorf("%s %v", out, err)
	}
	kubectl(t, "-n", ns, "get", "configmap", "kept")
}

func TestQuorumIsLostForGood(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	kubectl(t, "-n", ns, "create", "configmap", "kept")
	apply(t, in(ns, toolPod("server", "worker-2", "tools", "serve")))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/server", "--timeout=60s")
	before := containerIDs(t, ns)
	status, _ := clusterStatus(t)
	for i := range masters {
		must(t, "dev", "kill", fmt.Sprintf("master-%d", i+1))
	}
	for _, lost := range []string{"master-1", "master-3"} {
		if err := os.RemoveAll(hostDir(lost)); err != nil {
			t.Fatal(err)
		}
	}
	data := filetree.Contents(t, hostDir("master-2"))
	if len(data) < 5 {
		t.Fatalf("%s holds no master's data: %v", hostDir("master-2"), data)
	}
	out, err := kontiki("cluster", "recover", "--data-dir", hostDir("master-2"))
	if after := filetree.Contents(t, hostDir("master-2")); !maps.Equal(data, after) {
		t.Errorf("without --yes it changed the data: %v, before %v", after, data)
	}
	if err == nil || !strings.Contains(out+err.Error(), "WARNING") || !strings.Contains(out+err.Error(), "--yes") {
		t.Fatalf("without --yes: %s %v", out, err)
	}
	contains(t, must(t, "cluster", "recover", "--data-dir", hostDir("master-2"), "--yes"), "master-1 at", "master-3 at", "Done")
	must(t, "dev", "start", "master-2")
	eventually(t, 30*time.Second, "the survivor to serve", func() error {
		_, err := kontiki("kubectl", "-n", ns, "get", "configmap", "kept")
		return err
	})
	kubectl(t, "-n", ns, "create", "configmap", "after")
	must(t, "dev", "start", "master-1")
	must(t, "dev", "start", "master-3")
	healthy(t)
	eventually(t, time.Minute, "workers to be ready", func() error { return nodesReady(workers) })
	sameContainers(t, before, containerIDs(t, ns))
	if s, degraded := clusterStatus(t); s.Epoch != status.Epoch+1 || s.Revision <= status.Revision || degraded {
		t.Errorf("epoch %d, revision %d, before %d and %d: %v", s.Epoch, s.Revision, status.Epoch, status.Revision, s.Problems)
	}
	kubectl(t, "-n", ns, "get", "configmap", "kept", "after")
}
