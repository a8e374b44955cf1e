// Package cgroup kills the processes of a cgroup, in both versions of cgroups.
package cgroup

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Root is where the cgroups of a host are mounted.
type Root struct {
	Dir string
	V2  bool // one hierarchy; a hybrid host has version 1
}

// Host returns the root of this host.
func Host() Root {
	r := Root{Dir: "/sys/fs/cgroup"}
	var st unix.Statfs_t
	r.V2 = unix.Statfs(r.Dir, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
	return r
}

// dir returns the directory that lists a cgroup's processes; "" if there is none.
func (r Root) dir(path string) string {
	if r.V2 {
		if dir := filepath.Join(r.Dir, path); isDir(dir) {
			return dir
		}
		return ""
	}
	for _, hierarchy := range []string{"freezer", "pids", "systemd", "memory"} {
		if dir := filepath.Join(r.Dir, hierarchy, path); isDir(dir) {
			return dir
		}
	}
	return ""
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// Kill kills all processes of a cgroup and of those below it; path is that within a hierarchy. left says whether there were any: they end
// some time later.
func (r Root) Kill(path string) (left bool, err error) {
	dir := r.dir(path)
	if dir == "" {
		return false, nil
	}
	pids, err := processes(dir)
	if err != nil || len(pids) == 0 {
		return false, err
	}
	if r.V2 && os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0o644) == nil {
		return true, nil
	}
	// Frozen processes cannot make others faster than they are killed. They die when they are thawed.
	file, frozen, thawed := "freezer.state", "FROZEN", "THAWED"
	if r.V2 {
		file, frozen, thawed = "cgroup.freeze", "1", "0"
	}
	freezer := filepath.Join(dir, file)
	if isFile(freezer) {
		_ = os.WriteFile(freezer, []byte(frozen), 0o644)
		defer func() { err = errors.Join(err, os.WriteFile(freezer, []byte(thawed), 0o644)) }()
		if pids, err = processes(dir); err != nil {
			return true, err
		}
	}
	for _, pid := range pids {
		if killed := unix.Kill(pid, unix.SIGKILL); killed != nil && !errors.Is(killed, unix.ESRCH) {
			err = errors.Join(err, killed)
		}
	}
	return true, err
}

func isFile(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// processes lists the processes of a cgroup and of all below it.
func processes(dir string) (pids []int, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			return err
		}
		if !entry.IsDir() {
			return nil
		}
		list, err := os.ReadFile(filepath.Join(path, "cgroup.procs"))
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return err
		}
		for line := range bytes.Lines(list) {
			if pid, err := strconv.Atoi(string(bytes.TrimSpace(line))); err == nil && pid > 1 {
				pids = append(pids, pid)
			}
		}
		return nil
	})
	return pids, err
}
