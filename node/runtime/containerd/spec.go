package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/contrib/apparmor"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/containerd/containerd/v2/pkg/oci"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/runtime"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// defaultCaps are the capabilities of a container unless its security context says otherwise.
var defaultCaps = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

var maskedPaths = []string{
	"/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats",
	"/proc/sched_debug", "/sys/firmware", "/sys/devices/virtual/powercap", "/proc/scsi", "/proc/interrupts",
}

var readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}

// errNoCommand has the text of other runtimes.
var errNoCommand = errors.New("no command specified")

// commandOf merges the image's entrypoint and cmd with the container's command and args: if the container has a command, the
// image's cmd is not used.
func commandOf(image ocispec.ImageConfig, command, args []string) ([]string, error) {
	switch {
	case len(command) == 0 && len(args) == 0:
		command, args = image.Entrypoint, image.Cmd
	case len(command) == 0:
		command = image.Entrypoint
	}
	out := append(slices.Clone(command), args...)
	if len(out) == 0 {
		return nil, errNoCommand
	}
	return out, nil
}

// envOf merges the image's variables with the container's, which take precedence. Each name appears once, at its first position.
func envOf(image ocispec.ImageConfig, hostname string, tty bool, own []runtime.KeyValue) []string {
	var out []string
	at := map[string]int{}
	set := func(k, v string) {
		if i, ok := at[k]; ok {
			out[i] = k + "=" + v
			return
		}
		at[k] = len(out)
		out = append(out, k+"="+v)
	}
	k, v, _ := strings.Cut(defaultPath, "=")
	set(k, v)
	set("HOSTNAME", hostname)
	if tty {
		set("TERM", "xterm")
	}
	for _, kv := range image.Env {
		if k, v, ok := strings.Cut(kv, "="); ok {
			set(k, v)
		}
	}
	for _, kv := range own {
		set(kv.Name, kv.Value)
	}
	return out
}

// spec returns the complete OCI runtime specification.
func (r *Runtime) spec(ctx context.Context, id string, c runtime.ContainerConfig, image ocispec.ImageConfig, user resolvedUser) (*specs.Spec, error) {
	args, err := commandOf(image, c.Command, c.Args)
	if err != nil {
		return nil, err
	}
	cwd := c.WorkingDir
	if cwd == "" {
		cwd = image.WorkingDir
	}
	if cwd == "" {
		cwd = "/"
	}
	hostname := c.Sandbox.Hostname
	if c.Sandbox.Net == runtime.NamespaceHost {
		hostname, _ = os.Hostname()
	}
	caps := r.capabilities(c.Security)
	adj := max(c.Resources.OOMScoreAdj, r.minOOMScoreAdj)
	s := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs", Readonly: c.Security.ReadOnlyRootfs},
		Process: &specs.Process{
			Terminal: c.TTY,
			Args:     args,
			Cwd:      cwd,
			Env:      envOf(image, hostname, c.TTY, c.Env),
			User:     specs.User{UID: user.uid, GID: user.gid, AdditionalGids: user.groups},
			// Ambient or inheritable capabilities would pass root's capabilities to other users.
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			NoNewPrivileges: c.Security.NoNewPrivileges,
			OOMScoreAdj:     &adj,
		},
		Mounts: r.mounts(c),
		Linux: &specs.Linux{
			CgroupsPath: filepath.Join(r.podCgroup(c.Sandbox.UID), id),
			Namespaces:  r.namespaces(c),
			Resources:   r.resources(c),
		},
		Annotations: map[string]string{"io.containerd.runc.v2.group": shimGroup(r.c.Namespace, c.Sandbox.UID)},
	}
	if c.TTY {
		s.Process.ConsoleSize = &specs.Box{Width: 80, Height: 24}
	}
	if !c.Security.Privileged && !c.Security.UnmaskedProc {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = maskedPaths, readonlyPaths
	}
	rootfsPropagation := ""
	for _, m := range c.Mounts {
		switch m.Propagation {
		case runtime.PropagationBidirectional:
			rootfsPropagation = "rshared"
		case runtime.PropagationHostToContainer:
			if rootfsPropagation == "" {
				rootfsPropagation = "rslave"
			}
		}
	}
	s.Linux.RootfsPropagation = rootfsPropagation
	if c.ProcessesOf != "" {
		target, _, err := r.running(c.ProcessesOf)
		if err != nil {
			return nil, err
		}
		joinProcesses(s, target.snapshot().Pid)
	}
	r.mapUsers(s, c.Sandbox)
	annotate(s, c)
	if err := r.devices(s, c); err != nil {
		return nil, err
	}
	if err := injectCDI(s, c); err != nil {
		return nil, err
	}
	if err := r.profiles(ctx, s, c.Security); err != nil {
		return nil, err
	}
	return s, nil
}

