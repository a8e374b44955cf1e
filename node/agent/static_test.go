package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
	"github.com/kontiki/kontiki/test/await"
)

// TestRealStaticPodsNeedNoMaster: a node that has never seen a master runs its static pods, goes on with them after a restart, and shows
// them once there is a master.
func TestRealStaticPodsNeedNoMaster(t *testing.T) {
	w := newWorld(t)
	w.stop()
	w.master.stop()
	w.dir = t.TempDir() // an agent that knows nothing
	w.static = t.TempDir()
	file := filepath.Join(w.static, "web.yaml")
	err := os.WriteFile(file, []byte(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "web"}, "spec": {"hostNetwork": true, "terminationGracePeriodSeconds": 0,
		"containers": [{"name": "c", "image": "`+runtimetest.BusyboxName+`", "imagePullPolicy": "Never", "command": ["sleep", "100000"]}]}}`), 0o600)
	if err != nil {
		t.Fatal(err)
	}
	w.start()
	var found runtime.Container
	awaitContainers := func(want int) {
		t.Helper()
		await.That(t, fmt.Sprint(want, " running containers"), func() error {
			list, err := w.runtime.ListContainers(context.Background(), "")
			running := 0
			for _, c := range list {
				if c.State == runtime.StateRunning {
					running++
					found = c
				}
			}
			if err != nil || running != want {
				return fmt.Errorf("%d run, %v", running, err)
			}
			return nil
		})
	}
	awaitContainers(1)
	first := found.ID
	if found.PodName != "web-node-1" || found.PodNamespace != "default" {
		t.Errorf("it is of the pod %s/%s", found.PodNamespace, found.PodName)
	}
	w.stop()
	w.start()
	awaitContainers(1)
	if found.ID != first {
		t.Error("a restart of the agent restarted the container")
	}

	l, err := net.Listen("tcp", w.master.addr)
	if err != nil {
		t.Fatal(err)
	}
	w.master.put("nodes", "Node", "v1", &metav1.ObjectMeta{Name: "node-1"}, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node-1", UID: "n"}, Spec: corev1.NodeSpec{PodCIDR: "10.244.0.0/24"}})
	w.master.serve(l)
	s := w.master.awaitPod("mirror-of-web-node-1", "running", running)
	if s.ContainerStatuses[0].ContainerID != "containerd://"+first || s.ContainerStatuses[0].RestartCount != 0 || s.ObservedGeneration != 1 {
		t.Errorf("its mirror pod shows %+v", s)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	awaitContainers(0)
	w.master.await("the end of the mirror pod", func() bool { return w.master.objects[key{"pods", "default", "web-node-1"}] == nil })
}
