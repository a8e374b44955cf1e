package containerd

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/runtimetest"
)

// stallingRegistry has one image whose only layer never comes, as with a registry that hangs.
func stallingRegistry(t *testing.T) (ref string) {
	digest := func(b []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(b)) }
	config := []byte(`{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["sha256:` + strings.Repeat("a", 64) + `"]}}`)
	layer := "sha256:" + strings.Repeat("b", 64)
	manifest := fmt.Appendf(nil, `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
		"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":%q,"size":%d},
		"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":%q,"size":1000000}]}`, digest(config), len(config), layer)
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch path := r.URL.Path; {
		case strings.HasSuffix(path, "/manifests/1") || strings.HasSuffix(path, digest(manifest)):
			w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
			w.Header().Set("Docker-Content-Digest", digest(manifest))
			_, _ = w.Write(manifest)
		case strings.HasSuffix(path, digest(config)):
			_, _ = w.Write(config)
		case strings.HasSuffix(path, layer):
			w.Header().Set("Content-Length", "1000000")
			_, _ = w.Write(make([]byte, 1000))
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(web.Close)
	return strings.TrimPrefix(web.URL, "http://") + "/stalls:1"
}

func TestAPullThatStallsEnds(t *testing.T) {
	d := runtimetest.StartDaemon(t)
	r, _ := open(t, d, nil)
	r.pullTimeout = 300 * time.Millisecond
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	_, err := r.PullImage(ctx, stallingRegistry(t), runtime.Auth{})
	if err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "the registry sent nothing for 300ms") {
		t.Errorf("%v", err)
	}
}

func TestArchivesAreBounded(t *testing.T) {
	for size, ok := range map[int]bool{0: true, 9: true, 10: true, 11: false, 1000: false} {
		b, err := io.ReadAll(newBounded(bytes.NewReader(make([]byte, size)), 10))
		if (err == nil) != ok || len(b) != min(size, 10) || err != nil && !errors.As(err, new(errTooLarge)) {
			t.Errorf("%d bytes: %d read, %v", size, len(b), err)
		}
	}
}

// testSharedShim starts short containers of one pod one after the other: their shim goes with the one that is the last at
// that moment, and takes no start along.
func testSharedShim(t *testing.T, l *lab) {
	in := func(c *runtime.ContainerConfig) {
		c.Sandbox = runtime.SandboxConfig{UID: "shim", Name: "shim", Hostname: "shim"}
	}
	var ids []string
	for range 40 {
		ids = append(ids, l.create(in, "head -c 5000 /dev/zero > /dev/null"))
	}
	for _, id := range ids {
		if err := l.r.StartContainer(l.ctx, id); err != nil {
			t.Errorf("start: %v", err)
		}
	}
	for _, id := range ids {
		c, _ := l.r.get(id)
		select {
		case <-c.exited:
		case <-l.ctx.Done():
			t.Fatal("it does not end")
		}
		if info := c.snapshot(); info.ExitCode != 0 {
			t.Errorf("exit %d, %s %s", info.ExitCode, info.Reason, info.Message)
		}
	}
}

