// Package runtimetest has the test suite for every implementation of node/runtime, and what it needs: a private containerd, and
// images.
package runtimetest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/internal/ociimage"
)

// Daemon is a containerd of one test.
type Daemon struct {
	Dir     string
	Address string
	t       testing.TB
	cmd     *exec.Cmd
	done    chan struct{}
}

// StartDaemon starts a containerd with its own root, state and socket, and ends it, its shims and its mounts with the test. The
// test is skipped if containerd is not installed or the test does not run as root.
func StartDaemon(t testing.TB) *Daemon {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root")
	}
	for _, bin := range []string{"containerd", "runc"} {
		if _, err := exec.LookPath(bin); err != nil {
			t.Skipf("needs %s: %v", bin, err)
		}
	}
	// Paths of sockets are limited to 108 bytes: t.TempDir's names are too long.
	dir, err := os.MkdirTemp("", "kt")
	if err != nil {
		t.Fatal(err)
	}
	d := &Daemon{Dir: dir, Address: filepath.Join(dir, "c.sock"), t: t}
	config := fmt.Sprintf(`version = 2
root = %q
state = %q
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.aufs"]
[grpc]
  address = %q
[ttrpc]
  address = %q
`, filepath.Join(dir, "root"), filepath.Join(dir, "state"), d.Address, d.Address+".ttrpc")
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.cleanup)
	d.Start()
	return d
}

// Start starts the daemon (again).
func (d *Daemon) Start() {
	d.t.Helper()
	log, err := os.OpenFile(filepath.Join(d.Dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		d.t.Fatal(err)
	}
	defer log.Close()
	d.cmd = exec.Command("containerd", "--config", filepath.Join(d.Dir, "config.toml"))
	d.cmd.Stdout, d.cmd.Stderr = log, log
	// If the test process dies, its daemon is killed too.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.done = make(chan struct{})
	go func() { d.cmd.Wait(); close(d.done) }()
}

// Kill ends the daemon with kill -9; shims and containers keep running.
func (d *Daemon) Kill() {
	_ = d.cmd.Process.Kill()
	<-d.done
}

func (d *Daemon) cleanup() {
	if d.t.Failed() {
		if b, err := os.ReadFile(filepath.Join(d.Dir, "log")); err == nil {
			if len(b) > 4000 {
				b = b[len(b)-4000:]
			}
			d.t.Logf("containerd's log:\n%s", b)
		}
	}
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-d.done:
	case <-time.After(5 * time.Second):
		d.Kill()
	}
	// Processes whose arguments contain our directory are ours: shims, loggers, and the containers below the shims.
	for range 20 {
		if pids := processesNaming(d.Dir); len(pids) == 0 {
			break
		} else {
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	UnmountBelow(d.Dir)
	_ = os.RemoveAll(d.Dir)
}

// processesNaming finds processes with dir in their command line, and those in a mount or network namespace of such
// a shim's containers, by their parent.
func processesNaming(dir string) []int {
	var pids []int
	named := map[int]bool{}
	parents := map[int]int{}
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscanf(e.Name(), "%d", &pid); err != nil || pid == os.Getpid() {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
		if bytes.Contains(cmdline, []byte(dir)) {
			named[pid] = true
		}
		if stat, err := os.ReadFile(filepath.Join("/proc", e.Name(), "stat")); err == nil {
			if i := bytes.LastIndexByte(stat, ')'); i > 0 {
				var state string
				var ppid int
				fmt.Sscanf(string(stat[i+1:]), " %s %d", &state, &ppid)
				if state != "Z" {
					parents[pid] = ppid
				}
			}
		}
	}
	for pid := range parents {
		if named[pid] || named[parents[pid]] {
			pids = append(pids, pid)
		}
	}
	return pids
}

// UnmountBelow detaches every mount below dir.
func UnmountBelow(dir string) {
	for range 5 {
		b, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil {
			return
		}
		var points []string
		for line := range strings.Lines(string(b)) {
			f := strings.Fields(line)
			if len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
				points = append(points, f[4])
			}
		}
		if len(points) == 0 {
			return
		}
		for i := len(points) - 1; i >= 0; i-- {
			_ = unix.Unmount(points[i], unix.MNT_DETACH)
		}
	}
}

// BusyboxName is the name of the image in BusyboxArchive.
const BusyboxName = "docker.io/kontiki/busybox:test"

// BusyboxArchive returns an archive with a static busybox; the test is skipped if busybox is not installed.
func BusyboxArchive(t testing.TB) []byte {
	t.Helper()
	img, err := ociimage.Busybox(BusyboxName)
	if err != nil {
		t.Skip(err)
	}
	var buf bytes.Buffer
	if err := ociimage.Write(&buf, img); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}
