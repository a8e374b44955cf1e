package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
	"k8s.io/component-helpers/node/util/sysctl"

	"github.com/kontiki/kontiki/internal/tree"
	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/selinux"
)

// A sandbox is a directory, sandboxes/UID: config.json is its configuration; net, ipc and uts are bind mounts of namespaces; shm is
// the tmpfs that the pod's containers share.

func (r *Runtime) sandboxDir(uid string) string { return filepath.Join(r.c.StateDir, "sandboxes", uid) }

func (r *Runtime) podCgroup(uid string) string {
	return filepath.Join("/", r.c.CgroupParent, "pod"+uid)
}

func (r *Runtime) EnsureSandbox(ctx context.Context, c runtime.SandboxConfig) (runtime.Sandbox, error) {
	unlock := r.lock("sandbox/" + c.UID)
	defer unlock()
	if _, err := r.handlerOf(c); err != nil {
		return runtime.Sandbox{}, fmt.Errorf("failed to get sandbox runtime: %w", err)
	}
	if err := ownSysctls(c); err != nil {
		return runtime.Sandbox{}, err
	}
	dir := r.sandboxDir(c.UID)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return runtime.Sandbox{}, err
	}
	b, err := json.Marshal(c)
	if err != nil {
		return runtime.Sandbox{}, err
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600); err != nil {
		return runtime.Sandbox{}, err
	}
	if err := r.cg.ensurePod(r.podCgroup(c.UID), c.Resources); err != nil {
		return runtime.Sandbox{}, err
	}
	labels, err := r.ensureLabels(c)
	if err != nil {
		return runtime.Sandbox{}, err
	}
	pin := pinNamespaces
	if c.Users != nil {
		pin = pinMapped
	}
	if err := pin(dir, c); err != nil {
		return runtime.Sandbox{}, fmt.Errorf("namespaces of pod %s/%s: %w", c.Namespace, c.Name, err)
	}
	if c.IPC == runtime.NamespacePod {
		if err := mountShm(filepath.Join(dir, "shm"), c.Users); err != nil {
			return runtime.Sandbox{}, fmt.Errorf("shared memory of pod %s/%s: %w", c.Namespace, c.Name, err)
		}
		if labels.File != "" {
			if err := selinux.Relabel(ctx, filepath.Join(dir, "shm"), labels.File); err != nil {
				return runtime.Sandbox{}, err
			}
		}
	}
	return r.sandbox(c), nil
}

func (r *Runtime) UpdateSandbox(ctx context.Context, uid string, res runtime.Resources) error {
	unlock := r.lock("sandbox/" + uid)
	defer unlock()
	path := filepath.Join(r.sandboxDir(uid), "config.json")
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("sandbox %s: %w", uid, runtime.ErrNotFound)
	}
	c := runtime.SandboxConfig{}
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil {
		return err
	}
	if err := r.cg.limit(r.podCgroup(uid), res); err != nil {
		return fmt.Errorf("limits of pod %s: %w", uid, err)
	}
	c.Resources = merged(c.Resources, res)
	if b, err = json.Marshal(c); err != nil {
		return err
	}
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".tmp", path)
}

// merged returns limits in which those of change that are set replace the old ones.
func merged(old, change runtime.Resources) runtime.Resources {
	if change.CPUShares > 0 {
		old.CPUShares = change.CPUShares
	}
	if change.CPUQuota > 0 {
		old.CPUQuota, old.CPUPeriod = change.CPUQuota, change.CPUPeriod
	}
	if change.MemoryLimit > 0 {
		old.MemoryLimit = change.MemoryLimit
	}
	if change.PidsLimit > 0 {
		old.PidsLimit = change.PidsLimit
	}
	return old
}

func (r *Runtime) sandbox(c runtime.SandboxConfig) runtime.Sandbox {
	s := runtime.Sandbox{UID: c.UID, Namespace: c.Namespace, Name: c.Name, Generation: r.bootID}
	if c.Net == runtime.NamespacePod {
		s.NetNS = filepath.Join(r.sandboxDir(c.UID), "net")
	}
	return s
}

type namespace struct {
	name string
	flag int
}

func wanted(c runtime.SandboxConfig) []namespace {
	var n []namespace
	if c.Net == runtime.NamespacePod {
		// A pod in the host's network has the host's name too, as with other runtimes.
		n = append(n, namespace{"net", unix.CLONE_NEWNET}, namespace{"uts", unix.CLONE_NEWUTS})
	}
	if c.IPC == runtime.NamespacePod {
		n = append(n, namespace{"ipc", unix.CLONE_NEWIPC})
	}
	return n
}