// testSlowReader reads an ended command's output more slowly than idle output is waited for.
func testSlowReader(t *testing.T, l *lab) {
	l.r.idleOutput = 100 * time.Millisecond
	id := l.start(nil, "sleep 1000")
	var got bytes.Buffer
	slow := writerFunc(func(b []byte) (int, error) {
		if got.Len() < 200_000 {
			time.Sleep(250 * time.Millisecond)
		}
		return got.Write(b)
	})
	const want = 400_000
	code, err := l.r.Exec(l.ctx, id, runtime.ExecOptions{Command: []string{"head", "-c", fmt.Sprint(want), "/dev/zero"}, Stdout: slow})
	if err != nil || code != 0 || got.Len() != want {
		t.Errorf("%d bytes of %d, exit %d, %v", got.Len(), want, code, err)
	}
	// A child in the background that holds the stream open, and is silent, holds up nobody.
	var out bytes.Buffer
	code, err = l.r.Exec(l.ctx, id, runtime.ExecOptions{Command: []string{"sh", "-c", "sleep 500 & echo done"}, Stdout: &out})
	if err != nil || code != 0 || out.String() != "done\n" {
		t.Errorf("%q, exit %d, %v", out.String(), code, err)
	}
	// A reader that reads nothing at all is waited for until its caller gives up, and then it is no success.
	ctx, cancel := context.WithCancel(l.ctx)
	blocked := writerFunc(func([]byte) (int, error) {
		cancel()
		<-ctx.Done()
		time.Sleep(10 * time.Millisecond)
		return 0, ctx.Err()
	})
	if code, err = l.r.Exec(ctx, id, runtime.ExecOptions{Command: []string{"head", "-c", "100", "/dev/zero"}, Stdout: blocked}); err == nil {
		t.Errorf("exit %d without an error, and nothing was read", code)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// testSysctls: a pod's sysctls are set in its own namespaces, and nowhere else.
func testSysctls(t *testing.T, l *lab) {
	_, out := l.run(func(c *runtime.ContainerConfig) {
		c.Sandbox.Sysctls = map[string]string{"net.ipv4.ping_group_range": "5 6", "kernel.shm_rmid_forced": "1"}
	}, "cat /proc/sys/net/ipv4/ping_group_range /proc/sys/kernel/shm_rmid_forced")
	if strings.Join(strings.Fields(out), " ") != "5 6 1" {
		t.Errorf("%q", out)
	}
	for name, box := range map[string]runtime.SandboxConfig{
		"vm.laptop_mode":            {},
		"kernel.core_pattern":       {},
		"net/../kernel/core_uses":   {},
		"net.ipv4.tcp_syncookies":   {Net: runtime.NamespaceHost},
		"kernel.shm_rmid_forced":    {IPC: runtime.NamespaceHost},
		"kernel.domainname":         {Net: runtime.NamespaceHost},
		"user.max_user_namespaces":  {},
		"net.ipv4.conf.../../x.y.z": {Net: runtime.NamespaceHost},
	} {
		box.UID, box.Sysctls = "sysctl", map[string]string{name: "1"}
		if _, err := l.r.EnsureSandbox(l.ctx, box); err == nil || !strings.Contains(err.Error(), "not in a namespace of the pod's own") {
			t.Errorf("%s with %+v: %v", name, box, err)
		}
	}
}

// testProcessesOf: a container that joins another one's processes sees them.
func testProcessesOf(t *testing.T, l *lab) {
	in := func(c *runtime.ContainerConfig) {
		c.Sandbox = runtime.SandboxConfig{UID: "debug", Name: "debug", Hostname: "debug"}
	}
	target := l.start(in, "exec sleep 12346")
	_, out := l.run(func(c *runtime.ContainerConfig) { in(c); c.ProcessesOf = target }, "ps -o args; cat /proc/1/cmdline")
	if !strings.Contains(out, "sleep") || !strings.Contains(out, "12346") {
		t.Errorf("%q", out)
	}
	if _, out = l.run(in, "ps -o args"); strings.Contains(out, "12346") {
		t.Errorf("without asking for it: %q", out)
	}
	c := runtime.ContainerConfig{Sandbox: runtime.SandboxConfig{UID: "debug"}, Name: "c", Image: runtimetest.BusyboxName, Command: []string{"true"}, ProcessesOf: "none"}
	if _, err := l.r.CreateContainer(l.ctx, c); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("a target that is not there: %v", err)
	}
}

// testReadOnlyMounts: what is mounted read-only cannot be written, and with recursion not below either.
func testReadOnlyMounts(t *testing.T, l *lab) {
	host, below := t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(host, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	mountBind(t, below, filepath.Join(host, "below"))
	for _, recursive := range []bool{false, true} {
		if recursive && !l.r.Features().RecursiveReadOnly {
			t.Log("this host cannot make mounts read-only recursively")
			continue
		}
		_, out := l.run(func(c *runtime.ContainerConfig) {
			c.Mounts = []runtime.Mount{{HostPath: host, ContainerPath: "/m", ReadOnly: true, RecursiveReadOnly: recursive}}
		}, "touch /m/x 2>/dev/null && echo wrote; touch /m/below/x 2>/dev/null && echo wrote below; true")
		if want := map[bool]string{false: "wrote below\n", true: ""}[recursive]; out != want {
			t.Errorf("recursive %v: %q, want %q", recursive, out, want)
		}
	}
}

func mountBind(t *testing.T, from, to string) {
	t.Helper()
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(to, unix.MNT_DETACH) })
}

