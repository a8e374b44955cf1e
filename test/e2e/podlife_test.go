package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// cgroupFile returns the content of a file of a pod's cgroup, in the first version or the second.
func cgroupFile(uid, container, v1, v2 string) (string, error) {
	for _, pattern := range []string{filepath.Join("/sys/fs/cgroup/*/*/*", "pod"+uid, container, v1), filepath.Join("/sys/fs/cgroup/*/*", "pod"+uid, container, v2)} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		for _, f := range found {
			b, err := os.ReadFile(f)
			return strings.TrimSpace(string(b)), err
		}
	}
	return "", fmt.Errorf("the cgroup of pod %s has neither %s nor %s", uid, v1, v2)
}

func getPod(t *testing.T, namespace, name string) *corev1.Pod {
	t.Helper()
	p, err := env.Set.CoreV1().Pods(namespace).Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPodIsResizedInPlace(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	manifest := strings.Replace(toolPod("web", "worker-1", "tools", "serve"), "    command:", "    resources: {limits: {cpu: 100m, memory: 64Mi}}\n    command:", 1)
	apply(t, in(ns, manifest))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
	before := containerIDs(t, ns)
	resize := func(resources string) {
		t.Helper()
		kubectl(t, "-n", ns, "patch", "pod", "web", "--subresource=resize", "--type=strategic", "-p", `{"spec":{"containers":[{"name":"c","resources":`+resources+`}]}}`)
	}
	resize(`{"limits":{"cpu":"200m","memory":"96Mi"},"requests":{"cpu":"200m","memory":"96Mi"}}`)
	eventually(t, 30*time.Second, "the resize to be carried out", func() error {
		p := getPod(t, ns, "web")
		s := p.Status.ContainerStatuses[0]
		if s.Resources.Limits.Memory().Value() != 96<<20 || s.AllocatedResources.Cpu().MilliValue() != 200 || p.Status.ObservedGeneration != p.Generation {
			return fmt.Errorf("status %+v", s)
		}
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.PodResizePending || c.Type == corev1.PodResizeInProgress {
				return fmt.Errorf("condition %+v", c)
			}
		}
		id := strings.TrimPrefix(s.ContainerID, "containerd://")
		if m, err := cgroupFile(string(p.UID), id, "memory.limit_in_bytes", "memory.max"); err != nil || m != fmt.Sprint(96<<20) {
			return fmt.Errorf("the container's memory limit is %s (%v)", m, err)
		}
		if m, err := cgroupFile(string(p.UID), "", "memory.limit_in_bytes", "memory.max"); err != nil || m != fmt.Sprint(96<<20) {
			return fmt.Errorf("the pod's memory limit is %s (%v)", m, err)
		}
		return nil
	})
	sameContainers(t, before, containerIDs(t, ns))
	// Another pod leaves half a processor.
	node, err := env.Set.CoreV1().Nodes().Get(t.Context(), "worker-1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	rest := fmt.Sprintf("    resources: {limits: {cpu: %dm, memory: 64Mi}}\n    command:", node.Status.Allocatable.Cpu().MilliValue()-500)
	other := strings.Replace(toolPod("other", "worker-1", "tools", "serve"), "    command:", rest, 1)
	apply(t, in(ns, other))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/other", "--timeout=60s")
	before = containerIDs(t, ns)
	resize(`{"limits":{"cpu":"1","memory":"96Mi"},"requests":{"cpu":"1","memory":"96Mi"}}`)
	eventually(t, 30*time.Second, "the resize to be deferred", func() error {
		for _, c := range getPod(t, ns, "web").Status.Conditions {
			if c.Type == corev1.PodResizePending && c.Reason == corev1.PodReasonDeferred {
				return nil
			}
		}
		return errNotYet
	})
	sameContainers(t, before, containerIDs(t, ns))
	kubectl(t, "-n", ns, "delete", "pod", "other")
	eventually(t, 30*time.Second, "the deferred resize to be carried out", func() error {
		if s := getPod(t, ns, "web").Status.ContainerStatuses[0]; s.Resources.Limits.Cpu().MilliValue() != 1000 || s.RestartCount != 0 {
			return fmt.Errorf("status %+v", s)
		}
		return nil
	})
}

// TestImagesOfTheCluster: an image that one node exported can be removed from all and imported again, with a line for each node.
func TestImagesOfTheCluster(t *testing.T) {
	healthy(t)
	const image = "docker.io/kontiki/tools:1"
	contains(t, must(t, "image", "list"), image, "imported", "all 2")
	file := filepath.Join(t.TempDir(), "image.tar")
	contains(t, must(t, "image", "export", "kontiki/tools:1", file, "--node", "worker-2"), "worker-2: exported kontiki/tools:1")
	ns := namespace(t)
	apply(t, in(ns, toolPod("web", "worker-1", "tools", "serve")))
	kubectl(t, "-n", ns, "wait", "--for=condition=Ready", "pod/web", "--timeout=60s")
	t.Cleanup(func() { must(t, "image", "import", file) })
	out, err := kontiki("image", "remove", "kontiki/tools:1", "--node", "worker-1")
	if err == nil || !strings.Contains(err.Error(), "is used by the pods") || !strings.Contains(err.Error(), ns+"/web") {
		t.Errorf("an image in use was removed: %s %v", out, err)
	}
	contains(t, must(t, "image", "import", file), "worker-1: imported "+image, "worker-2: imported "+image)
}
