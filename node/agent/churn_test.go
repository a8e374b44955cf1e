package agent

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// TestRealChurn deletes pods at any moment of their start, and restarts the agent meanwhile: nothing may be left.
func TestRealChurn(t *testing.T) {
	w := newWorld(t)
	var pods []*corev1.Pod
	for i := range 24 {
		p := testPod(fmt.Sprintf("churn-%d", i), sh(waitForever), sh(waitForever))
		p.Spec.Volumes = []corev1.Volume{podVolume("m", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{Medium: corev1.StorageMediumMemory}})}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "m", MountPath: "/m", SubPath: "part"}}
		if i%5 == 0 {
			p.Spec.ShareProcessNamespace = ptr(true)
		}
		pods = append(pods, p)
		w.master.pod(p)
		if i == 12 {
			w.stop()
			w.start()
		}
		if i >= 4 {
			time.Sleep(rand.N(60 * time.Millisecond))
			w.master.delete(pods[i-4], int64(i%3))
		}
	}
	for _, p := range pods[20:] {
		w.master.delete(p, 5)
	}
	for _, p := range pods {
		w.master.awaitEnd(p.UID)
		w.master.remove("pods", p.Namespace, p.Name)
	}
	for _, p := range pods {
		w.awaitGone(p)
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if strings.Contains(line, w.dir) {
			t.Errorf("still mounted: %s", line)
		}
	}
	for _, c := range []string{"memory", "cpu", "pids", ""} {
		entries, _ := os.ReadDir("/sys/fs/cgroup/" + c + "/" + w.config.CgroupParent)
		for _, e := range entries {
			if e.IsDir() {
				t.Errorf("left in cgroup %s: %s", c, e.Name())
			}
		}
	}
}
