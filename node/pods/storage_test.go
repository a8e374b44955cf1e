package pods

import (
	"context"
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

func TestDiskUse(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "a"), 1<<40); err != nil { // a hole takes nothing
		t.Skip(err)
	}
	if n, err := diskUse(context.Background(), dir, 1<<50); err != nil || n < 1<<20 || n > 2<<20 {
		t.Errorf("%d, %v", n, err)
	}
	if n, err := diskUse(context.Background(), dir, 1); err != nil || n <= 1 {
		t.Errorf("more than one byte: %d, %v", n, err)
	}
}