// joinProcesses puts a container into the process namespace of a process.
func joinProcesses(s *specs.Spec, pid int) {
	s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.PIDNamespace })
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: fmt.Sprintf("/proc/%d/ns/pid", pid)})
}

// shimGroup returns the name of the shim that all containers of a pod share. Agents on one containerd have separate shims.
func shimGroup(namespace, uid string) string { return namespace + "-" + uid }

// capabilities returns the container's capabilities, limited to the agent's own, which it cannot exceed.
func (r *Runtime) capabilities(s runtime.Security) []string {
	set := map[string]bool{}
	for _, c := range defaultCaps {
		set[c] = true
	}
	if s.Privileged {
		for _, c := range r.ownCaps {
			set[c] = true
		}
	}
	name := func(c string) string {
		c = strings.ToUpper(c)
		if !strings.HasPrefix(c, "CAP_") {
			c = "CAP_" + c
		}
		return c
	}
	if !s.Privileged {
		// ALL is evaluated first in both lists, so that names beside it have an effect.
		if containsAll(s.AddCaps) {
			for _, c := range cap.Known() {
				set[c] = true
			}
		}
		if containsAll(s.DropCaps) {
			clear(set)
		}
		for _, c := range s.AddCaps {
			set[name(c)] = true
		}
		for _, c := range s.DropCaps {
			delete(set, name(c))
		}
	}
	var out []string
	for _, c := range r.ownCaps {
		if set[c] {
			out = append(out, c)
		}
	}
	return out
}

func containsAll(caps []string) bool {
	return slices.ContainsFunc(caps, func(c string) bool { return strings.EqualFold(c, "ALL") || strings.EqualFold(c, "CAP_ALL") })
}

func (r *Runtime) namespaces(c runtime.ContainerConfig) []specs.LinuxNamespace {
	dir := r.sandboxDir(c.Sandbox.UID)
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	if c.Sandbox.Net == runtime.NamespacePod {
		out = append(out, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: filepath.Join(dir, "net")},
			specs.LinuxNamespace{Type: specs.UTSNamespace, Path: filepath.Join(dir, "uts")})
	} else {
		// The agent may be in another network namespace than containerd. /proc/PID/ns/net would be the main thread's, which may
		// have entered a pod's namespace: Go cannot end that thread.
		out = append(out, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), r.hostNet.Fd())})
	}
	if c.Sandbox.IPC == runtime.NamespacePod {
		out = append(out, specs.LinuxNamespace{Type: specs.IPCNamespace, Path: filepath.Join(dir, "ipc")})
	}
	switch {
	case c.Sandbox.HostPID:
	case c.Sandbox.SharePID:
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: filepath.Join(dir, "pid")})
	default:
		out = append(out, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	if r.cg.v2 && !c.Security.Privileged {
		out = append(out, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return out
}

func (r *Runtime) resources(c runtime.ContainerConfig) *specs.LinuxResources {
	out := ociResources(c.Resources)
	if r.cg.v2 {
		out.Unified = map[string]string{}
		if !c.SingleProcessOOMKill {
			// If the OOM killer kills one process, it kills the whole container: a part of it would be useless.
			out.Unified["memory.oom.group"] = "1"
		}
		if r.features.Swap {
			out.Unified["memory.swap.max"] = strconv.FormatInt(c.Resources.Swap, 10)
		}
	}
	if c.Security.Privileged {
		out.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
	} else {
		out.Devices = append(out.Devices, specs.LinuxDeviceCgroup{Allow: false, Access: "rwm"})
		s := specs.Spec{Linux: &specs.Linux{Resources: out}}
		_ = oci.WithDefaultUnixDevices(context.Background(), nil, nil, &s)
	}
	return out
}

func ociResources(in runtime.Resources) *specs.LinuxResources {
	out := &specs.LinuxResources{CPU: &specs.LinuxCPU{}}
	if in.CPUShares > 0 {
		out.CPU.Shares = &in.CPUShares
	}
	if in.CPUQuota > 0 {
		out.CPU.Quota, out.CPU.Period = &in.CPUQuota, &in.CPUPeriod
	}
	out.CPU.Cpus, out.CPU.Mems = in.CPUs, in.Memories
	if in.MemoryLimit > 0 {
		// The limit of swap includes that of memory, if the kernel accounts swap at all.
		out.Memory = &specs.LinuxMemory{Limit: &in.MemoryLimit}
		if swapAccounting() {
			out.Memory.Swap = new(in.MemoryLimit + in.Swap)
		}
	}
	if in.PidsLimit > 0 {
		out.Pids = &specs.LinuxPids{Limit: &in.PidsLimit}
	}
	for size, n := range in.HugePages {
		out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: size, Limit: n})
	}
	return out
}

