package containerd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
)

const firstID = 131072

// mappedLab is a lab of containers in user namespaces.
func mappedLab(t *testing.T) (*lab, func(*runtime.ContainerConfig)) {
	d := runtimetest.StartDaemon(t)
	if err := os.Chmod(d.Dir, 0o711); err != nil { // as /run: the container's root has its bundle below
		t.Fatal(err)
	}
	l := newLab(t, d, runtimetest.BusyboxArchive(t))
	if why := l.r.Features().NoUserNamespaces; why != "" {
		t.Skip(why) // the kernel or the file system has no idmapped mounts
	}
	return l, func(c *runtime.ContainerConfig) { c.Sandbox.Users = &runtime.IDRange{First: firstID, Length: 65536} }
}

func ownerOf(t *testing.T, path string) string {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

// TestUsersOfAUserNamespace: root inside is another user outside, owns what root owns in its image and volumes, and can do with its own
// namespaces what root can.
func TestUsersOfAUserNamespace(t *testing.T) {
	l, mapped := mappedLab(t)
	volume, file := t.TempDir(), filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(filepath.Join(volume, "old"), []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(filepath.Join(volume, "old"), 1000, 2000); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("a file"), 0o600); err != nil {
		t.Fatal(err)
	}
	id := l.start(func(c *runtime.ContainerConfig) {
		mapped(c)
		c.Mounts = []runtime.Mount{{HostPath: volume, ContainerPath: "/volume"}, {HostPath: file, ContainerPath: "/file", ReadOnly: true}}
		c.Sandbox.Sysctls = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80", "kernel.shm_rmid_forced": "1"}
	}, `touch /volume/root /made && chown 5:6 /volume/root && touch /volume/mine /dev/shm/mine && exec sleep 100000`)
	for command, want := range map[string]string{
		"cat /proc/self/uid_map":                            "0 131072 65536",
		"cat /proc/self/gid_map":                            "0 131072 65536",
		"id -u":                                             "0",
		"stat -c %u:%g /":                                   "0:0",
		"stat -c %u:%g /bin":                                "0:0",
		"stat -c %u:%g /made":                               "0:0",
		"stat -c %u:%g /volume/old":                         "1000:2000",
		"stat -c %u:%g /volume/root":                        "5:6",
		"stat -c %u:%g /dev/shm":                            "0:0",
		"cat /file":                                         "a file",
		"cat /proc/sys/kernel/hostname":                     "pod1",
		"cat /proc/sys/kernel/shm_rmid_forced":              "1",
		"cat /sys/class/net/lo/ifindex":                     "1",
		"echo x 2>/dev/null >/file || echo refused":         "refused",
		"mknod /made-device b 1 1 2>&1 || echo never":       "mknod: /made-device: Operation not permitted never",
		"cat /proc/sys/net/ipv4/ip_unprivileged_port_start": "80",
	} {
		if got := strings.Join(strings.Fields(l.exec(id, "sh", "-c", command)), " "); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
	info, err := l.r.Container(l.ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", info.Pid))
	if err != nil || !strings.Contains(string(status), "Uid:\t131072\t131072") {
		t.Errorf("on the host it is not 131072: %v\n%s", err, status)
	}
	for name, want := range map[string]string{"old": "1000:2000", "root": "5:6", "mine": "0:0"} {
		if got := ownerOf(t, filepath.Join(volume, name)); got != want {
			t.Errorf("on disk %s belongs to %s, want %s", name, got, want)
		}
	}

	// Another container of the pod has the same users; when the pod is gone nothing of it is left.
	second, out := l.run(func(c *runtime.ContainerConfig) {
		mapped(c)
		c.Sandbox.UID, c.Name = info.PodUID, "second"
	}, "cat /proc/self/uid_map; stat -c %u /dev/shm/mine")
	if second.ExitCode != 0 || strings.Join(strings.Fields(out), " ") != "0 131072 65536 0" {
		t.Errorf("the second container ended with %d: %q", second.ExitCode, out)
	}
	if err := l.r.KillContainer(l.ctx, id); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{id, second.ID} {
		if err := l.r.RemoveContainer(l.ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.r.RemoveSandbox(l.ctx, info.PodUID); err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(l.r.c.StateDir)) {
		t.Errorf("mounts are left (%v):\n%s", err, mounts)
	}
	if left, err := os.ReadDir(filepath.Join(l.r.c.StateDir, "mapped")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if got, err := os.ReadFile(filepath.Join(volume, "old")); err != nil || string(got) != "old" {
		t.Errorf("the volume's file: %q, %v", got, err)
	}
}

// TestRootOfAUserNamespaceIsNobodyOnTheHost: with all capabilities, root in a user namespace does to the host no more than any of its users.
func TestRootOfAUserNamespaceIsNobodyOnTheHost(t *testing.T) {
	l, mapped := mappedLab(t)
	_, out := l.run(func(c *runtime.ContainerConfig) {
		mapped(c)
		c.Security.AddCaps = []string{"ALL"}
		c.Security.UnmaskedProc = true
	}, `
		try() { if sh -c "$2" >/dev/null 2>&1; then echo "DONE: $1"; else echo "refused: $1"; fi; }
		try "load" "mknod /disk b 254 0 && cat /disk | head -c 1"
		try "kernel" "echo 1 > /proc/sys/kernel/sysrq"
		try "core pattern" "echo '|/bin/sh' > /proc/sys/kernel/core_pattern"
		try "oom score of the host" "echo -1000 > /proc/self/oom_score_adj"
		try "cgroup" "if [ -f /sys/fs/cgroup/cgroup.controllers ]; then mkdir /sys/fs/cgroup/x; else mkdir /sys/fs/cgroup/memory/x; fi"
		try "own network" "ip link set lo down && ip link set lo up"
		try "own host name" "hostname other"
		try "own mounts" "mount -t tmpfs none /mnt || mkdir /m && mount -t tmpfs none /m"
		echo end`)
	for _, line := range strings.Split(strings.TrimSpace(out), "\n") {
		own := strings.Contains(line, "own ")
		if line != "end" && own != strings.HasPrefix(line, "DONE") {
			t.Errorf("%s", line)
		}
	}
	if !strings.HasSuffix(out, "end\n") {
		t.Errorf("it did not come to its end: %q", out)
	}
}

// TestASharedProcessNamespaceInAUserNamespace: the pod's first process is in its user namespace too.
func TestASharedProcessNamespaceInAUserNamespace(t *testing.T) {
	l, mapped := mappedLab(t)
	_, out := l.run(func(c *runtime.ContainerConfig) {
		mapped(c)
		c.Sandbox.SharePID = true
	}, "cat /proc/1/comm; stat -c %u /proc/1")
	if got := strings.Join(strings.Fields(out), " "); got != "init 0" {
		t.Errorf("process 1 is %q", got)
	}
}

// TestAnImageAsAVolumeOfAUserNamespace: its files belong to the users inside that they belong to in the image.
func TestAnImageAsAVolumeOfAUserNamespace(t *testing.T) {
	l, mapped := mappedLab(t)
	box := runtime.SandboxConfig{UID: "pod-image", Namespace: "ns", Name: "pod-image", Hostname: "pod-image", Users: &runtime.IDRange{First: firstID, Length: 65536}}
	if _, err := l.r.EnsureSandbox(l.ctx, box); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(t.TempDir(), "volume")
	if err := os.Mkdir(target, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmountAll(target) })
	if err := l.r.MountImage(l.ctx, box.UID, runtimetest.BusyboxName, target); err != nil {
		t.Fatal(err)
	}
	_, out := l.run(func(c *runtime.ContainerConfig) {
		mapped(c)
		c.Sandbox = box
		c.Mounts = []runtime.Mount{{HostPath: target, ContainerPath: "/image", ReadOnly: true, Image: true}}
	}, "stat -c %u:%g /image/bin; ls /image/bin | grep -c busybox; touch /image/x 2>&1")
	if got := strings.Join(strings.Fields(out), " "); got != "0:0 1 touch: /image/x: Read-only file system" {
		t.Errorf("inside: %q", got)
	}
	unmountAll(target)

	// An image of several layers is a union of them.
	layers := t.TempDir()
	for _, name := range []string{"one", "two"} {
		if err := errors.Join(os.Mkdir(filepath.Join(layers, name), 0o755), os.WriteFile(filepath.Join(layers, name, name), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	view := mount.Mount{Type: "overlay", Source: "overlay", Options: []string{"ro", "nosuid", "nodev", "lowerdir=" + filepath.Join(layers, "two") + ":" + filepath.Join(layers, "one")}}
	if err := l.r.mountView(box.UID, box.Users, view, target); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two"} {
		if got := ownerOf(t, filepath.Join(target, name)); got != fmt.Sprintf("%d:%d", firstID, firstID) {
			t.Errorf("on the host, %s belongs to %s", name, got)
		}
	}
	if err := os.WriteFile(filepath.Join(target, "one"), nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Errorf("a write: %v", err)
	}
	unmountAll(target)
}
