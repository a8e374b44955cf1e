package dev

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/internal/tree"
)

// stopTime is how long a process may take to stop by itself.
const stopTime = 10 * time.Second

// tearDown ends every process and container of the cluster and removes its namespaces, mounts and cgroups. The data stays. It works
// whether or not the supervisor is running, and can be repeated.
func (s *State) tearDown() error {
	var hosts []Process
	for name, p := range s.Processes {
		if name != "containerd" && name != "supervisor" {
			hosts = append(hosts, p)
		}
	}
	for _, p := range hosts {
		if p.alive() {
			syscall.Kill(p.Pid, syscall.SIGTERM) // all at once; stop waits for each
		}
	}
	for _, p := range hosts {
		p.stop(stopTime)
	}
	errs := []error{s.endContainers()}
	s.Processes["containerd"].stop(stopTime)
	errs = append(errs, s.unmount(), s.removeCgroups(), s.removeNetwork())
	// containerd's state about running containers is invalid now; its images stay.
	errs = append(errs, tree.RemoveAll(context.Background(), filepath.Join(s.containerdDir(), "state")))
	s.Processes = map[string]Process{}
	return errors.Join(append(errs, s.save())...)
}

// purge removes the cluster's directory. The file with the cluster's state goes last, so that a purge that failed can be repeated.
func (s *State) purge(ctx context.Context) error {
	entries, err := os.ReadDir(s.Dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if path := filepath.Join(s.Dir, e.Name()); path != s.file() {
			errs = append(errs, tree.RemoveAll(ctx, path))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return tree.RemoveAll(ctx, s.Dir)
}

// endContainers kills the processes in the cluster's cgroups, and then the shims, which are recognized by the socket in their
// arguments.
func (s *State) endContainers() error {
	kill := func() (left int) {
		for _, pid := range append(s.cgroupPids(), s.shims()...) {
			syscall.Kill(pid, syscall.SIGKILL)
			left++
		}
		return left
	}
	deadline := time.Now().Add(stopTime)
	for kill() > 0 {
		if time.Now().After(deadline) {
			return errors.New("containers do not exit: their processes are stuck in the kernel")
		}
		time.Sleep(50 * time.Millisecond) // these are not children, so there is no event to wait for
	}
	return nil
}

func (s *State) cgroupDirs() (dirs []string) {
	for _, pattern := range []string{"/sys/fs/cgroup/" + s.cgroupRoot(), "/sys/fs/cgroup/*/" + s.cgroupRoot()} {
		found, _ := filepath.Glob(pattern) // Glob fails only for a malformed pattern
		dirs = append(dirs, found...)
	}
	return dirs
}

func (s *State) cgroupPids() (pids []int) {
	for _, root := range s.cgroupDirs() {
		filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.Name() != "cgroup.procs" {
				return nil // a cgroup that is being removed
			}
			data, _ := os.ReadFile(path)
			for _, field := range strings.Fields(string(data)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 { // 0: a process of another pid namespace
					pids = append(pids, pid)
				}
			}
			return nil
		})
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

// shims returns the processes of shims and loggers whose arguments contain the cluster's directory.
func (s *State) shims() (pids []int) {
	entries, _ := os.ReadDir("/proc")
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		data, err := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if err != nil {
			continue
		}
		args := strings.Split(strings.TrimRight(string(data), "\x00"), "\x00")
		shim := strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") && slices.Contains(args, s.containerdSocket())
		logger := len(args) > 2 && args[1] == "container-logger" && strings.HasPrefix(args[2], s.Dir+"/")
		if shim || logger {
			pids = append(pids, pid)
		}
	}
	return pids
}

// unmount unmounts everything below the cluster's directory, innermost first.
func (s *State) unmount() error {
	for {
		mounts, err := mountsBelow(s.Dir)
		if err != nil || len(mounts) == 0 {
			return err
		}
		var errs []error
		for _, path := range slices.Backward(mounts) {
			if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				errs = append(errs, fmt.Errorf("unmount %s: %w", path, err))
			}
		}
		if len(errs) > 0 {
			return errors.Join(errs...)
		}
	}
}

func mountsBelow(dir string) (mounts []string, err error) {
	if resolved, err := filepath.EvalSymlinks(dir); err == nil { // the kernel names mounts by their real paths
		dir = resolved
	}
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	defer file.Close()
	unescape := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if fields := strings.Fields(lines.Text()); len(fields) > 4 {
			if path := unescape.Replace(fields[4]); strings.HasPrefix(path, dir+"/") {
				mounts = append(mounts, path)
			}
		}
	}
	return mounts, lines.Err()
}

// removeCgroups removes the cgroups, innermost first.
func (s *State) removeCgroups() error {
	var errs []error
	for _, root := range s.cgroupDirs() {
		var dirs []string
		filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			if err := removeBusy(dir); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// removeBusy removes a cgroup whose last process may still be exiting.
func removeBusy(dir string) error {
	deadline := time.Now().Add(2 * time.Second)
	for {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return fmt.Errorf("remove cgroup: %w", err)
		}
		time.Sleep(20 * time.Millisecond) // the kernel has no event for a cgroup that becomes empty
	}
}