// TestOneProcessTakesItsContainerAlong is about version 2 of control groups, which this machine may not have.
func TestOneProcessTakesItsContainerAlong(t *testing.T) {
	for _, v2 := range []bool{false, true} {
		r := &Runtime{cg: cgroups{v2: v2}}
		got := r.resources(runtime.ContainerConfig{}).Unified["memory.oom.group"]
		if want := map[bool]string{true: "1"}[v2]; got != want {
			t.Errorf("version 2 %v: memory.oom.group=%q", v2, got)
		}
		if got := r.resources(runtime.ContainerConfig{SingleProcessOOMKill: true}).Unified["memory.oom.group"]; got != "" {
			t.Errorf("version 2 %v, single processes: memory.oom.group=%q", v2, got)
		}
	}
}

// TestSwapIsLimited is about version 2 of control groups too.
func TestSwapIsLimited(t *testing.T) {
	r := &Runtime{cg: cgroups{v2: true}, features: runtime.Features{Swap: true}}
	for swap, want := range map[int64]string{0: "0", 1 << 20: "1048576"} {
		for _, memory := range []int64{0, 1 << 30} {
			got := r.resources(runtime.ContainerConfig{Resources: runtime.Resources{MemoryLimit: memory, Swap: swap}})
			if got.Unified["memory.swap.max"] != want {
				t.Errorf("%d of swap beside %d of memory: %q", swap, memory, got.Unified["memory.swap.max"])
			}
			if memory > 0 && got.Memory.Swap != nil && *got.Memory.Swap != memory+swap {
				t.Errorf("%d of swap beside %d of memory: together %d", swap, memory, *got.Memory.Swap)
			}
		}
	}
	r.features.Swap = false
	if got, ok := r.resources(runtime.ContainerConfig{}).Unified["memory.swap.max"]; ok {
		t.Errorf("on a host without limits of swap: %q", got)
	}
}

func TestAppArmor(t *testing.T) {
	for _, c := range []struct {
		host bool
		s    runtime.Security
		want string
		err  bool
	}{
		{false, runtime.Security{}, "", false},
		{false, runtime.Security{AppArmor: "unconfined"}, "", false},
		{false, runtime.Security{AppArmor: "runtime/default"}, "", true},
		{false, runtime.Security{AppArmor: "localhost/mine"}, "", true},
		{true, runtime.Security{AppArmor: "localhost/mine"}, "mine", false},
		{true, runtime.Security{AppArmor: "unconfined"}, "", false},
		{true, runtime.Security{Privileged: true}, "", false},
	} {
		r := &Runtime{features: runtime.Features{AppArmor: c.host}}
		s := &specs.Spec{Process: &specs.Process{}}
		if err := r.apparmor(context.Background(), s, c.s); (err != nil) != c.err || s.Process.ApparmorProfile != c.want {
			t.Errorf("%+v: profile %q, %v", c, s.Process.ApparmorProfile, err)
		}
	}
}

