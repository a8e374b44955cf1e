package guard

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// cgroups kills what is in the pods' cgroups.
type cgroups struct {
	root, parent string
	v2           bool
}

func newCgroups(parent string) cgroups {
	var st unix.Statfs_t
	c := cgroups{root: "/sys/fs/cgroup", parent: parent}
	c.v2 = unix.Statfs(c.root, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
	return c
}

// dir returns the directory that lists a pod's processes; "" if there is none.
func (c cgroups) dir(uid string) string {
	name := filepath.Join(c.parent, "pod"+filepath.Base(uid))
	if c.v2 {
		if dir := filepath.Join(c.root, name); isDir(dir) {
			return dir
		}
		return ""
	}
	for _, hierarchy := range []string{"freezer", "pids", "systemd", "memory"} {
		if dir := filepath.Join(c.root, hierarchy, name); isDir(dir) {
			return dir
		}
	}
	return ""
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// kill kills all processes of a pod. left says whether there were any.
func (c cgroups) kill(uid string) (left bool, err error) {
	dir := c.dir(uid)
	if dir == "" {
		return false, nil
	}
	pids, err := processes(dir)
	if err != nil || len(pids) == 0 {
		return false, err
	}
	if c.v2 && os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0o644) == nil {
		return true, nil
	}
	// Frozen processes cannot make others faster than they are killed. They die when they are thawed.
	file, frozen, thawed := "freezer.state", "FROZEN", "THAWED"
	if c.v2 {
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
