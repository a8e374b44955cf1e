package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/amount"
	"github.com/kontiki/kontiki/node/podspec"
	"github.com/kontiki/kontiki/node/volume/fsgroup"
	"github.com/kontiki/kontiki/node/volume/mounts"
)

func (m *Manager) emptyDir(_ context.Context, r *request) (string, error) {
	pod, v, dir := r.pod, r.volume, r.dir
	if v.EmptyDir.Mode != nil {
		return "", fmt.Errorf("%w: emptyDir with a mode", ErrUnsupported)
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	switch err := os.Mkdir(dir, 0o777); {
	case err == nil:
		if err := os.Chmod(dir, 0o777); err != nil { // regardless of the umask
			return "", err
		}
	case !errors.Is(err, os.ErrExist):
		return "", err
	}
	switch v.EmptyDir.Medium {
	case corev1.StorageMediumDefault:
	case corev1.StorageMediumMemory:
		if !mounts.At(dir) {
			opts := "mode=1777"
			if size := m.memorySize(pod, v.EmptyDir); size > 0 {
				opts = fmt.Sprintf("mode=0777,size=%d", size)
			}
			if err := mountMemory(dir, 0, opts); err != nil {
				return "", err
			}
			if err := os.Chmod(dir, 0o777); err != nil {
				return "", err
			}
		}
	default:
		return "", fmt.Errorf("%w: emptyDir with medium %q", ErrUnsupported, v.EmptyDir.Medium)
	}
	return dir, m.ownTop(pod, dir)
}

// memorySize returns the size limit of a memory volume in bytes: its own limit, the pod's memory limit, or the node's allocatable
// memory, whichever is smallest; 0 if none is known.
func (m *Manager) memorySize(pod *corev1.Pod, e *corev1.EmptyDirVolumeSource) int64 {
	var size int64
	least := func(n int64) {
		if n > 0 && (size == 0 || n < size) {
			size = n
		}
	}
	if n := m.node(); n != nil {
		least(amount.Value(n.Status.Allocatable.Memory()))
	}
	if q, ok := podspec.Limit(pod, corev1.ResourceMemory); ok {
		least(amount.Value(&q))
	}
	if e.SizeLimit != nil {
		least(amount.Value(e.SizeLimit))
	}
	return size
}

// ownTop gives a new emptyDir to the pod's fsGroup.
func (m *Manager) ownTop(pod *corev1.Pod, dir string) error {
	gid := fsgroup.Of(pod)
	if gid < 0 {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return err
	}
	if st.Gid == uint32(gid) && st.Mode&unix.S_ISGID != 0 {
		return nil
	}
	if err := os.Chown(dir, -1, gid); err != nil {
		return err
	}
	return os.Chmod(dir, os.FileMode(st.Mode&0o777)|0o070|os.ModeSetgid)
}
