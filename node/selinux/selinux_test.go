package selinux

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	library "github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/selinux/selinuxtest"
)

func newHost() (*Host, *selinuxtest.Policy) {
	p := selinuxtest.New()
	return New(p), p
}

func TestPodsHaveLevelsOfTheirOwn(t *testing.T) {
	h, p := newHost()
	a, err := h.Pod(nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := h.Pod(&Options{Type: "web_t"})
	if err != nil {
		t.Fatal(err)
	}
	if a != (Labels{"system_u:system_r:container_t:s0:c0,c1", "system_u:object_r:container_file_t:s0:c0,c1"}) {
		t.Errorf("the first pod has %v", a)
	}
	if b != (Labels{"system_u:system_r:web_t:s0:c1,c2", "system_u:object_r:container_file_t:s0:c1,c2"}) {
		t.Errorf("the second pod has %v", b)
	}
	h.Release(a)
	h.Release(b)
	if len(p.Used)+len(h.levels) > 0 {
		t.Errorf("levels of removed pods are still reserved: %v, %v", p.Used, h.levels)
	}
}

func TestALevelOfTwoPodsIsReservedUntilBothAreGone(t *testing.T) {
	h, p := newHost()
	o := &Options{Level: "s0:c7,c8"}
	a, err := h.Pod(o)
	if err != nil {
		t.Fatal(err)
	}
	b, err := h.Pod(o)
	if err != nil {
		t.Fatal(err)
	}
	h.Release(a)
	if !p.Used["s0:c7,c8"] {
		t.Error("the level is free although a pod has it")
	}
	h.Release(b)
	if p.Used["s0:c7,c8"] {
		t.Error("the level is reserved although no pod has it")
	}
}

func TestContainersShareTheLevelOfTheirPod(t *testing.T) {
	h, p := newHost()
	pod, err := h.Pod(&Options{Type: "web_t"})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		own  *Options
		want Labels
	}{
		{nil, pod},
		{&Options{}, pod},
		{&Options{Type: "db_t", Role: "r"}, Labels{"system_u:r:db_t:s0:c0,c1", "system_u:object_r:container_file_t:s0:c0,c1"}},
		{&Options{User: "u", Level: "s0:c5,c9"}, Labels{"u:system_r:container_t:s0:c5,c9", "u:object_r:container_file_t:s0:c5,c9"}},
	} {
		if got, err := h.Container(pod, c.own); err != nil || got != c.want {
			t.Errorf("options %+v: labels %v, %v; want %v", c.own, got, err, c.want)
		}
	}
	if len(p.Used) != 1 || !p.Used["s0:c0,c1"] {
		t.Errorf("levels %v are reserved, want only the pod's", p.Used)
	}
}

func TestLabelsFromBeforeARestartAreKept(t *testing.T) {
	h, p := newHost()
	old := Labels{Process: "system_u:system_r:container_t:s0:c0,c1", File: "system_u:object_r:container_file_t:s0:c0,c1"}
	for range 2 { // two pods with that level
		if err := h.Keep(old); err != nil {
			t.Fatal(err)
		}
	}
	fresh, err := h.Pod(nil)
	if err != nil || levelOf(fresh.Process) == "s0:c0,c1" {
		t.Errorf("a new pod got %v, %v: a level that an older pod has", fresh, err)
	}
	h.Release(old)
	h.Release(old)
	if p.Used["s0:c0,c1"] {
		t.Error("the level is still reserved")
	}
}

func TestHostileOptionsAreRefused(t *testing.T) {
	h, p := newHost()
	for field, o := range map[string]Options{
		"user":  {User: `u",upperdir=/etc,x="`},
		"role":  {Role: "r:s"},
		"type":  {Type: "t\n"},
		"level": {Level: `s0" `},
	} {
		if _, err := h.Pod(&o); err == nil || !strings.Contains(err.Error(), "seLinuxOptions."+field) {
			t.Errorf("%+v: error %v, want one that names %s", o, err, field)
		}
	}
	if err := (&Options{Type: strings.Repeat("x", 256)}).Check(); err == nil || len(err.Error()) > 200 {
		t.Errorf("a long type: error %v", err)
	}
	if _, err := h.Pod(&Options{Type: "bad_t"}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a type that the policy does not know: error %v", err)
	}
	if len(p.Used)+len(h.levels) > 0 {
		t.Errorf("levels %v are reserved for refused pods", p.Used)
	}
}

func TestOpenNeedsAKernelWithSELinux(t *testing.T) {
	if library.GetEnabled() {
		t.Skip("this host has SELinux")
	}
	if _, err := Open(); err == nil || !strings.Contains(err.Error(), "SELinux") {
		t.Errorf("error %v", err)
	}
}

func labelOf(t *testing.T, path string) string {
	t.Helper()
	b := make([]byte, 100)
	n, err := unix.Lgetxattr(path, attribute, b)
	if errors.Is(err, unix.ENODATA) {
		return ""
	}
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return strings.TrimSuffix(string(b[:n]), "\x00")
}

func TestRelabelStaysInTheTree(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root may write labels")
	}
	dir := t.TempDir()
	volume, outside := filepath.Join(dir, "volume"), filepath.Join(dir, "outside")
	for _, d := range []string{filepath.Join(volume, "a/b"), outside, filepath.Join(volume, "mounted")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, f := range []string{filepath.Join(volume, "a/b/file"), filepath.Join(outside, "secret")} {
		if err := os.WriteFile(f, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink(outside, filepath.Join(volume, "dir-link")), os.Symlink(filepath.Join(outside, "secret"), filepath.Join(volume, "a/link")),
		unix.Mkfifo(filepath.Join(volume, "fifo"), 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(volume, "mounted"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(filepath.Join(volume, "mounted"), unix.MNT_DETACH)
	const label = "system_u:object_r:container_file_t:s0:c1,c2"
	if err := Relabel(context.Background(), volume, label); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{"", "a", "a/b", "a/b/file", "a/link", "dir-link", "fifo"} {
		if got := labelOf(t, filepath.Join(volume, p)); got != label {
			t.Errorf("volume/%s has the label %q", p, got)
		}
	}
	for _, p := range []string{outside, filepath.Join(outside, "secret"), filepath.Join(volume, "mounted")} {
		if got := labelOf(t, p); got == label {
			t.Errorf("%s, which is not in the volume, was labelled", p)
		}
	}
	if err := Relabel(context.Background(), filepath.Join(volume, "a/b/file"), label+"0"); err != nil {
		t.Fatal(err)
	}
	if got := labelOf(t, filepath.Join(volume, "a/b/file")); got != label+"0" {
		t.Errorf("a single file has the label %q", got)
	}
}

func TestRelabelIgnoresFileSystemsWithoutLabels(t *testing.T) {
	if library.GetEnabled() {
		t.Skip("with SELinux, files of proc have labels")
	}
	if err := Relabel(context.Background(), "/proc/self/status", "system_u:object_r:x_t:s0"); err != nil {
		t.Error(err)
	}
}