func swapAccounting() bool {
	if _, err := os.Stat("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes"); err == nil {
		return true
	}
	return limitsSwap("/sys/fs/cgroup")
}

// limitsSwap says whether groups of cgroup v2 have limits of swap. The root itself has none.
func limitsSwap(root string) bool {
	found, err := filepath.Glob(filepath.Join(root, "*", "memory.swap.max"))
	return err == nil && len(found) > 0
}

// mounts returns the system's mounts, then the pod's, with parents before children.
func (r *Runtime) mounts(c runtime.ContainerConfig) []specs.Mount {
	sysMode, cgMode := "ro", "ro"
	if c.Security.Privileged {
		sysMode, cgMode = "rw", "rw"
	}
	out := []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", sysMode}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", cgMode}},
	}
	shm := filepath.Join(r.sandboxDir(c.Sandbox.UID), "shm")
	if c.Sandbox.IPC == runtime.NamespaceHost {
		shm = "/dev/shm"
	}
	out = append(out, specs.Mount{Destination: "/dev/shm", Type: "bind", Source: shm, Options: []string{"rbind", "rw"}})
	own := slices.Clone(c.Mounts)
	slices.SortStableFunc(own, func(a, b runtime.Mount) int {
		return strings.Count(filepath.Clean(a.ContainerPath), "/") - strings.Count(filepath.Clean(b.ContainerPath), "/")
	})
	for _, m := range own {
		out = slices.DeleteFunc(out, func(o specs.Mount) bool { return o.Destination == filepath.Clean(m.ContainerPath) })
		mode := "rw"
		if m.ReadOnly {
			mode = "ro"
			if m.RecursiveReadOnly {
				mode = "rro"
			}
		}
		prop := "rprivate"
		switch m.Propagation {
		case runtime.PropagationBidirectional:
			prop = "rshared"
		case runtime.PropagationHostToContainer:
			prop = "rslave"
		}
		out = append(out, specs.Mount{Destination: m.ContainerPath, Type: "bind", Source: m.HostPath, Options: []string{"rbind", prop, mode}})
	}
	return out
}

func (r *Runtime) devices(s *specs.Spec, c runtime.ContainerConfig) error {
	if c.Security.Privileged {
		return hostDevices(s)
	}
	for _, d := range c.Devices {
		var st unix.Stat_t
		if err := unix.Stat(d.HostPath, &st); err != nil {
			return fmt.Errorf("device %s: %w", d.HostPath, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			if err := addDevices(s, d); err != nil {
				return err
			}
			continue
		}
		if kind := st.Mode & unix.S_IFMT; kind != unix.S_IFCHR && kind != unix.S_IFBLK {
			return fmt.Errorf("device %s: it is not a device", d.HostPath)
		}
		addDevice(s, d.ContainerPath, st, d.Permissions)
	}
	return nil
}

// maxDevicesBelow limits the devices of one directory, and maxDeviceDepth how deep they are.
const maxDevicesBelow, maxDeviceDepth = 1000, 10

// addDevices adds every device below a directory of the host, such as /dev/dri.
func addDevices(s *specs.Spec, d runtime.Device) error {
	before := len(s.Linux.Devices)
	var walk func(host, inside string, depth int) error
	walk = func(host, inside string, depth int) error {
		entries, err := os.ReadDir(host)
		if err != nil {
			return fmt.Errorf("device %s: %w", d.HostPath, err)
		}
		for _, e := range entries {
			path := filepath.Join(host, e.Name())
			if e.IsDir() && depth < maxDeviceDepth {
				if err := walk(path, filepath.Join(inside, e.Name()), depth+1); err != nil {
					return err
				}
				continue
			}
			var st unix.Stat_t
			if e.Type()&os.ModeDevice == 0 || unix.Lstat(path, &st) != nil {
				continue
			}
			if len(s.Linux.Devices)-before == maxDevicesBelow {
				return fmt.Errorf("device %s: there are more than %d devices below it", d.HostPath, maxDevicesBelow)
			}
			addDevice(s, filepath.Join(inside, e.Name()), st, d.Permissions)
		}
		return nil
	}
	return walk(d.HostPath, d.ContainerPath, 0)
}

func addDevice(s *specs.Spec, path string, st unix.Stat_t, access string) {
	kind := "c"
	if st.Mode&unix.S_IFMT == unix.S_IFBLK {
		kind = "b"
	}
	major, minor := int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	mode := os.FileMode(st.Mode & 0o777)
	s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: path, Type: kind, Major: major, Minor: minor, FileMode: &mode, UID: &st.Uid, GID: &st.Gid})
	s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: kind, Major: &major, Minor: &minor, Access: access})
}

