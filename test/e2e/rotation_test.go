package e2e_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// certificates is the part of `kontiki cluster certs -o json` that the test reads.
type certificates struct {
	Generation uint64
	Rotations  []string
	Masters    []struct {
		Name string
		CAs  []struct{ Role, Pin string }
	}
	Workers []struct{ Name, Master, Issuer string }
}

func certs(t *testing.T) (c certificates) {
	t.Helper()
	if err := json.Unmarshal([]byte(must(t, "cluster", "certs", "-o", "json")), &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c certificates) issuing() string {
	for _, ca := range c.Masters[0].CAs {
		if ca.Role == "issuing" {
			return ca.Pin
		}
	}
	return ""
}

// TestEveryKeyIsRotatedWhileTheClusterWorks changes the CA, the gossip key and the key of Secrets while pods run.
func TestEveryKeyIsRotatedWhileTheClusterWorks(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	for i := range workers {
		apply(t, in(ns, toolPod(fmt.Sprintf("tools-%d", i+1), fmt.Sprintf("worker-%d", i+1), "tools", "serve")))
	}
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pods", "--all", "--timeout=60s")
	reached := func(when string) { // through the API and the agent of each worker
		t.Helper()
		for i := range workers {
			if out, err := kontiki("kubectl", "-n", ns, "exec", fmt.Sprintf("tools-%d", i+1), "--", "cat", "/etc/hosts"); err != nil {
				t.Errorf("exec on worker-%d %s: %v: %s", i+1, when, err, out)
			}
		}
	}
	before, containers := certs(t), containerIDs(t, ns)
	if len(before.Masters) != masters || len(before.Workers) != workers {
		t.Fatalf("certificates of %+v", before)
	}
	nodesBefore := readySince(t)
	w := writeTo(ns)
	defer w.done.Wait()
	defer w.stop()

	must(t, "cluster", "certs", "rotate-ca")
	eventually(t, time.Minute, "everybody to have a certificate of the new CA", func() error {
		now := certs(t)
		if now.issuing() == before.issuing() {
			return errNotYet
		}
		for _, worker := range now.Workers {
			if worker.Issuer != now.issuing() || worker.Master == "" {
				return fmt.Errorf("%+v", worker)
			}
		}
		return nil
	})
	reached("between the CAs")
	must(t, "cluster", "certs", "rotate-gossip-key")
	must(t, "cluster", "certs", "rotate-secret-key")
	eventually(t, time.Minute, "the new keys to be in use", func() error {
		if now := certs(t); len(now.Rotations) != 1 { // the CA's end is asked for
			return fmt.Errorf("%v", now.Rotations)
		}
		return nil
	})
	at := w.count()
	must(t, "cluster", "certs", "rotate-ca", "--finish")
	eventually(t, time.Minute, "the kubeconfig of the new CA", func() error {
		if err := env.Refresh(); err != nil {
			return err
		}
		_, err := env.Set.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{})
		return err
	})
	w.stop()
	w.done.Wait()
	if at < 20 {
		t.Errorf("only %d writes were acknowledged before the end of the rotation", at)
	}
	t.Logf("longest time without an acknowledged write, up to the end of the old CA: %s", w.longest.Round(time.Millisecond))
	reached("after the rotation")
	healthy(t)
	sameContainers(t, containers, containerIDs(t, ns))
	for name, since := range readySince(t) {
		if since != nodesBefore[name] {
			t.Errorf("%s was not ready during the rotation", name)
		}
	}
	// Stopped hosts can connect again with the data on their disks.
	for _, host := range []string{"master-2", "worker-1"} {
		must(t, "dev", "kill", host)
		must(t, "dev", "start", host)
	}
	healthy(t)
	eventually(t, time.Minute, "everybody to follow", func() error {
		for _, worker := range certs(t).Workers {
			if worker.Master == "" {
				return errors.New(worker.Name)
			}
		}
		return nil
	})
	reached("after restarts")
}

// readySince is when each node became ready.
func readySince(t *testing.T) map[string]string {
	t.Helper()
	list, err := env.Set.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	since := map[string]string{}
	for _, node := range list.Items {
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady {
				since[node.Name] = fmt.Sprint(c.Status, c.LastTransitionTime)
			}
		}
	}
	return since
}