// testPrivileged: a privileged container has all that the agent may give, and can use it.
func testPrivileged(t *testing.T, l *lab) {
	_, out := l.run(func(c *runtime.ContainerConfig) {
		c.Security = runtime.Security{Privileged: true, Seccomp: "runtime/default", DropCaps: []string{"ALL"}}
	}, `grep -E 'CapEff|CapBnd|Seccomp:|NoNewPrivs' /proc/self/status
ls /dev/kmsg /dev/loop-control 2>/dev/null
mkdir -p /mnt && mount -t tmpfs x /mnt && echo mounted
grep ' /sys sysfs ' /proc/mounts | grep -q 'rw,' && echo sysfs is writable
grep ' /sys/fs/cgroup' /proc/mounts | head -1 | grep -q 'rw' && echo cgroups are writable
grep -q '/proc/kcore\|/proc/sys ' /proc/mounts || echo proc is open
echo 5 > /proc/sys/net/ipv4/tcp_fin_timeout && cat /proc/sys/net/ipv4/tcp_fin_timeout
mknod /tmp-null c 1 3 && echo x > /tmp-null && echo devices are open`)
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	effective := ""
	for line := range strings.Lines(string(own)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			effective = strings.TrimSpace(v)
		}
	}
	for _, want := range []string{"CapEff:\t" + effective, "CapBnd:\t" + effective, "Seccomp:\t0", "NoNewPrivs:\t0", "/dev/kmsg", "mounted", "sysfs is writable", "cgroups are writable", "proc is open", "5", "devices are open"} {
		if !slices.Contains(strings.Split(strings.TrimSpace(out), "\n"), want) {
			t.Errorf("%q is missing in %q", want, out)
		}
	}
	// Another container of the same pod has none of it.
	_, out = l.run(func(c *runtime.ContainerConfig) { c.Sandbox = runtime.SandboxConfig{UID: "pod1", Hostname: "pod1"} }, "mount -t tmpfs x /mnt 2>/dev/null || echo refused; ls /dev/kmsg 2>/dev/null || echo hidden")
	if out != "refused\nhidden\n" {
		t.Errorf("beside it: %q", out)
	}
}

// testImageMount mounts an image for a pod; it stays when the image is removed, and goes with the sandbox.
func testImageMount(t *testing.T, l *lab) {
	box := runtime.SandboxConfig{UID: "imaged", Namespace: "ns", Name: "imaged", Hostname: "imaged"}
	target := t.TempDir()
	if err := l.r.MountImage(l.ctx, box.UID, runtimetest.BusyboxName, target); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("without a sandbox: %v", err)
	}
	if _, err := l.r.EnsureSandbox(l.ctx, box); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unmountAll(target) })
	if err := l.r.MountImage(l.ctx, box.UID, "docker.io/no/such:1", target); !errors.Is(err, runtime.ErrNotFound) {
		t.Errorf("an image that is not there: %v", err)
	}
	for range 2 {
		if err := l.r.MountImage(l.ctx, box.UID, runtimetest.BusyboxName, target); err != nil {
			t.Fatal(err)
		}
	}
	_, out := l.run(func(c *runtime.ContainerConfig) {
		c.Mounts = []runtime.Mount{{HostPath: target, ContainerPath: "/v", ReadOnly: true}}
	}, "test -e /v/bin/sh && echo there; touch /v/x 2>&1 | grep -o 'Read-only file system'")
	if out != "there\nRead-only file system\n" {
		t.Errorf("%q", out)
	}
	if err := os.WriteFile(filepath.Join(target, "x"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("the image itself can be written: %v", err)
	}
	if err := unix.Unmount(target, unix.MNT_DETACH); err != nil || isMountPoint(target) { // as a reboot does
		t.Errorf("it was mounted more than once: %v", err)
	}
	if err := l.r.MountImage(l.ctx, box.UID, runtimetest.BusyboxName, target); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(target, "bin", "sh")); err != nil {
		t.Error(err)
	}
	unmountAll(target)
	if err := l.r.RemoveSandbox(l.ctx, box.UID); err != nil {
		t.Fatal(err)
	}
	err := l.r.client.SnapshotService(l.r.c.Snapshotter).Walk(l.r.ns(l.ctx), func(_ context.Context, i snapshots.Info) error {
		if strings.HasPrefix(i.Name, "kontiki-image-") {
			t.Errorf("%s is left", i.Name)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
