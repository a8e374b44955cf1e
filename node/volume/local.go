package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/kontiki/kontiki/node/volume/fsgroup"
	"github.com/kontiki/kontiki/node/volume/mounts"
)

// mountLocal bind-mounts the folder of a local volume, or the file system on its device, in the pod's folder. With volumeMode Block it returns
// the device.
func (m *Manager) mountLocal(ctx context.Context, r *request) (string, error) {
	path := r.pv.Spec.Local.Path
	if path == "" {
		return "", fmt.Errorf("LocalVolume volume %q path is empty", r.pv.Name)
	}
	if slices.Contains(strings.Split(path, "/"), "..") {
		return "", fmt.Errorf("invalid path: %s must not contain '..'", path)
	}
	if r.block {
		return path, blockDevice(path)
	}
	if m.isFolder(r.pv) {
		if err := m.makeFolder(ctx, r.pv); err != nil {
			return "", err
		}
	}
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	options := r.mountOptions()
	if blockDevice(path) == nil {
		if path, err = m.mountDevice(r.pv, options); err != nil {
			return "", err
		}
		options = nil
	} else if !st.IsDir() {
		return "", fmt.Errorf("path %q is not a directory or a block device", path)
	}
	if err := bind(path, r.dir, r.readOnly, options); err != nil {
		return "", err
	}
	if r.readOnly || m.usedBy(r.pv.Name, string(r.pod.UID)) > 0 {
		return r.dir, nil // the first pod that uses a volume sets its group
	}
	return r.dir, fsgroup.Set(ctx, r.dir, r.pod)
}

func (m *Manager) unmountLocal(_ context.Context, _ string, s *State) error { return unmount(s.Dir, 0) }

// mountFlags are the mount options that apply to any file system.
var mountFlags = map[string]struct{ set, clear uint64 }{
	"defaults": {}, "bind": {},
	"ro": {set: unix.MOUNT_ATTR_RDONLY}, "rw": {clear: unix.MOUNT_ATTR_RDONLY},
	"nosuid": {set: unix.MOUNT_ATTR_NOSUID}, "suid": {clear: unix.MOUNT_ATTR_NOSUID},
	"nodev": {set: unix.MOUNT_ATTR_NODEV}, "dev": {clear: unix.MOUNT_ATTR_NODEV},
	"noexec": {set: unix.MOUNT_ATTR_NOEXEC}, "exec": {clear: unix.MOUNT_ATTR_NOEXEC},
	"nodiratime": {set: unix.MOUNT_ATTR_NODIRATIME}, "diratime": {clear: unix.MOUNT_ATTR_NODIRATIME},
	"nosymfollow": {set: unix.MOUNT_ATTR_NOSYMFOLLOW}, "symfollow": {clear: unix.MOUNT_ATTR_NOSYMFOLLOW},
	"noatime":     {set: unix.MOUNT_ATTR_NOATIME, clear: unix.MOUNT_ATTR__ATIME},
	"relatime":    {set: unix.MOUNT_ATTR_RELATIME, clear: unix.MOUNT_ATTR__ATIME},
	"strictatime": {set: unix.MOUNT_ATTR_STRICTATIME, clear: unix.MOUNT_ATTR__ATIME},
}

// bind mounts a folder at another, which it creates, with options. What a previous attempt mounted there is unmounted first.
func bind(from, to string, readOnly bool, options []string) error {
	var attr unix.MountAttr
	if readOnly {
		options = append(slices.Clone(options), "ro")
	}
	for _, o := range options {
		f, ok := mountFlags[o]
		if !ok {
			return fmt.Errorf("mount option %q is not supported for a folder of the host", o)
		}
		attr.Attr_set = attr.Attr_set&^(f.clear|f.set) | f.set
		attr.Attr_clr = attr.Attr_clr&^(f.clear|f.set) | f.clear
	}
	if err := unmount(to, 0); err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o750); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", from, err)
	}
	if attr.Attr_set == 0 && attr.Attr_clr == 0 {
		return nil
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, to, 0, &attr); err != nil {
		return errors.Join(fmt.Errorf("set the mount options %s: %w", strings.Join(options, ","), err), unmount(to, 0))
	}
	return nil
}

// unmount unmounts all that is mounted at a folder and removes the folder, which must be empty then. It never waits for a file
// system's server.
func unmount(dir string, flags int) error {
	for mounts.At(dir) {
		if err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW|flags); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("unmount %s: %w", dir, err)
		}
	}
	if err := unix.Rmdir(dir); err != nil && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "remove", Path: filepath.Clean(dir), Err: err}
	}
	return nil
}
