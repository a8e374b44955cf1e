package volume

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Secrets in memory are not written to swap space.
func TestMemoryIsNotSwapped(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root") // to mount
	}
	dir := t.TempDir()
	if err := mountMemory(dir, unix.MS_NOSUID, "mode=0700,size=65536"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, " "+dir+" ") {
			if !strings.Contains(line, "size=64k") || !strings.Contains(line, "nosuid") || !strings.Contains(line, "noswap") && kernelAtLeast(t, 6, 4) {
				t.Errorf("mounted as %s", line)
			}
			return
		}
	}
	t.Error("it is not mounted")
}

func kernelAtLeast(t *testing.T, major, minor int) bool {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var a, b int
	for i, part := range strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)[:2] {
		n := 0
		for _, r := range part {
			if r < '0' || r > '9' {
				break
			}
			n = 10*n + int(r-'0')
		}
		if i == 0 {
			a = n
		} else {
			b = n
		}
	}
	return a > major || a == major && b >= minor
}
