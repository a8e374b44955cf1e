package volume

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// TestNothingThatAPodPutsIntoAVolumeIsFollowed: a pod with a writable mount puts links and special files into its volume before the
// next update.
func TestNothingThatAPodPutsIntoAVolumeIsFollowed(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "key")
	for _, c := range []struct {
		name   string
		attack func(t *testing.T, dir string)
	}{
		{"the data link leads to a folder of the host", func(t *testing.T, dir string) {
			swap(t, filepath.Join(dir, dataLink), outside)
		}},
		{"a file of the data folder is a link to a file of the host", func(t *testing.T, dir string) {
			swap(t, filepath.Join(dir, dataLink, "key"), victim)
		}},
		{"the next data link is a folder's link", func(t *testing.T, dir string) {
			swap(t, filepath.Join(dir, "..data_tmp"), outside)
		}},
		{"a user's link leads to a folder of the host", func(t *testing.T, dir string) {
			swap(t, filepath.Join(dir, "key"), outside)
		}},
		{"a FIFO is in a file's place", func(t *testing.T, dir string) {
			path := filepath.Join(dir, dataLink, "key")
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if err := unix.Mkfifo(path, 0o644); err != nil {
				t.Fatal(err)
			}
		}},
		{"an endless file is in a file's place", func(t *testing.T, dir string) {
			path := filepath.Join(dir, dataLink, "key")
			if err := os.Truncate(path, 1<<40); err != nil {
				t.Skip(err)
			}
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if err := os.WriteFile(victim, []byte("the host's"), 0o600); err != nil {
				t.Fatal(err)
			}
			s := &shelf{configs: map[string]*corev1.ConfigMap{"cm": {Data: map[string]string{"key": "one"}}}}
			m := manager(t, s)
			p := podWith(configVolume())
			paths, err := m.Setup(context.Background(), p, "", nil)
			if err != nil {
				t.Fatal(err)
			}
			c.attack(t, paths["v"])
			for _, value := range []string{"one", "two"} { // looked at again, and updated
				s.configs["cm"] = &corev1.ConfigMap{Data: map[string]string{"key": value}}
				if _, err := m.Setup(context.Background(), p, "", nil); err != nil {
					t.Fatalf("%s: %v", value, err)
				}
				if got := read(t, filepath.Join(paths["v"], "key")); got != value {
					t.Errorf("the volume shows %q, want %q", got, value)
				}
			}
			if got := read(t, victim); got != "the host's" {
				t.Errorf("the host's file was written: %q", got)
			}
			if entries, _ := os.ReadDir(outside); len(entries) != 1 {
				t.Errorf("the host's folder has %v", entries)
			}
		})
	}
}

// swap replaces the file at path by a link to target.
func swap(t *testing.T, path, target string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

// TestSubPathOpensNothing: opening a FIFO would wait for its other end, and opening a device can have effects.
func TestSubPathOpensNothing(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounts need root")
	}
	m := manager(t, &shelf{})
	p := podWith(vol("v", corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}))
	paths, err := m.Setup(context.Background(), p, "", nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := paths["v"]
	for name, mode := range map[string]uint32{"fifo": unix.S_IFIFO, "socket": unix.S_IFSOCK, "file": unix.S_IFREG} {
		if err := unix.Mknod(filepath.Join(dir, name), mode|0o644, 0); err != nil {
			t.Fatal(err)
		}
	}
	for i, name := range []string{"fifo", "socket", "file", "fifo"} {
		target, err := m.SubPath(p, "c", i/3, dir, name) // the last one takes another kind's place
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		var a, b unix.Stat_t
		if unix.Lstat(target, &a) != nil || unix.Lstat(filepath.Join(dir, name), &b) != nil || a.Ino != b.Ino || a.Dev != b.Dev {
			t.Errorf("%s: %s is something else", name, target)
		}
	}
}

func TestMemoryVolumesAreBounded(t *testing.T) {
	node := &corev1.Node{}
	node.Status.Allocatable = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Gi")}
	m := New(Config{Node: func() *corev1.Node { return node }})
	limited := podWith()
	limited.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
	partly := limited.DeepCopy()
	partly.Spec.InitContainers = []corev1.Container{{Name: "i"}}
	quantity := func(s string) *resource.Quantity { q := resource.MustParse(s); return &q }
	for _, c := range []struct {
		name  string
		pod   *corev1.Pod
		limit *resource.Quantity
		want  string
	}{
		{"nothing is said", podWith(), nil, "1Gi"},
		{"the volume's own", podWith(), quantity("8Mi"), "8Mi"},
		{"the volume's own is above the node's", podWith(), quantity("8Gi"), "1Gi"},
		{"the volume's own is beyond all bounds", podWith(), quantity("18446744073709551617"), "1Gi"},
		{"the pod's", limited, nil, "64Mi"},
		{"the pod's is below the volume's", limited, quantity("1Gi"), "64Mi"},
		{"a container has no limit", partly, nil, "1Gi"},
	} {
		want := resource.MustParse(c.want)
		if got := m.memorySize(c.pod, &corev1.EmptyDirVolumeSource{SizeLimit: c.limit}); got != want.Value() {
			t.Errorf("%s: %d, want %s", c.name, got, c.want)
		}
	}
}

// deepen nests directories in dir, like a container can.
func deepen(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 300 {
		if err := unix.Mkdirat(fd, "a", 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(fd, "a", unix.O_DIRECTORY, 0)
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		fd = next
	}
	unix.Close(fd)
}

// fewDescriptors limits how many files the process may open.
func fewDescriptors(t *testing.T) {
	t.Helper()
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	few := old
	few.Cur = 200
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
			t.Error(err)
		}
	})
}

// A container nests directories deeper than the agent may open files.
func TestTearDownOfAVeryDeepVolume(t *testing.T) {
	root := t.TempDir()
	deepen(t, filepath.Join(root, "uid", "volumes", "kubernetes.io~empty-dir", "v"))
	fewDescriptors(t)
	if err := New(Config{RootDir: root}).TearDown(context.Background(), "uid"); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(root, "uid", "volumes")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the volumes are left: %v", err)
	}
}

// The same in a volume with the content of objects, by a container that has made it writable.
func TestVeryDeepDirectoriesInAWrittenVolume(t *testing.T) {
	dir := t.TempDir()
	files := map[string]file{"k": {data: []byte("v"), mode: 0o644, uid: -1}}
	if err := writeAtomically(context.Background(), dir, files, -1); err != nil {
		t.Fatal(err)
	}
	payload, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{payload, "..left", "other", "..data_tmp"} {
		deepen(t, filepath.Join(dir, name, "deep"))
	}
	fewDescriptors(t)
	if err := writeAtomically(context.Background(), dir, files, -1); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 3 {
		t.Errorf("%v, want the link, its payload and the file", entries)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "k")); err != nil || string(b) != "v" {
		t.Errorf("%q, %v", b, err)
	}
}
