package containerd

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"time"

	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/sys"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/runtime"
)

// A pod in a user namespace has ids of its own on the host (KEP-127). Its namespaces are owned by its user namespace, which is pinned as
// sandboxes/UID/user. What its containers mount is mounted with mapped ids (idmapped) by the agent, so that owners are the same inside as on
// disk, and no file is changed: mapped/CONTAINER/rootfs is the container's root, made of idmapped layers, and mapped/CONTAINER/N its mounts.
// runc and containerd are passed finished mounts, and need not know about idmapped ones.

func (r *Runtime) mappedDir(id string) string { return filepath.Join(r.c.StateDir, "mapped", id) }

// idMap returns a mapping as containerd and the OCI specification have it.
func idMap(u *runtime.IDRange) (text string, oci []specs.LinuxIDMapping) {
	return fmt.Sprintf("0:%d:%d", u.First, u.Length), []specs.LinuxIDMapping{{ContainerID: 0, HostID: u.First, Size: u.Length}}
}

// pinMapped creates the namespaces of a sandbox in a user namespace, unless they exist.
func pinMapped(dir string, c runtime.SandboxConfig) error {
	all := append([]namespace{{"user", 0}}, wanted(c)...)
	complete := true
	for _, n := range all {
		complete = complete && isNamespace(filepath.Join(dir, n.name))
	}
	if complete {
		return nil
	}
	// One that exists may be owned by another user namespace.
	flags := 0
	for _, n := range all {
		unmountAll(filepath.Join(dir, n.name))
		flags |= n.flag
	}
	text, _ := idMap(c.Users)
	err := sys.UnshareAfterEnterUserns(text, text, uintptr(flags), func(pid int) error {
		for _, n := range all {
			path := filepath.Join(dir, n.name)
			f, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o444)
			if err != nil {
				return err
			}
			f.Close()
			if err := unix.Mount(fmt.Sprintf("/proc/%d/ns/%s", pid, n.name), path, "", unix.MS_BIND, ""); err != nil {
				return fmt.Errorf("pin %s: %w", n.name, err)
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("user namespace: %w", err)
	}
	result := make(chan error, 1)
	go func() { // like that of pinNamespaces, its thread ends with it
		goruntime.LockOSThread()
		result <- func() error {
			for _, n := range wanted(c) {
				f, err := os.Open(filepath.Join(dir, n.name))
				if err != nil {
					return err
				}
				err = unix.Setns(int(f.Fd()), n.flag)
				f.Close()
				if err != nil {
					return fmt.Errorf("enter %s: %w", n.name, err)
				}
			}
			return configure(wanted(c), c)
		}()
	}()
	if err := <-result; err != nil {
		unmountAll(filepath.Join(dir, "user")) // the next attempt begins anew
		return err
	}
	return nil
}

// asUser returns a function that calls f as another user. The goroutine must be locked to a thread that ends with it.
func asUser(user uint32, f func() error) func() error {
	become := func(user uint32) error {
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uintptr(user), ^uintptr(0)); errno != 0 { // of this thread alone
			return errno
		}
		return nil
	}
	return func() error {
		if err := become(user); err != nil {
			return err
		}
		return errors.Join(f(), become(0))
	}
}

// mapUsers completes the specification of a container in a user namespace.
func (r *Runtime) mapUsers(s *specs.Spec, c runtime.SandboxConfig) {
	if c.Users == nil {
		return
	}
	_, mapping := idMap(c.Users)
	s.Linux.UIDMappings, s.Linux.GIDMappings = mapping, mapping
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: filepath.Join(r.sandboxDir(c.UID), "user")})
}

// mapMounts mounts what the container mounts with mapped ids, and returns mounts of that.
func (r *Runtime) mapMounts(id string, c runtime.ContainerConfig) (out []runtime.Mount, err error) {
	users, err := os.Open(filepath.Join(r.sandboxDir(c.Sandbox.UID), "user"))
	if err != nil {
		return nil, err
	}
	defer users.Close()
	dir := r.mappedDir(id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	for i, m := range c.Mounts {
		if m.Propagation != runtime.PropagationPrivate {
			return nil, fmt.Errorf("mount %s: mounts are not propagated into or out of a user namespace", m.ContainerPath)
		}
		if m.Image { // mapped when it was mounted, and read-only
			m.ReadOnly, m.RecursiveReadOnly = false, false
			out = append(out, m)
			continue
		}
		target := filepath.Join(dir, fmt.Sprint(i))
		if err := mountMapped(int(users.Fd()), m, target); err != nil {
			return nil, fmt.Errorf("mount %s in a user namespace: %w", m.ContainerPath, err)
		}
		// It is read-only already. runc could not make it so: to remount it, it would have to repeat the mount's other flags.
		m.HostPath, m.ReadOnly, m.RecursiveReadOnly = target, false, false
		out = append(out, m)
	}
	return out, nil
}

// mountMapped mounts a file or directory, and what is mounted below it, with the ids of a user namespace.
func mountMapped(users int, m runtime.Mount, target string) error {
	source := m.HostPath
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("copy the mount of %s: %w", source, err)
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE,
		&unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Propagation: unix.MS_PRIVATE, Userns_fd: uint64(users)})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("the file system of %s, or one mounted below it, does not support idmapped mounts (%w)", source, err)
	}
	if err != nil {
		return fmt.Errorf("map the ids of %s: %w", source, err)
	}
	if m.ReadOnly {
		flags := uint(unix.AT_EMPTY_PATH)
		if m.RecursiveReadOnly {
			flags |= unix.AT_RECURSIVE
		}
		if err := unix.MountSetattr(tree, "", flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("make %s read-only: %w", source, err)
		}
	}
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.MkdirAll(target, 0o700)
	} else {
		err = os.WriteFile(target, nil, 0o600)
	}
	if err != nil {
		return err
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach the mount of %s: %w", source, err)
	}
	return nil
}

