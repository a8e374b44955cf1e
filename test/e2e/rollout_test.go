package e2e_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestALeaderDiesDuringARollOut: the next one ends it where the deployment says, without pods in surplus.
func TestALeaderDiesDuringARollOut(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	apply(t, deployment(ns, "web", 6))
	kubectl(t, "-n", ns, "patch", "deployment", "web", "--type=merge", "-p", `{"spec":{"minReadySeconds":1,"strategy":{"rollingUpdate":{"maxSurge":1,"maxUnavailable":0}}}}`)
	rollout(t, ns, "web")
	before := podUIDs(t, ns, "app=web")
	kubectl(t, "-n", ns, "set", "env", "deployment/web", "VERSION=2")
	eventually(t, time.Minute, "the roll-out to be under way", func() error {
		fresh := 0
		for name := range podUIDs(t, ns, "app=web") {
			if before[name] == "" {
				fresh++
			}
		}
		if fresh < 2 {
			return fmt.Errorf("%d new pods", fresh)
		}
		return nil
	})
	leader, err := env.Leader()
	if err != nil {
		t.Fatal(err)
	}
	must(t, "dev", "kill", leader)
	rollout(t, ns, "web")
	must(t, "dev", "start", leader)
	healthy(t)
	eventually(t, 30*time.Second, "the old pods to be gone", func() error {
		all := pods(t, ns, "app=web")
		for i := range all {
			if before[all[i].Name] != "" {
				return fmt.Errorf("%s is still there", all[i].Name)
			}
		}
		if len(all) != 6 {
			return fmt.Errorf("%d pods", len(all))
		}
		return nil
	})
	sets, err := env.Set.AppsV1().ReplicaSets(ns).List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(sets.Items) != 2 {
		t.Errorf("%d replica sets for two templates", len(sets.Items))
	}
	for _, rs := range sets.Items {
		if n := *rs.Spec.Replicas; n != 0 && n != 6 {
			t.Errorf("%s is left with %d replicas", rs.Name, n)
		}
	}
}
