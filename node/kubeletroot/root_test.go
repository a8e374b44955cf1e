package kubeletroot

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestPathsOfPluginsLeadIntoTheAgentsOwnFolder(t *testing.T) {
	r, err := New("/data/worker/kubelet")
	if err != nil {
		t.Fatal(err)
	}
	for seen, real := range map[string]string{
		"/var/lib/kubelet":                     "/data/worker/kubelet",
		"/var/lib/kubelet/":                    "/data/worker/kubelet",
		"/var/lib/kubelet/plugins/d/csi.sock":  "/data/worker/kubelet/plugins/d/csi.sock",
		"/var/lib/kubelet/../kubelet2/x":       "/var/lib/kubelet2/x",
		"/var/lib/kubelet-other":               "/var/lib/kubelet-other",
		"/var/lib":                             "/var/lib",
		"/etc/kubernetes":                      "/etc/kubernetes",
		"/var/lib/kubelet/plugins/../../../..": "/",
	} {
		if got := r.Real(seen); got != real {
			t.Errorf("Real(%s) = %s, want %s", seen, got, real)
		}
	}
	if got := r.Seen(r.Plugins() + "/d"); got != "/var/lib/kubelet/plugins/d" {
		t.Errorf("Seen: %s", got)
	}
	same, err := New("")
	if err != nil {
		t.Fatal(err)
	}
	if got := same.Real("/var/lib/kubelet/pods"); same.Dir() == Default && got != "/var/lib/kubelet/pods" {
		t.Errorf("Real in the default folder: %s", got)
	}
}

func TestLinksAboveTheFolderAreResolved(t *testing.T) {
	top := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(top, "disk"), 0o755), os.Symlink("disk", filepath.Join(top, "lib"))); err != nil {
		t.Fatal(err)
	}
	r, err := New(filepath.Join(top, "lib", "kubelet")) // which does not exist yet
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(top, "disk", "kubelet"); r.Dir() != want {
		t.Errorf("the folder is %s, want %s", r.Dir(), want)
	}
}

func TestTheFolderIsShared(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "kubelet")
	r, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for unix.Unmount(dir, unix.MNT_DETACH) == nil { // each mount at the path
		}
	})
	for range 2 { // the second time nothing is mounted, and the folders are made again: also those of pods, of which no earlier ones exist
		if err := r.Prepare(filepath.Join(filepath.Dir(dir), "none")); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(r.Pods()); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Prepare(filepath.Join(filepath.Dir(dir), "none")); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{"pods", "plugins", "plugins_registry", "device-plugins"} {
		if st, err := os.Stat(filepath.Join(dir, d)); err != nil || st.Mode().Perm() != 0o750 {
			t.Errorf("%s: %v %v", d, st, err)
		}
	}
	if _, shared, err := mountOf(dir); err != nil || !shared {
		t.Errorf("shared: %v, %v", shared, err)
	}
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(b), " "+dir+" "); n > 1 {
		t.Errorf("%d mounts at the folder", n)
	}
}

func TestEarlierPodsAreMovedAndThoseOfOthersAreLeftAlone(t *testing.T) {
	top := t.TempDir()
	unmount := func(dir string) {
		t.Cleanup(func() {
			for unix.Unmount(dir, unix.MNT_DETACH) == nil { // each mount at the path
			}
		})
	}
	earlier, mine, others := filepath.Join(top, "pods"), filepath.Join(top, "mine"), filepath.Join(top, "others")
	for _, dir := range []string{filepath.Join(earlier, "uid-1"), filepath.Join(mine, "pods"), filepath.Join(others, "pods", "uid-2")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r, err := New(mine)
	if err != nil {
		t.Fatal(err)
	}
	unmount(mine)
	for range 2 { // also with pods in it
		if err := r.Prepare(earlier); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(filepath.Join(r.Pods(), "uid-1")); err != nil {
			t.Error(err)
		}
	}
	if r, err = New(others); err != nil {
		t.Fatal(err)
	}
	unmount(others)
	if err := r.Prepare(earlier); err == nil || !strings.Contains(err.Error(), "pods of another kubelet") {
		t.Errorf("the folder of another kubelet: %v", err)
	}
	if _, err := os.Stat(filepath.Join(others, "plugins")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of another kubelet was changed: %v", err)
	}
}

func TestDialFollowsNoLinkAndLeavesTheFolderNowhere(t *testing.T) {
	top := t.TempDir()
	dir := filepath.Join(top, "kubelet")
	r, err := New(dir)
	if err != nil {
		t.Fatal(err)
	}
	deep := "plugins/" + strings.Repeat("a-folder-with-a-long-name/", 6) // longer than the address of a socket may be
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(os.MkdirAll(filepath.Join(dir, deep), 0o755))
	t.Chdir(filepath.Join(dir, deep))
	listen, err := net.Listen("unix", "csi.sock")
	check(err)
	defer listen.Close()
	go func() {
		for {
			c, err := listen.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	check(os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	check(os.Symlink(filepath.Join(deep, "csi.sock"), filepath.Join(dir, "link")))
	check(os.Symlink("plugins", filepath.Join(dir, "folder")))
	c, err := r.Dial(context.Background(), "/var/lib/kubelet/"+deep+"csi.sock")
	check(err)
	c.Close()
	for path, want := range map[string]error{
		"/var/lib/kubelet/file":    ErrNotSocket,
		"/var/lib/kubelet/plugins": ErrNotSocket,
		"/var/lib/kubelet/link":    unix.ELOOP,
		"/var/lib/kubelet/folder/" + strings.TrimPrefix(deep, "plugins/") + "csi.sock": unix.ELOOP,
		"/var/lib/kubelet/plugins/none":        os.ErrNotExist,
		"/run/containerd/containerd.sock":      nil,
		"/var/lib/kubelet/../../../run/x.sock": nil,
		"relative.sock":                        nil,
	} {
		c, err := r.Dial(context.Background(), path)
		if err == nil {
			c.Close()
			t.Errorf("%s: connected", path)
			continue
		}
		if want != nil && !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
}
