package e2e_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestStaticPods: a file on the workers runs a pod on each, which the API shows as a mirror pod, and which only the file ends.
func TestStaticPods(t *testing.T) {
	healthy(t)
	ns := namespace(t)
	file := filepath.Join(staticPods, "web.yaml")
	hidden := filepath.Join(staticPods, ".web.yaml")
	write := func(manifest string) {
		t.Helper()
		if err := errors.Join(os.WriteFile(hidden, []byte(manifest), 0o600), os.Rename(hidden, file)); err != nil {
			t.Fatal(err)
		}
	}
	manifest := strings.Replace(in(ns, toolPod("web", "", "tools", "serve")), "  nodeName: \n", "", 1)
	write(manifest)
	t.Cleanup(func() { os.Remove(file) })
	container := func(name string) (mirror *corev1.Pod, id string) {
		t.Helper()
		eventually(t, time.Minute, "the mirror pod "+name+" to be ready", func() error {
			var err error
			if mirror, err = env.Set.CoreV1().Pods(ns).Get(context.Background(), name, metav1.GetOptions{}); err != nil {
				return err
			}
			for _, c := range mirror.Status.Conditions {
				if c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue && mirror.DeletionTimestamp == nil {
					id = mirror.Status.ContainerStatuses[0].ContainerID
					return nil
				}
			}
			return fmt.Errorf("it is %+v", mirror.Status)
		})
		return mirror, id
	}
	one, first := container("web-worker-1")
	if _, other := container("web-worker-2"); other == first {
		t.Error("both workers show one container")
	}
	if one.Annotations[corev1.MirrorPodAnnotationKey] == "" || len(one.OwnerReferences) != 1 || one.OwnerReferences[0].Kind != "Node" || one.OwnerReferences[0].Name != "worker-1" {
		t.Errorf("the mirror pod has annotations %v, owners %v", one.Annotations, one.OwnerReferences)
	}
	contains(t, kubectl(t, "-n", ns, "exec", "web-worker-1", "--", "tools", "get", "http://127.0.0.1:8080/"), "web-worker-1")
	contains(t, kubectl(t, "-n", ns, "describe", "pod", "web-worker-1"), "Started")

	// Deleting the mirror pod ends nothing; nor does a drain, or a restart of the agent.
	again := func(what string) {
		t.Helper()
		if _, id := container("web-worker-1"); id != first {
			t.Errorf("%s: container %s became %s", what, first, id)
		}
	}
	kubectl(t, "-n", ns, "delete", "pod", "web-worker-1")
	eventually(t, time.Minute, "another mirror pod", func() error {
		if p, err := env.Set.CoreV1().Pods(ns).Get(context.Background(), "web-worker-1", metav1.GetOptions{}); err != nil || p.UID == one.UID {
			return fmt.Errorf("there is the old one, or %v", err)
		}
		return nil
	})
	again("after the mirror pod was deleted")
	two, _ := container("web-worker-1")
	kubectl(t, "drain", "worker-1", "--ignore-daemonsets", "--force", "--delete-emptydir-data")
	kubectl(t, "uncordon", "worker-1")
	again("after a drain")
	must(t, "dev", "kill", "worker-1")
	must(t, "dev", "start", "worker-1")
	awaitNode(t, "worker-1", corev1.ConditionTrue)
	again("after a restart of the agent")
	if now, _ := container("web-worker-1"); now.UID != two.UID {
		t.Error("the mirror pod was replaced though nothing had changed")
	}

	// What the file says replaces the pod, a broken file changes nothing, and its removal ends it.
	write("{")
	again("with a broken file")
	write(strings.Replace(manifest, "labels: {", "labels: {version: two, ", 1))
	eventually(t, time.Minute, "the changed pod", func() error {
		p, err := env.Set.CoreV1().Pods(ns).Get(context.Background(), "web-worker-1", metav1.GetOptions{})
		if err != nil || p.Labels["version"] != "two" {
			return fmt.Errorf("labels %v, %v", p.GetLabels(), err)
		}
		return nil
	})
	if _, id := container("web-worker-1"); id == first {
		t.Error("the pod was not replaced")
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"web-worker-1", "web-worker-2"} {
		eventually(t, time.Minute, "the end of "+name, func() error {
			if _, err := env.Set.CoreV1().Pods(ns).Get(context.Background(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("it is there, or %v", err)
			}
			return nil
		})
	}
}
