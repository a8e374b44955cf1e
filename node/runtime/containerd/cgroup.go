package containerd

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/cgroup"
	"github.com/kontiki/kontiki/node/runtime"
)

// cgroups reads and writes the cgroup files of pods. In version 1 each controller has its own hierarchy; a hybrid host counts as
// version 1. Paths are absolute within a hierarchy: /kontiki/NODE/podUID/CONTAINER.
type cgroups struct {
	root string // /sys/fs/cgroup
	v2   bool
}

// controllers are the version 1 hierarchies in which a pod's parent cgroup is created.
var controllers = []string{"cpu", "cpuacct", "cpuset", "memory", "devices", "freezer", "blkio", "pids", "hugetlb", "net_cls", "net_prio", "perf_event", "systemd"}

func newCgroups() cgroups {
	host := cgroup.Host()
	return cgroups{root: host.Dir, v2: host.V2}
}

// dir returns the directory of a controller's files for a path.
func (c cgroups) dir(controller, path string) string {
	if c.v2 {
		return filepath.Join(c.root, path)
	}
	return filepath.Join(c.root, controller, path)
}

// ensurePod creates the pod's parent cgroup with its limits.
func (c cgroups) ensurePod(path string, r runtime.Resources) error {
	if c.v2 {
		return c.ensureV2(path, r)
	}
	for _, name := range controllers {
		if _, err := os.Stat(filepath.Join(c.root, name)); err != nil {
			continue
		}
		if name == "cpuset" {
			if err := c.ensureCpuset(path); err != nil {
				return err
			}
			continue
		}
		if name == "memory" {
			// A container's usage must count towards its pod: hierarchical accounting must be enabled before there are children.
			if err := c.ensureMemory(path); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(c.dir(name, path), 0o755); err != nil {
			return fmt.Errorf("cgroup of pod: %w", err)
		}
	}
	return c.limit(path, r)
}

// limit sets those limits of an existing cgroup that are not zero.
func (c cgroups) limit(path string, r runtime.Resources) error {
	if c.v2 {
		return c.limitV2(path, r)
	}
	var errs []error
	if r.CPUShares > 0 {
		errs = append(errs, c.write("cpu", path, "cpu.shares", strconv.FormatUint(r.CPUShares, 10)))
	}
	if r.CPUQuota > 0 {
		errs = append(errs, c.write("cpu", path, "cpu.cfs_period_us", strconv.FormatUint(r.CPUPeriod, 10)),
			c.write("cpu", path, "cpu.cfs_quota_us", strconv.FormatInt(r.CPUQuota, 10)))
	}
	if r.MemoryLimit > 0 {
		errs = append(errs, c.write("memory", path, "memory.limit_in_bytes", strconv.FormatInt(r.MemoryLimit, 10)))
	}
	if r.PidsLimit > 0 {
		errs = append(errs, c.write("pids", path, "pids.max", strconv.FormatInt(r.PidsLimit, 10)))
	}
	return errors.Join(errs...)
}

func (c cgroups) ensureMemory(path string) error {
	dir := filepath.Join(c.root, "memory")
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil {
			if errors.Is(err, fs.ErrExist) {
				continue
			}
			return err
		}
		// Newer kernels always have it enabled; older ones refuse to set it if a parent has it.
		_ = os.WriteFile(filepath.Join(dir, "memory.use_hierarchy"), []byte("1"), 0o644)
	}
	return nil
}

