package e2e_test

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestANodeThatIsOutOfService(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	apply(t, in(ns, `
apiVersion: v1
kind: Pod
metadata: {name: stuck}
spec:
  nodeName: worker-1
  terminationGracePeriodSeconds: 1
  tolerations:
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 0}
  containers:
  - {name: c, image: "kontiki/tools:1", command: [tools, serve]}
`))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/stuck", "--timeout=60s")
	t.Cleanup(func() {
		cable(t, "worker-1", true)
		awaitNode(t, "worker-1", corev1.ConditionTrue)
	})
	cable(t, "worker-1", false)
	awaitNode(t, "worker-1", corev1.ConditionUnknown)
	eventually(t, 30*time.Second, "the pod to be evicted", func() error {
		pod, err := env.Set.CoreV1().Pods(ns).Get(context.Background(), "stuck", metav1.GetOptions{})
		if err == nil && pod.DeletionTimestamp == nil {
			err = errNotYet
		}
		return err
	})
	// The end of its containers is not confirmed, so it stays beyond its grace period, until the taint is set.
	time.Sleep(3 * time.Second)
	if _, err := env.Set.CoreV1().Pods(ns).Get(context.Background(), "stuck", metav1.GetOptions{}); err != nil {
		t.Fatalf("a pod whose end nobody has confirmed: %v", err)
	}
	kubectl(t, "taint", "node", "worker-1", "node.kubernetes.io/out-of-service=off:NoExecute")
	t.Cleanup(func() { kubectl(t, "taint", "node", "worker-1", "node.kubernetes.io/out-of-service-") })
	kubectl(t, "-n", ns, "wait", "--for=delete", "pod/stuck", "--timeout=30s")
}
