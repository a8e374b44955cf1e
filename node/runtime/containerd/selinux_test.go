package containerd

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/selinux"
	"github.com/kontiki/kontiki/node/selinux/selinuxtest"
)

// labelled returns a Runtime whose containers have labels, without containerd.
func labelled(t *testing.T, dir string) (*Runtime, *selinuxtest.Policy) {
	t.Helper()
	p := selinuxtest.New()
	r := &Runtime{c: Config{StateDir: dir, SELinux: selinux.New(p)}, locks: map[string]*namedLock{}}
	if err := os.MkdirAll(filepath.Join(dir, "sandboxes"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := r.keepLabels(); err != nil {
		t.Fatal(err)
	}
	return r, p
}

func ensured(t *testing.T, r *Runtime, c runtime.SandboxConfig) selinux.Labels {
	t.Helper()
	if err := os.MkdirAll(r.sandboxDir(c.UID), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := r.ensureLabels(c)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestASandboxKeepsItsLabels(t *testing.T) {
	dir := t.TempDir()
	r, _ := labelled(t, dir)
	a := ensured(t, r, runtime.SandboxConfig{UID: "a", SELinux: &selinux.Options{Type: "web_t"}})
	if a.Process != "system_u:system_r:web_t:s0:c0,c1" || a.File != "system_u:object_r:container_file_t:s0:c0,c1" {
		t.Errorf("labels %+v", a)
	}
	if again := ensured(t, r, runtime.SandboxConfig{UID: "a"}); again != a {
		t.Errorf("the second time: %+v", again)
	}
	next, p := labelled(t, dir) // the agent's next start
	if again := ensured(t, next, runtime.SandboxConfig{UID: "a"}); again != a {
		t.Errorf("after a restart: %+v", again)
	}
	if b := ensured(t, next, runtime.SandboxConfig{UID: "b"}); strings.HasSuffix(b.Process, ":s0:c0,c1") {
		t.Errorf("another pod has the same level: %+v", b)
	}
	next.c.SELinux.Release(a)
	if p.Used["s0:c0,c1"] {
		t.Error("the level is reserved after the pod")
	}
	if _, err := next.ensureLabels(runtime.SandboxConfig{UID: "c", SELinux: &selinux.Options{Type: "bad_t"}}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a label that the policy does not know: %v", err)
	}
}

func TestLabelsOfContainers(t *testing.T) {
	r, _ := labelled(t, t.TempDir())
	pod := ensured(t, r, runtime.SandboxConfig{UID: "a"})
	config := func(s runtime.Security) runtime.ContainerConfig {
		return runtime.ContainerConfig{Sandbox: runtime.SandboxConfig{UID: "a"}, Security: s}
	}
	for name, c := range map[string]struct {
		security runtime.Security
		process  string
	}{
		"of the pod":  {runtime.Security{}, pod.Process},
		"of its own":  {runtime.Security{SELinux: &selinux.Options{Type: "db_t"}}, "system_u:system_r:db_t:s0:c0,c1"},
		"privileged":  {runtime.Security{Privileged: true}, ""},
		"both of one": {runtime.Security{Privileged: true, SELinux: &selinux.Options{Type: "db_t"}}, ""},
	} {
		l, err := r.labelsOfContainer(config(c.security), handler{})
		if err != nil {
			t.Fatal(err)
		}
		s := &specs.Spec{Process: &specs.Process{}, Linux: &specs.Linux{}}
		setLabels(s, l)
		if s.Process.SelinuxLabel != c.process || s.Linux.MountLabel != pod.File {
			t.Errorf("%s: the process has %q, its files %q", name, s.Process.SelinuxLabel, s.Linux.MountLabel)
		}
	}
	if _, err := r.labelsOfContainer(runtime.ContainerConfig{Sandbox: runtime.SandboxConfig{UID: "old"}}, handler{}); err == nil {
		t.Error("a container of a sandbox without labels got none")
	}
	off := &Runtime{c: Config{StateDir: t.TempDir()}}
	if l, err := off.labelsOfContainer(config(runtime.Security{}), handler{}); err != nil || l != (selinux.Labels{}) {
		t.Errorf("without SELinux: %+v, %v", l, err)
	}
}

func TestOnlyTheContainersOwnMountsAreRelabelled(t *testing.T) {
	dir := t.TempDir()
	mounts := []runtime.Mount{{HostPath: filepath.Join(dir, "own"), Relabel: true}, {HostPath: filepath.Join(dir, "host")}}
	for _, m := range mounts {
		if err := os.Mkdir(m.HostPath, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	l := selinux.Labels{Process: "u:r:t:s0:c1,c2", File: "u:object_r:f_t:s0:c1,c2"}
	if err := relabel(t.Context(), mounts, l); err != nil {
		t.Fatal(err)
	}
	read := func(path string) string {
		b := make([]byte, 64)
		n, _ := unix.Lgetxattr(path, "security.selinux", b)
		return strings.TrimRight(string(b[:max(n, 0)]), "\x00")
	}
	if got := read(mounts[0].HostPath); got != l.File {
		t.Errorf("the container's own volume has the label %q", got)
	}
	if got := read(mounts[1].HostPath); got == l.File {
		t.Error("a folder of the host was relabelled")
	}
	if err := relabel(t.Context(), []runtime.Mount{{HostPath: filepath.Join(dir, "missing"), Relabel: true}}, selinux.Labels{}); err != nil {
		t.Errorf("without labels: %v", err)
	}
}