// ensureCpuset copies the parent's CPUs: a new cpuset is empty and accepts no process.
func (c cgroups) ensureCpuset(path string) error {
	dir := filepath.Join(c.root, "cpuset")
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		parent := dir
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			if b, err := os.ReadFile(filepath.Join(dir, f)); err == nil && strings.TrimSpace(string(b)) == "" {
				if b, err = os.ReadFile(filepath.Join(parent, f)); err != nil {
					return err
				}
				if err := os.WriteFile(filepath.Join(dir, f), b, 0o644); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (c cgroups) ensureV2(path string, r runtime.Resources) error {
	dir := c.root
	for _, part := range strings.Split(strings.Trim(path, "/"), "/") {
		// Enable each level's controllers for its children, one by one, as some may be refused.
		if b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers")); err == nil {
			for _, name := range strings.Fields(string(b)) {
				_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0o644)
			}
		}
		dir = filepath.Join(dir, part)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cgroup of pod: %w", err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers")); err == nil {
		for _, name := range strings.Fields(string(b)) {
			_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0o644)
		}
	}
	return c.limitV2(path, r)
}

func (c cgroups) limitV2(path string, r runtime.Resources) error {
	var errs []error
	if r.CPUShares > 0 {
		errs = append(errs, c.write("", path, "cpu.weight", strconv.FormatUint(sharesToWeight(r.CPUShares), 10)))
	}
	if r.CPUQuota > 0 {
		errs = append(errs, c.write("", path, "cpu.max", fmt.Sprintf("%d %d", r.CPUQuota, r.CPUPeriod)))
	}
	if r.MemoryLimit > 0 {
		errs = append(errs, c.write("", path, "memory.max", strconv.FormatInt(r.MemoryLimit, 10)))
	}
	if r.PidsLimit > 0 {
		errs = append(errs, c.write("", path, "pids.max", strconv.FormatInt(r.PidsLimit, 10)))
	}
	return errors.Join(errs...)
}

// sharesToWeight maps version 1's [2, 262144] to version 2's [1, 10000], as runc does.
func sharesToWeight(shares uint64) uint64 {
	return 1 + (max(2, min(shares, 262144))-2)*9999/262142
}

func (c cgroups) write(controller, path, file, value string) error {
	err := os.WriteFile(filepath.Join(c.dir(controller, path), file), []byte(value), 0o644)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the kernel does not have this controller
	}
	return err
}

// remove deletes a path and everything below it, in every hierarchy. Processes that are left are killed: those of a container that containerd
// was starting when it was killed have no record there. It retries for a moment, since the kernel frees a cgroup shortly after its last process has
// ended.
func (c cgroups) remove(path string) error {
	hierarchies := []string{c.root}
	if !c.v2 {
		// runc also creates cgroups in hierarchies that this package does not use, such as "unified" of a hybrid host.
		entries, err := os.ReadDir(c.root)
		if err != nil {
			return err
		}
		hierarchies = nil
		for _, e := range entries {
			hierarchies = append(hierarchies, filepath.Join(c.root, e.Name()))
		}
	}
	var err error
	for range 20 {
		err = nil
		for _, hierarchy := range hierarchies {
			err = errors.Join(err, removeTree(filepath.Join(hierarchy, path)))
		}
		if err == nil {
			return nil
		}
		if _, killed := (cgroup.Root{Dir: c.root, V2: c.v2}).Kill(path); killed != nil {
			err = errors.Join(err, killed)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
		return fmt.Errorf("rmdir %s: %w", dir, err)
	}
	return nil
}

// oomKilled says whether the OOM killer killed a process of exactly this cgroup. It can be read until the cgroup is removed, which
// makes it more reliable than events, whose order is not defined.
func (c cgroups) oomKilled(path string) bool {
	file := "memory.oom_control"
	if c.v2 {
		file = "memory.events"
	}
	return c.stat("memory", path, file)["oom_kill"] > 0
}

// stat reads a file of "key value" lines.
func (c cgroups) stat(controller, path, file string) map[string]uint64 {
	f, err := os.Open(filepath.Join(c.dir(controller, path), file))
	if err != nil {
		return nil
	}
	defer f.Close()
	m := map[string]uint64{}
	s := bufio.NewScanner(f)
	for s.Scan() {
		k, v, _ := strings.Cut(s.Text(), " ")
		if n, err := strconv.ParseUint(v, 10, 64); err == nil {
			m[k] = n
		}
	}
	return m
}
