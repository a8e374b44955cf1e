package cases_test

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// node waits until a node is as it should be; nil says that there is none.
func node(t *testing.T, name, what string, is func(*corev1.Node) bool) *corev1.Node {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for {
		n, err := env.Set.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			n = nil
		}
		if (err == nil || apierrors.IsNotFound(err)) && is(n) {
			return n
		}
		select {
		case <-ctx.Done():
			t.Fatalf("waited for node %s to be %s: %v", name, what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func ready(n *corev1.Node) bool {
	if n == nil {
		return false
	}
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// TestAWorkerYoungerThanTheSnapshot: a snapshot is restored that does not know a worker. The worker is still there, and its
// session goes on; it registers by itself, and runs pods.
func TestAWorkerYoungerThanTheSnapshot(t *testing.T) {
	k := newCase(t)
	dev := func(args ...string) {
		t.Helper()
		if _, err := env.Run(append([]string{"dev", "--data-dir", env.Dir}, args...)...); err != nil {
			t.Fatal(err)
		}
	}
	dev("kill", "worker-1")
	k.must("delete", "node", "worker-1", "--wait=true")
	snapshot := filepath.Join(t.TempDir(), "snapshot")
	if _, err := env.Run("snapshot", "save", snapshot); err != nil {
		t.Fatal(err)
	}
	dev("start", "worker-1")
	younger := node(t, "worker-1", "registered", ready)
	if _, err := env.Run("snapshot", "restore", snapshot); err != nil {
		t.Fatal(err)
	}
	node(t, "worker-1", "registered again", func(n *corev1.Node) bool { return ready(n) && n.UID != younger.UID })
	k.apply(`
apiVersion: v1
kind: Pod
metadata: {name: p}
spec:
  restartPolicy: Never
  containers: [{name: c, image: SHELL, command: [sh, -c, "exit 0"]}]
`)
	k.ended("p", corev1.PodSucceeded)
}
