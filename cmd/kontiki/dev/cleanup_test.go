package dev

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func mustExist(t *testing.T, path string, want bool) {
	t.Helper()
	_, err := os.Stat(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if (err == nil) != want {
		t.Errorf("%s is there: %v, want %v", path, err == nil, want)
	}
}

func TestNetworkIsMadeAgainAndRemoved(t *testing.T) {
	s := testState(t, 2, 1)
	for range 2 { // a supervisor that was killed leaves it as it is
		if err := s.makeNetwork(); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{s.namespace(s.Hosts[0]), s.namespace(s.Hosts[1]), s.namespace(s.Hosts[2]), s.switchNamespace()}
	slices.Sort(want)
	if got := named(t); !slices.Equal(got, want) {
		t.Fatalf("namespaces %q, want %q", got, want)
	}
	for range 2 {
		if err := s.tearDown(); err != nil {
			t.Fatal(err)
		}
		if left := named(t); len(left) > 0 {
			t.Fatalf("namespaces that are left: %q", left)
		}
	}
}

// A cluster whose supervisor was killed while it created the cluster: some hosts exist, one namespace exists by name only,
// something is mounted, processes and a control group are left.
func TestTearDownOfAHalfMadeCluster(t *testing.T) {
	s := testState(t, 3, 1)
	if err := makeNamespace(s.switchNamespace()); err != nil {
		t.Fatal(err)
	}
	if err := makeNamespace(s.namespace(s.Hosts[0])); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(namedDir, s.namespace(s.Hosts[1])), nil, 0o444); err != nil {
		t.Fatal(err)
	}

	mount := filepath.Join(s.Dir, "hosts", "worker-1", "with space")
	for _, dir := range []string{mount, filepath.Join(s.containerdDir(), "state", "old"), filepath.Join(s.containerdDir(), "root", "images")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	inner := filepath.Join(mount, "inner")
	for _, dir := range []string{mount, inner} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
			t.Fatal(err)
		}
	}

	_, host := start(t, "kontiki", "server")
	s.Processes["master-1"] = host
	s.Processes["master-2"] = Process{host.Pid, host.Started - 1} // its pid is another's now
	_, shim := start(t, "/usr/bin/containerd-shim-runc-v2", "-namespace", "kontiki-worker-1", "-address", s.containerdSocket())
	_, logger := start(t, "kontiki", "container-logger", filepath.Join(s.Dir, "hosts/worker-1/logs/x"))
	_, foreignShim := start(t, "/usr/bin/containerd-shim-runc-v2", "-address", "/run/containerd/containerd.sock")
	_, foreignLogger := start(t, "kontiki", "container-logger", s.Dir+"-other/hosts/worker-1/logs/x")
	_, contained := start(t, "container")
	group := controlGroup(t, s, s.of(worker)[0], contained)

	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	loaded, err := load(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := loaded.tearDown(); err != nil {
		t.Fatal(err)
	}
	for name, p := range map[string]Process{"master-1": host, "shim": shim, "logger": logger, "container": contained} {
		if p.alive() {
			t.Errorf("the %s still runs", name)
		}
	}
	if !foreignShim.alive() || !foreignLogger.alive() {
		t.Error("another cluster's processes were ended")
	}
	if left := named(t); len(left) > 0 {
		t.Errorf("network namespaces are left: %q", left)
	}
	if mounts, err := mountsBelow(s.Dir); err != nil || len(mounts) > 0 {
		t.Errorf("mounts are left: %q, %v", mounts, err)
	}
	mustExist(t, group, false)
	mustExist(t, filepath.Join(s.containerdDir(), "state"), false)
	mustExist(t, filepath.Join(s.containerdDir(), "root", "images"), true)
	mustExist(t, mount, true)
	after, err := load(s.Dir)
	if err != nil || len(after.Processes) > 0 {
		t.Errorf("processes %v, %v", after.Processes, err)
	}
	if err := Stop(t.Context(), s.Dir, true); err != nil {
		t.Fatal(err)
	}
	mustExist(t, s.Dir, false)
	if err := os.MkdirAll(s.Dir, 0o755); err != nil { // for the test's own tear-down
		t.Fatal(err)
	}
}

// controlGroup puts a process into a group as a container's would be, for the version of cgroups that the machine has.
func controlGroup(t *testing.T, s *State, h Host, p Process) string {
	t.Helper()
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err != nil {
			continue
		}
		group := filepath.Join(root, s.cgroupParent(h), "pod-1")
		if err := os.MkdirAll(group, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { // also after a failure
			if err := s.removeCgroups(); err != nil {
				t.Error(err)
			}
		})
		if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), fmt.Append(nil, p.Pid), 0o644); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(root, s.cgroupRoot())
	}
	t.Fatal("no cgroup hierarchy is mounted")
	return ""
}

func TestMountsAreFoundThroughASymbolicLink(t *testing.T) {
	real := t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(real, link); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(real, "volume"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(real, "volume"), "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	s := &State{Dir: link}
	if mounts, err := mountsBelow(link); err != nil || !slices.Equal(mounts, []string{filepath.Join(real, "volume")}) {
		t.Errorf("mounts %q, %v", mounts, err)
	}
	if err := s.unmount(); err != nil {
		t.Fatal(err)
	}
	if mounts, err := mountsBelow(real); err != nil || len(mounts) > 0 {
		t.Errorf("mounts are left: %q, %v", mounts, err)
	}
}

func TestStopWithoutACluster(t *testing.T) {
	if err := Stop(t.Context(), t.TempDir(), true); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the error is %v", err)
	}
}

// Until everything else is removed, the file is kept by which the next `kontiki dev stop --purge` finds the cluster.
func TestAPurgeThatFailedCanBeRepeated(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	s := testState(t, 1, 1)
	if err := s.save(); err != nil {
		t.Fatal(err)
	}
	busy := filepath.Join(s.Dir, "hosts", "busy")
	later := filepath.Join(s.Dir, "later")
	for _, dir := range []string{busy, later} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := unix.Mount("tmpfs", busy, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	if err := s.purge(t.Context()); !errors.Is(err, unix.EBUSY) {
		t.Errorf("the purge of something that is mounted: %v", err)
	}
	mustExist(t, later, false)
	again, err := load(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(again.tearDown(), again.purge(t.Context())); err != nil {
		t.Error(err)
	}
	mustExist(t, s.Dir, false)
	if err := os.Mkdir(s.Dir, 0o755); err != nil { // for the test's own clean-up
		t.Fatal(err)
	}
}