// hostDevices gives a privileged container every device of the host.
func hostDevices(s *specs.Spec) error {
	skip := map[string]bool{"pts": true, "shm": true, "fd": true, "mqueue": true, "hugepages": true, ".lxc": true, ".udev": true}
	var walk func(dir string) error
	walk = func(dir string) error {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil // it may have been removed
		}
		for _, e := range entries {
			path := filepath.Join(dir, e.Name())
			if e.IsDir() {
				if !skip[e.Name()] {
					if err := walk(path); err != nil {
						return err
					}
				}
				continue
			}
			if e.Type()&os.ModeDevice == 0 || e.Name() == "console" {
				continue
			}
			var st unix.Stat_t
			if unix.Lstat(path, &st) == nil {
				addDevice(s, path, st, "rwm")
			}
		}
		return nil
	}
	return walk("/dev")
}

func (r *Runtime) profiles(ctx context.Context, s *specs.Spec, sec runtime.Security) error {
	if !sec.Privileged {
		switch {
		case sec.Seccomp == "runtime/default":
			s.Linux.Seccomp = seccomp.DefaultProfile(s)
		case strings.HasPrefix(sec.Seccomp, "localhost/"):
			if err := seccomp.WithProfile(strings.TrimPrefix(sec.Seccomp, "localhost/"))(ctx, nil, nil, s); err != nil {
				return fmt.Errorf("seccomp profile: %w", err)
			}
		}
	}
	return r.apparmor(ctx, s, sec)
}

// defaultProfile is the AppArmor profile of containers that name none; the name is the one that other runtimes use.
const defaultProfile = "cri-containerd.apparmor.d"

// apparmor sets the container's AppArmor profile if the host supports it. Privileged containers are unconfined.
func (r *Runtime) apparmor(ctx context.Context, s *specs.Spec, sec runtime.Security) error {
	name, local := strings.CutPrefix(sec.AppArmor, "localhost/")
	switch {
	case local && !r.features.AppArmor:
		return errors.New("AppArmor is not enabled on the host")
	case local:
		s.Process.ApparmorProfile = name
	case sec.AppArmor == "runtime/default" && !r.features.AppArmor:
		return errors.New("AppArmor is not enabled on the host")
	case sec.AppArmor == "unconfined" || sec.Privileged || !r.features.AppArmor:
	default:
		if err := apparmor.WithDefaultProfile(defaultProfile)(ctx, nil, nil, s); err != nil {
			return fmt.Errorf("AppArmor profile: %w", err)
		}
	}
	return nil
}

// ownLimits returns the agent's own capabilities, and the lowest OOM score adjustment that it may set.
func ownLimits() (caps []string, minOOM int, err error) {
	caps, err = cap.Current()
	if err != nil {
		return nil, 0, fmt.Errorf("own capabilities: %w", err)
	}
	if slices.Contains(caps, "CAP_SYS_RESOURCE") {
		return caps, -1000, nil
	}
	b, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return nil, 0, err
	}
	minOOM, err = strconv.Atoi(strings.TrimSpace(string(b)))
	return caps, minOOM, err
}
