package containerd

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kontiki/kontiki/node/runtime"
)

// The files of both versions of cgroups get the limits of a pod, and a change touches no others. What the kernel does with them is
// tested by the suite on the host's version.
func TestPodLimitsAreWritten(t *testing.T) {
	for _, c := range []struct {
		v2           bool
		dirs         []string
		first, later map[string]string // by file
	}{
		{true, []string{"pod"},
			map[string]string{"pod/cpu.weight": "4", "pod/cpu.max": "10000 100000", "pod/memory.max": "1048576"},
			map[string]string{"pod/cpu.weight": "4", "pod/cpu.max": "20000 100000", "pod/memory.max": "1048576"}},
		{false, []string{"cpu/pod", "memory/pod"},
			map[string]string{"cpu/pod/cpu.shares": "102", "cpu/pod/cpu.cfs_quota_us": "10000", "memory/pod/memory.limit_in_bytes": "1048576"},
			map[string]string{"cpu/pod/cpu.shares": "102", "cpu/pod/cpu.cfs_quota_us": "20000", "memory/pod/memory.limit_in_bytes": "1048576"}},
	} {
		root := t.TempDir()
		for _, d := range c.dirs {
			if err := os.MkdirAll(filepath.Join(root, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		cg := cgroups{root: root, v2: c.v2}
		check := func(want map[string]string) {
			t.Helper()
			for file, value := range want {
				if b, err := os.ReadFile(filepath.Join(root, file)); err != nil || strings.TrimSpace(string(b)) != value {
					t.Errorf("v2 %v: %s has %q (%v), want %q", c.v2, file, b, err, value)
				}
			}
		}
		if err := cg.limit("/pod", runtime.Resources{CPUShares: 102, CPUQuota: 10000, CPUPeriod: 100000, MemoryLimit: 1 << 20}); err != nil {
			t.Fatal(err)
		}
		check(c.first)
		if err := cg.limit("/pod", runtime.Resources{CPUQuota: 20000, CPUPeriod: 100000}); err != nil {
			t.Fatal(err)
		}
		check(c.later)
	}
}

// A pod's cgroups are removed in each hierarchy that the host has.
func TestCgroupsAreRemovedInAllHierarchies(t *testing.T) {
	for _, v2 := range []bool{false, true} {
		root := t.TempDir()
		hierarchies := []string{"cpu", "unified", "rdma"}
		if v2 {
			hierarchies = []string{""}
		}
		for _, h := range hierarchies {
			if err := os.MkdirAll(filepath.Join(root, h, "pod", "container"), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		if err := (cgroups{root: root, v2: v2}).remove("/pod"); err != nil {
			t.Fatal(err)
		}
		for _, h := range hierarchies {
			if _, err := os.Stat(filepath.Join(root, h, "pod")); !os.IsNotExist(err) {
				t.Errorf("v2 %v: %s/pod: %v", v2, h, err)
			}
			if _, err := os.Stat(filepath.Join(root, h)); err != nil {
				t.Errorf("v2 %v: the hierarchy itself: %v", v2, err)
			}
		}
	}
}

// A process that no record names does not keep its pod from being removed.
func TestProcessesThatAreLeftAreKilled(t *testing.T) {
	c := newCgroups()
	path := "/kontiki-test-left-" + strconv.Itoa(os.Getpid())
	dir := c.dir("pids", path+"/container")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Skip("cgroups cannot be made here: ", err) // without root, or with a read-only /sys/fs/cgroup, as in many containers
	}
	t.Cleanup(func() { _ = c.remove(path) })
	process := exec.Command("sleep", "3600")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { process.Process.Kill() })
	ended := make(chan error, 1)
	go func() { ended <- process.Wait() }()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(process.Process.Pid)), 0o644); err != nil {
		t.Skip("processes cannot be put into cgroups here: ", err) // on cgroup v2 in a delegated subtree whose root has processes
	}
	if err := c.remove(path); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err == nil {
		t.Error("the process ended by itself")
	}
	if _, err := os.Stat(c.dir("pids", path)); !os.IsNotExist(err) {
		t.Errorf("the cgroup is still there: %v", err)
	}
}
