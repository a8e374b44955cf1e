package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
)

func TestKillReachesWhatIsBelow(t *testing.T) {
	r := Host()
	path := "/kontiki-test-kill-" + strconv.Itoa(os.Getpid())
	if left, err := r.Kill(path); left || err != nil {
		t.Errorf("a cgroup that does not exist: %v, %v", left, err)
	}
	hierarchy := r.Dir
	if !r.V2 {
		hierarchy = filepath.Join(r.Dir, "freezer")
	}
	dir := filepath.Join(hierarchy, path, "inner")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Skip("cgroups cannot be made here: ", err) // without root, or with a read-only /sys/fs/cgroup, as in many containers
	}
	t.Cleanup(func() { os.Remove(dir); os.Remove(filepath.Dir(dir)) })
	if left, err := r.Kill(path); left || err != nil {
		t.Errorf("an empty cgroup: %v, %v", left, err)
	}
	process := exec.Command("sleep", "3600")
	if err := process.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { process.Process.Kill() })
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(process.Process.Pid)), 0o644); err != nil {
		t.Skip("processes cannot be put into cgroups here: ", err) // on cgroup v2 in a delegated subtree whose root has processes
	}
	if left, err := r.Kill(path); !left || err != nil {
		t.Errorf("a cgroup with a process below: %v, %v", left, err)
	}
	if err := process.Wait(); err == nil {
		t.Error("the process ended by itself")
	}
}
