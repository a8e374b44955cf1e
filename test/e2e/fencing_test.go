package e2e_test

import (
	"bufio"
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
)

// TestAVolumeOfAWorkerThatIsCutOff: a pod that uses a volume for one node at a time runs elsewhere soon after its worker was cut off from all
// masters, and the worker has stopped it before. Both workers of these tests see the same file system.
func TestAVolumeOfAWorkerThatIsCutOff(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { kubectl(t, "delete", "pv", "e2e-shared-"+ns, "--wait=false") })
	apply(t, fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolume
metadata: {name: e2e-shared-%[1]s}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: %[1]s
  local: {path: %[2]s}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [worker-1, worker-2]}]}]}}
`, ns, dir))
	apply(t, in(ns, fmt.Sprintf(`
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], storageClassName: %s, resources: {requests: {storage: 1Gi}}}
`, ns)))
	apply(t, in(ns, `
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  selector: {matchLabels: {app: db}}
  serviceName: db
  template:
    metadata: {labels: {app: db}}
    spec:
      containers:
      - name: c
        image: busybox
        imagePullPolicy: Never
        command: [sh, -c, "trap '' TERM; while true; do echo $NODE >> /data/log; sleep 0.1; done"]
        env: [{name: NODE, valueFrom: {fieldRef: {fieldPath: spec.nodeName}}}]
        volumeMounts: [{name: data, mountPath: /data}]
      volumes:
      - {name: data, persistentVolumeClaim: {claimName: data}}
`))
	kubectl(t, "-n", ns, "rollout", "status", "statefulset/db", "--timeout=90s")
	get := func() *corev1.Pod {
		t.Helper()
		pod, err := env.Set.CoreV1().Pods(ns).Get(context.Background(), "db-0", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return pod
	}
	node := get().Spec.NodeName
	t.Cleanup(func() {
		cable(t, node, true)
		awaitNode(t, node, corev1.ConditionTrue)
	})
	cut := time.Now()
	cable(t, node, false)
	eventually(t, 2*time.Minute, "the pod to run on the other worker", func() error {
		pod, err := env.Set.CoreV1().Pods(ns).Get(context.Background(), "db-0", metav1.GetOptions{})
		if err == nil && (pod.Spec.NodeName == node || pod.Status.Phase != corev1.PodRunning) {
			err = fmt.Errorf("it is %s on %q", pod.Status.Phase, pod.Spec.NodeName)
		}
		return err
	})
	t.Logf("it ran on the other worker %s after its worker was cut off", time.Since(cut).Round(time.Second))
	other := get().Spec.NodeName
	writers := func() (names []string, last int) {
		t.Helper()
		file, err := os.Open(filepath.Join(dir, "log"))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		for lines := bufio.NewScanner(file); lines.Scan(); last++ {
			if name := strings.TrimSpace(lines.Text()); len(names) == 0 || names[len(names)-1] != name {
				names = append(names, name)
			}
		}
		return names, last
	}
	eventually(t, time.Minute, "the other worker's pod to write", func() error {
		if names, _ := writers(); names[len(names)-1] != other {
			return errors.New("it has not yet")
		}
		return nil
	})
	// The worker comes back, and does not start its pod again.
	cable(t, node, true)
	awaitNode(t, node, corev1.ConditionTrue)
	eventually(t, time.Minute, "the node's marks to be removed", func() error {
		n, err := env.Set.CoreV1().Nodes().Get(context.Background(), node, metav1.GetOptions{})
		if err == nil && (metav1.HasAnnotation(n.ObjectMeta, "kontiki.io/fencing") || metav1.HasAnnotation(n.ObjectMeta, "kontiki.io/fenced")) {
			err = errNotYet
		}
		return err
	})
	_, before := writers()
	eventually(t, time.Minute, "the pod to write more", func() error {
		if _, now := writers(); now < before+10 {
			return errNotYet
		}
		return nil
	})
	if names, _ := writers(); len(names) != 2 || names[0] != node || names[1] != other {
		t.Errorf("the volume was written by, in turns: %v", names)
	}
}
