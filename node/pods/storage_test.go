package pods

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/kontiki/kontiki/node/runtime"
)

func TestPodsThatFillTheDiskAreEvicted(t *testing.T) {
	quantity := func(s string) *resource.Quantity { q := resource.MustParse(s); return &q }
	limit := func(p *corev1.Pod, q string) {
		p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse(q)}
	}
	for _, c := range []struct {
		name     string
		pod      func(p *corev1.Pod)
		file     int // bytes in the volume
		own, log uint64
		want     string
	}{
		{"a volume above its limit", func(p *corev1.Pod) { p.Spec.Volumes[0].EmptyDir.SizeLimit = quantity("1Mi") }, 2 << 20, 0, 0, `Usage of EmptyDir volume "v" exceeds the limit "1Mi". `},
		{"a volume below its limit", func(p *corev1.Pod) { p.Spec.Volumes[0].EmptyDir.SizeLimit = quantity("4Mi") }, 2 << 20, 0, 0, ""},
		{"a volume without one", func(p *corev1.Pod) {}, 2 << 20, 1 << 40, 0, ""},
		{"a container", func(p *corev1.Pod) { limit(p, "1Mi") }, 0, 1 << 20, 1, `Container c1 exceeded its local ephemeral storage limit "1Mi". `},
		{"a container below its limit", func(p *corev1.Pod) { limit(p, "1Mi") }, 0, 1 << 19, 1 << 18, ""},
		{"the sum", func(p *corev1.Pod) { limit(p, "3Mi") }, 2 << 20, 1 << 20, 1 << 19, "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. "},
		{"a pod that the system needs", func(p *corev1.Pod) {
			critical := int32(systemCritical)
			p.Spec.Priority = &critical
			limit(p, "1Mi")
		}, 0, 1 << 30, 0, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *node) {
				dir := filepath.Join(n.dir, "volume")
				if err := os.MkdirAll(dir, 0o755); err != nil {
					t.Fatal(err)
				}
				n.paths = map[string]string{"v": dir}
				p := pod("a", corev1.RestartPolicyAlways, ignores)
				p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
				c.pod(p)
				n.m.Update(p)
				n.running(p, "c1")
				if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, c.file), 0o644); err != nil {
					t.Fatal(err)
				}
				if err := os.Symlink("/", filepath.Join(dir, "host")); err != nil {
					t.Fatal(err)
				}
				n.rt.SetStats("c1", runtime.Stats{RootfsBytes: c.own, LogBytes: c.log})
				time.Sleep(2*storagePeriod + 4*time.Second)
				s := n.status(p)
				if c.want == "" {
					if s.Phase != corev1.PodRunning {
						t.Errorf("%s: %s %s", s.Phase, s.Reason, s.Message)
					}
					return
				}
				if s.Phase != corev1.PodFailed || s.Reason != "Evicted" || s.Message != c.want || !n.hasEnded(p) {
					t.Errorf("%s: %s %q", s.Phase, s.Reason, s.Message)
				}
				if said := n.said("Evicted"); len(said) != 1 || said[0] != c.want {
					t.Errorf("said %q", said)
				}
			})
		})
	}
}

func storagePod(n *node, name, dir string) *corev1.Pod {
	p := pod(name, corev1.RestartPolicyAlways, ignores)
	size := resource.MustParse("1Gi")
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: &size}}}}
	n.mu.Lock()
	n.paths = map[string]string{"v": dir}
	n.mu.Unlock()
	return p
}

// A pod does not escape its limits by making its storage too large to measure.
func TestPodsWhoseStorageCannotBeMeasuredAreEvicted(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		n.m.measuring.trees.Entries = 100
		dir := filepath.Join(n.dir, "volume")
		for i := range 101 {
			if err := os.MkdirAll(filepath.Join(dir, fmt.Sprint(i)), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		p := storagePod(n, "a", dir)
		n.m.Update(p)
		n.running(p, "c1")
		time.Sleep(storagePeriod + 4*time.Second)
		if s := n.status(p); s.Phase != corev1.PodRunning {
			t.Errorf("after the first failures: %s %q", s.Phase, s.Message)
		}
		time.Sleep(maxUnmeasured * unmeasuredPeriod)
		want := `Pod local storage is limited but could not be measured 3 times in a row: volume "v": too many files. `
		if s := n.status(p); s.Phase != corev1.PodFailed || s.Reason != "Evicted" || s.Message != want {
			t.Errorf("%s: %s %q", s.Phase, s.Reason, s.Message)
		}
	})
}

// One that takes very long, or for ever, does not keep others from being measured.
func TestASlowMeasureDelaysNoOtherPod(t *testing.T) {
	bubble(t, func(t *testing.T, n *node) {
		for range measuresAtOnce - 1 { // pods that are being measured
			n.m.measures <- struct{}{}
		}
		dir := filepath.Join(n.dir, "volume")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		p := storagePod(n, "a", dir)
		*p.Spec.Volumes[0].EmptyDir.SizeLimit = resource.MustParse("1Mi")
		n.m.Update(p)
		n.running(p, "c1")
		if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, 2<<20), 0o644); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2*storagePeriod + 4*time.Second)
		if s := n.status(p); s.Reason != "Evicted" {
			t.Errorf("%s: %s %q", s.Phase, s.Reason, s.Message)
		}
	})
}

// Containers can write to the files that the agent mounts into them.
func TestFilesOfTheAgentCount(t *testing.T) {
	for _, c := range []struct {
		name, limit, file string
		size              int
		want              string
	}{
		{"a pod with a limit", "1Mi", "etc/hosts", 2 << 20, "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "},
		{"a termination message", "1Mi", "containers/c1/0", 2 << 20, "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi. "},
		{"below the limit", "4Mi", "etc/hosts", 2 << 20, ""},
		{"a pod without a limit", "", "etc/resolv.conf", maxOwnFiles + 1, `Usage of the pod's /etc/hosts, /etc/hostname, /etc/resolv.conf and termination message files exceeds the limit "16Mi". `},
		{"a small file", "", "etc/resolv.conf", 1 << 20, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T, n *node) {
				p := pod("a", corev1.RestartPolicyAlways, ignores)
				if c.limit != "" {
					p.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: resource.MustParse(c.limit)}
				}
				n.m.Update(p)
				n.running(p, "c1")
				path := filepath.Join(n.m.podDir(p.UID), c.file)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, make([]byte, c.size), 0o644); err != nil {
					t.Fatal(err)
				}
				time.Sleep(2*ownFilesPeriod + 4*time.Second)
				s := n.status(p)
				if evicted := s.Reason == "Evicted"; evicted != (c.want != "") || s.Message != c.want {
					t.Errorf("%s: %s %q", s.Phase, s.Reason, s.Message)
				}
			})
		})
	}
}
