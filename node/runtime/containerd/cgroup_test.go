package containerd

import (
	"os"
	"path/filepath"
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