// mountView mounts the view of an image, read-only, for the users of a sandbox. The layers are mapped, as overlayfs itself cannot be.
func (r *Runtime) mountView(uid string, users *runtime.IDRange, m mount.Mount, target string) error {
	if m.Type == "overlay" {
		text, _ := idMap(users)
		m.Options = append(m.Options, "uidmap="+text, "gidmap="+text)
		return m.Mount(target)
	}
	ns, err := os.Open(filepath.Join(r.sandboxDir(uid), "user"))
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := mountMapped(int(ns.Fd()), runtime.Mount{HostPath: m.Source, ReadOnly: true}, target); err != nil {
		return err
	}
	return unix.MountSetattr(unix.AT_FDCWD, target, 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV})
}

// mappedSnapshot creates the snapshot of a container in a user namespace. containerd does not know that the container uses it: it would mount
// it itself.
func (r *Runtime) mappedSnapshot(ctx context.Context, id string, img client.Image) error {
	diffs, err := img.RootFS(ctx)
	if err != nil {
		return fmt.Errorf("read image: %w", classify(err))
	}
	_, err = r.client.SnapshotService(r.c.Snapshotter).Prepare(ctx, id, identity.ChainID(diffs).String(),
		snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)}))
	if err != nil {
		return fmt.Errorf("create snapshot: %w", classify(err))
	}
	return nil
}

// mappedRoot mounts the root of a container in a user namespace, unless it is mounted, and returns the mount for containerd.
// label is the SELinux label of its files, "" for none.
func (r *Runtime) mappedRoot(ctx context.Context, id string, users *runtime.IDRange, label string) ([]mount.Mount, error) {
	target := filepath.Join(r.mappedDir(id), "rootfs")
	ready := []mount.Mount{{Type: "bind", Source: target, Options: []string{"rbind", "rw"}}}
	if isMountPoint(target) {
		return ready, nil
	}
	mounts, err := r.client.SnapshotService(r.c.Snapshotter).Mounts(ctx, id)
	if err != nil {
		return nil, classify(err)
	}
	if len(mounts) != 1 {
		return nil, fmt.Errorf("the root file system has %d mounts, only one can be mapped to a user namespace", len(mounts))
	}
	if err := os.MkdirAll(target, 0o700); err != nil {
		return nil, err
	}
	m := mounts[0]
	for _, o := range m.Options {
		if upper, ok := strings.CutPrefix(o, "upperdir="); ok && m.Type == "overlay" {
			if err := ownUpper(upper, users); err != nil {
				return nil, err
			}
		}
	}
	text, _ := idMap(users)
	m.Options = append(m.Options, "uidmap="+text, "gidmap="+text)
	if label != "" {
		m.Options = append(m.Options, labelOption(label))
	}
	if err := m.Mount(target); err != nil {
		unmountAll(target)
		return nil, fmt.Errorf("mount the root file system in a user namespace: %w", err)
	}
	return ready, nil
}

// ownUpper gives the writable layer, which is not mapped, the mapped owner.
func ownUpper(path string, users *runtime.IDRange) error {
	var st unix.Stat_t
	if err := unix.Lstat(path, &st); err != nil {
		return err
	}
	owner := func(id uint32) int {
		if id < users.Length { // not yet mapped
			id += users.First
		}
		return int(id)
	}
	return os.Lchown(path, owner(st.Uid), owner(st.Gid))
}

// removeMapped removes the mounts and the snapshot of a container in a user namespace. It is not an error if there are none.
func (r *Runtime) removeMapped(ctx context.Context, id string) error {
	dir := r.mappedDir(id)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		unmountAll(path)
		if err := os.Remove(path); err != nil { // never recursively: if it is still mounted, below are others' files
			return fmt.Errorf("mounts of container %s: %w", id, err)
		}
	}
	if err := r.client.SnapshotService(r.c.Snapshotter).Remove(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("snapshot of container %s: %w", id, classify(err))
	}
	return os.Remove(dir)
}

// sweepMapped removes what was created for containers whose record was not.
func (r *Runtime) sweepMapped(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(r.c.StateDir, "mapped"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		r.mu.Lock()
		_, known := r.containers[e.Name()]
		r.mu.Unlock()
		if !known {
			if err := r.removeMapped(ctx, e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// noUserNamespaces says why pods cannot have user namespaces here, "" if they can: it maps a directory of the agent's.
func noUserNamespaces(dir string) string {
	users, err := mount.GetUsernsFD("0:65536:65536", "0:65536:65536")
	if err != nil {
		return fmt.Sprintf("the kernel creates no user namespace: %v", err)
	}
	defer users.Close()
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Sprintf("the kernel has no idmapped mounts: %v", err)
	}
	defer unix.Close(tree)
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(users.Fd())})
	if err != nil {
		return fmt.Sprintf("the file system of %s does not support idmapped mounts: %v", dir, err)
	}
	return ""
}