// pinNamespaces creates missing namespaces. The thread that enters them is never returned to Go's scheduler: its goroutine ends
// locked, which ends the thread.
func pinNamespaces(dir string, c runtime.SandboxConfig) error {
	var missing []namespace
	for _, n := range wanted(c) {
		if !isNamespace(filepath.Join(dir, n.name)) {
			missing = append(missing, n)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	result := make(chan error, 1)
	go func() {
		goruntime.LockOSThread()
		result <- func() error {
			for _, n := range missing {
				if err := unix.Unshare(n.flag); err != nil {
					return fmt.Errorf("unshare %s: %w", n.name, err)
				}
			}
			if err := configure(missing, c); err != nil {
				return err
			}
			for _, n := range missing {
				path := filepath.Join(dir, n.name)
				f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
				if err != nil {
					return err
				}
				f.Close()
				self := fmt.Sprintf("/proc/self/task/%d/ns/%s", unix.Gettid(), n.name)
				if err := unix.Mount(self, path, "", unix.MS_BIND, ""); err != nil {
					return fmt.Errorf("pin %s: %w", n.name, err)
				}
			}
			return nil
		}()
	}()
	return <-result
}

// configure is run inside the new namespaces.
func configure(made []namespace, c runtime.SandboxConfig) error {
	for _, n := range made {
		switch n.name {
		case "uts":
			if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
				return fmt.Errorf("set hostname: %w", err)
			}
		case "net":
			if err := loopbackUp(); err != nil {
				return fmt.Errorf("loopback up: %w", err)
			}
		}
	}
	for k, v := range c.Sysctls {
		// An existing namespace already has its values.
		if !slices.ContainsFunc(made, func(n namespace) bool { return n.name == namespaceOfSysctl(k) }) {
			continue
		}
		write := func() error { return os.WriteFile(filepath.Join("/proc/sys", sysctlPath(k)), []byte(v), 0o644) }
		if c.Users != nil && namespaceOfSysctl(k) == "ipc" {
			write = asUser(c.Users.First, write) // the kernel lets only the namespace's root change these
		}
		if err := write(); err != nil {
			return fmt.Errorf("sysctl %s: %w", k, err)
		}
	}
	return nil
}

// namespaceOfSysctl returns the name of the sandbox's namespace that a sysctl belongs to, "" for one of the host.
func namespaceOfSysctl(name string) string {
	switch ns, _, _ := sysctl.GetNamespace(name); ns {
	case sysctl.NetNamespace:
		return "net"
	case sysctl.IPCNamespace:
		return "ipc"
	case sysctl.UTSNamespace:
		return "uts"
	}
	return ""
}

// sysctlPath returns the path of a sysctl below /proc/sys. In a normalized name a slash means a dot within a part.
func sysctlPath(name string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case '.':
			return '/'
		case '/':
			return '.'
		}
		return r
	}, sysctl.NormalizeName(name))
}

// ownSysctls refuses sysctls that are not in a namespace of the sandbox's own, so that the host's are never written, even if the
// pod was admitted.
func ownSysctls(c runtime.SandboxConfig) error {
	for name := range c.Sysctls {
		ns := namespaceOfSysctl(name)
		if !slices.ContainsFunc(wanted(c), func(n namespace) bool { return n.name == ns }) || sysctlPath(name) != filepath.Clean(sysctlPath(name)) {
			return fmt.Errorf("sysctl %q is not in a namespace of the pod's own", name)
		}
	}
	return nil
}

func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	ifr, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, ifr); err != nil {
		return err
	}
	ifr.SetUint16(ifr.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr)
}

func isNamespace(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && st.Type == unix.NSFS_MAGIC
}

const shmSize = 64 << 20

func mountShm(path string, users *runtime.IDRange) error {
	if err := os.MkdirAll(path, 0o1777); err != nil {
		return err
	}
	var st unix.Statfs_t
	if unix.Statfs(path, &st) == nil && st.Type == unix.TMPFS_MAGIC && isMountPoint(path) {
		return nil
	}
	data := fmt.Sprintf("mode=1777,size=%d", shmSize)
	if users != nil {
		data += fmt.Sprintf(",uid=%d,gid=%d", users.First, users.First)
	}
	return unix.Mount("shm", path, "tmpfs", unix.MS_NOEXEC|unix.MS_NOSUID|unix.MS_NODEV, data)
}

// isMountPoint says whether path is the root of a mount, even one from the same device as its parent.
func isMountPoint(path string) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0
}

func (r *Runtime) RemoveSandbox(ctx context.Context, uid string) error {
	unlock := r.lock("sandbox/" + uid)
	defer unlock()
	dir := r.sandboxDir(uid)
	if err := r.removeInit(ctx, uid); err != nil {
		return err
	}
	if err := r.removeImageViews(ctx, uid); err != nil {
		return err
	}
	for _, name := range []string{"net", "uts", "ipc", "user", "shm"} {
		unmountAll(filepath.Join(dir, name))
	}
	if err := r.cg.remove(r.podCgroup(uid)); err != nil {
		return fmt.Errorf("cgroup of pod %s: %w", uid, err)
	}
	labels, err := r.labelsOfSandbox(uid)
	if err != nil {
		return err
	}
	if err := tree.RemoveAll(ctx, dir); err != nil {
		return err
	}
	if labels != (selinux.Labels{}) {
		r.c.SELinux.Release(labels)
	}
	return nil
}

// unmountAll unmounts every mount on path: a crash between two steps may have left more than one.
func unmountAll(path string) {
	for range 8 {
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return
		}
	}
}

// usersOf returns the users of a sandbox, nil for the host's.
func (r *Runtime) usersOf(uid string) *runtime.IDRange {
	c := runtime.SandboxConfig{}
	if b, err := os.ReadFile(filepath.Join(r.sandboxDir(uid), "config.json")); err == nil {
		_ = json.Unmarshal(b, &c)
	}
	return c.Users
}

func (r *Runtime) ListSandboxes(ctx context.Context) ([]runtime.Sandbox, error) {
	entries, err := os.ReadDir(filepath.Join(r.c.StateDir, "sandboxes"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []runtime.Sandbox
	for _, e := range entries {
		c := runtime.SandboxConfig{UID: e.Name()}
		if b, err := os.ReadFile(filepath.Join(r.sandboxDir(e.Name()), "config.json")); err == nil {
			_ = json.Unmarshal(b, &c)
			c.UID = e.Name()
		}
		out = append(out, r.sandbox(c))
	}
	return out, nil
}
