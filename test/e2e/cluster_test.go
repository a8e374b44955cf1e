// Package e2e_test drives the real binary as a user would: one development cluster of three masters and two workers, with kubectl
// and client-go as its clients. The tests share the cluster and run one after the other; each leaves it healthy.
package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/test/devcluster"
)

const (
	masters = 3
	workers = 2
)

// env is the cluster that the tests share.
var env *devcluster.Cluster

// traces receives the traces that tests begin.
var traces *collector

// staticPods is the folder of the static pods of all workers.
var staticPods string

// sharedFlags are flags of the cluster's masters that all masters must have.
var sharedFlags = []string{"--advice-period=5s", "--advice-apply-after=5s"}

func TestMain(m *testing.M) {
	os.Exit(runAll(m))
}

func runAll(m *testing.M) (code int) {
	policy, err := auditPolicyFile()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.Remove(policy)
	if staticPods, err = os.MkdirTemp("", "kontiki-static-pods-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(staticPods)
	var tracing string
	traces, tracing, err = startCollector()
	defer traces.stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if handlerCalls, err = loggingHandler(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(filepath.Dir(handlerCalls))
	env, err = devcluster.Start(os.Stdout, masters, workers, "--server-arg=--tracing-config-file="+tracing, "--agent-arg=--tracing-config-file="+tracing,
		"--server-arg="+sharedFlags[0], "--server-arg="+sharedFlags[1],
		"--agent-arg=--pod-manifest-path="+staticPods, "--agent-arg=--runtime-handlers=logging=io.containerd.runc.v2:"+handlerCalls+".sh",
		"--server-arg=--audit-policy-file="+policy, "--server-arg=--audit-log-path=-")
	defer func() {
		if code != 0 {
			env.ShowLogs(os.Stderr)
		}
		if err := env.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "clean up:", err)
			code = 1
		}
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func kontiki(args ...string) (string, error) { return env.Run(args...) }

func kontikiWith(stdin io.Reader, args ...string) (string, error) { return env.RunWith(stdin, args...) }

// must runs kontiki and fails the test if it fails.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := kontiki(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// kubectl runs kubectl and fails the test if it fails.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	return must(t, append([]string{"kubectl"}, args...)...)
}

// apply applies a manifest.
func apply(t *testing.T, manifest string) {
	t.Helper()
	if _, err := kontikiWith(strings.NewReader(manifest), "kubectl", "apply", "-f", "-"); err != nil {
		t.Fatal(err)
	}
}

// contains fails the test unless text holds all of the words.
func contains(t *testing.T, text string, words ...string) {
	t.Helper()
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("%q is not in:\n%s", word, text)
		}
	}
}

// namespace creates a namespace for the test and deletes it afterwards.
func namespace(t *testing.T) string {
	t.Helper()
	name := "t-" + strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(strings.TrimPrefix(t.Name(), "Test")))
	kubectl(t, "create", "namespace", name)
	t.Cleanup(func() {
		if t.Failed() {
			out, err := kontiki("kubectl", "-n", name, "describe", "pods")
			t.Logf("%s %v", out, err)
		}
		if _, err := kontiki("kubectl", "delete", "namespace", name, "--timeout=90s"); err != nil {
			t.Error(err)
		}
	})
	return name
}

// eventually calls a function until it returns no error. It is for changes in other processes, which have no event in the test.
func eventually(t *testing.T, limit time.Duration, what string, ask func() error) {
	t.Helper()
	deadline := time.After(limit)
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-deadline:
			t.Fatalf("waited %s for %s: %v", limit, what, err)
		case <-ticker.C:
		}
	}
}

// pods returns the pods of a namespace with a label.
func pods(t *testing.T, namespace, selector string) []corev1.Pod {
	t.Helper()
	list, err := env.Set.CoreV1().Pods(namespace).List(context.Background(), metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// rollout waits until a deployment is rolled out.
func rollout(t *testing.T, namespace, name string) {
	t.Helper()
	kubectl(t, "-n", namespace, "rollout", "status", "deployment/"+name, "--timeout=120s")
}

// toolPod is a pod of the tests' tools, on a worker.
func toolPod(name, node string, command ...string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, labels: {app: %s}}
spec:
  nodeName: %s
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: kontiki/tools:1
    command: [%s]
`, name, name, node, `"`+strings.Join(command, `", "`)+`"`)
}

var errNotYet = errors.New("not yet")

// healthy waits until all masters vote and are healthy, and makes clients use the cluster's present keys: an earlier test may have
// changed them, and may have failed since.
func healthy(t *testing.T) {
	t.Helper()
	healthyAre(t, masters)
}

func healthyAre(t *testing.T, masters int) {
	t.Helper()
	eventually(t, time.Minute, "all masters to be well", func() error {
		if err := env.Refresh(); err != nil {
			return err
		}
		s, degraded := clusterStatus(t)
		if degraded || len(s.Members) != masters {
			return fmt.Errorf("%d masters, problems: %v", len(s.Members), s.Problems)
		}
		return nil
	})
}
