package e2e_test

import (
	"fmt"
	"testing"
	"time"

	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestADrainRespectsABudget: `kubectl drain` evicts one pod after the other, each when the one before is replaced.
func TestADrainRespectsABudget(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	t.Cleanup(func() { kubectl(t, "uncordon", "worker-1", "worker-2") })
	kubectl(t, "cordon", "worker-2")
	apply(t, deployment(ns, "web", 3))
	rollout(t, ns, "web")
	kubectl(t, "uncordon", "worker-2")
	kubectl(t, "-n", ns, "create", "poddisruptionbudget", "web", "--selector=app=web", "--max-unavailable=0")
	status := func(want string) {
		t.Helper()
		eventually(t, 30*time.Second, "the budget to be "+want, func() error {
			out := kubectl(t, "-n", ns, "get", "pdb", "web", "-o", "jsonpath={.status.currentHealthy}/{.status.desiredHealthy} of {.status.expectedPods}, {.status.disruptionsAllowed}")
			if out != want {
				return fmt.Errorf("it is %s", out)
			}
			return nil
		})
	}
	status("3/3 of 3, 0")
	pod := pods(t, ns, "app=web")[0]
	err := env.Set.PolicyV1().Evictions(ns).Evict(t.Context(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: ns}})
	if !errors.IsTooManyRequests(err) {
		t.Errorf("an eviction that the budget does not allow: %v", err)
	}
	kubectl(t, "-n", ns, "patch", "pdb", "web", "--type=merge", "-p", `{"spec":{"maxUnavailable":1}}`)
	status("3/2 of 3, 1")

	least := 3
	stop, watched := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(watched)
		for {
			select {
			case <-stop:
				return
			case <-time.After(100 * time.Millisecond):
			}
			list, err := env.Set.CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=web"})
			if err != nil {
				continue
			}
			n := 0
			for i := range list.Items {
				if p := &list.Items[i]; p.DeletionTimestamp == nil && ready(p) {
					n++
				}
			}
			least = min(least, n)
		}
	}()
	kubectl(t, "drain", "worker-1", "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--pod-selector=app=web", "--timeout=120s")
	close(stop)
	<-watched
	if least < 2 {
		t.Errorf("only %d pods were available during the drain", least)
	}
	for _, p := range pods(t, ns, "app=web") {
		if p.Spec.NodeName == "worker-1" && p.DeletionTimestamp == nil {
			t.Errorf("%s is still on the drained node", p.Name)
		}
	}
	status("3/2 of 3, 1")
}
