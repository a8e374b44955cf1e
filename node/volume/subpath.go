package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/beneath"
	"github.com/kontiki/kontiki/node/volume/mounts"
)

// SubPath returns a path for mounting a part of a volume. That part is looked up beneath the volume and bind-mounted at a path of
// the agent's own, so that no one who can write to the volume can redirect the mount, now or later. It is never opened: a FIFO, a
// socket or a device is passed on like a file.
//
// A volume whose server does not answer makes it fail after a while.
func (m *Manager) SubPath(pod *corev1.Pod, container string, index int, volumePath, subPath string) (string, error) {
	k := operationKey{string(pod.UID), fmt.Sprintf("subPath %d of container %s", index, container)}
	return m.within(context.Background(), k, subPathWait, func(context.Context) (string, error) {
		return m.subPath(pod, container, index, volumePath, subPath)
	})
}

func (m *Manager) subPath(pod *corev1.Pod, container string, index int, volumePath, subPath string) (string, error) {
	st, err := os.Stat(volumePath)
	if err != nil {
		return "", err
	}
	if !st.IsDir() {
		return "", fmt.Errorf("subPath %q: the volume is not a directory", subPath)
	}
	clean := filepath.Clean(subPath)
	if !filepath.IsLocal(clean) {
		return "", fmt.Errorf("subPath %q leads out of the volume", subPath)
	}
	part, err := beneath.Handle(volumePath, clean, beneath.Follow)
	if errors.Is(err, os.ErrNotExist) {
		if err := makeBelow(volumePath, clean, st.Mode().Perm()); err != nil {
			return "", err
		}
		part, err = beneath.Handle(volumePath, clean, beneath.Follow)
	}
	if err != nil {
		return "", err
	}
	defer part.Close()
	fst, err := part.Stat()
	if err != nil {
		return "", err
	}
	if fst.Mode()&os.ModeSymlink != 0 {
		return "", fmt.Errorf("subPath %q is a symbolic link", subPath)
	}
	target := filepath.Join(m.podDir(string(pod.UID)), "volume-subpaths", container, fmt.Sprint(index))
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return "", err
	}
	for unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil { // of a previous attempt
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) { // it may be a directory instead of a file, or the reverse
		return "", err
	}
	if fst.IsDir() {
		err = os.Mkdir(target, 0o755)
	} else {
		err = os.WriteFile(target, nil, 0o640)
	}
	if err != nil {
		return "", err
	}
	if err := unix.Mount(beneath.Path(part), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("bind %s: %w", subPath, err)
	}
	return target, nil
}

// unmountSubPaths unmounts the parts of volumes that were mounted for a pod's containers.
func (m *Manager) unmountSubPaths(uid string) {
	for _, p := range mounts.Below(filepath.Join(m.podDir(uid), "volume-subpaths")) {
		_ = unix.Unmount(p, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
}

// makeBelow creates a directory in a volume.
func makeBelow(volumePath, path string, mode os.FileMode) error {
	root, err := os.OpenRoot(volumePath)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.MkdirAll(path, 0o750); err != nil {
		return err
	}
	return root.Chmod(path, mode)
}
