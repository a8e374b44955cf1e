package volume

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/mount-utils"
	"k8s.io/utils/exec"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/internal/durable"
	"github.com/kontiki/kontiki/node/volume/mounts"
)

// The file system on the device of a local volume is mounted once, in a folder of the agent, and its root is bind-mounted for each pod that uses
// the volume. When no pod has a state with the volume any more, it is unmounted.

// deviceLock serializes mounting and unmounting of a volume's device.
func (m *Manager) deviceLock(volume string) *sync.Mutex {
	lock, _ := m.devices.LoadOrStore(volume, &sync.Mutex{})
	return lock.(*sync.Mutex)
}

// mountDevice mounts the file system of a volume's device, unless it is mounted, and returns where. A device without a file system gets one.
// The caller has saved a state with the volume.
func (m *Manager) mountDevice(pv *corev1.PersistentVolume, options []string) (string, error) {
	lock := m.deviceLock(pv.Name)
	lock.Lock()
	defer lock.Unlock()
	dir := filepath.Join(m.c.DeviceRoot, pv.Name)
	if mounts.At(dir) {
		return dir, nil
	}
	if err := durable.MakeDir(dir, 0o700); err != nil {
		return "", err
	}
	mounter := mount.NewSafeFormatAndMount(mount.NewWithoutSystemd(""), exec.New())
	if err := mounter.FormatAndMount(pv.Spec.Local.Path, dir, ptr.Deref(pv.Spec.Local.FSType, ""), options); err != nil {
		return "", err
	}
	return dir, nil
}

// releaseDevices unmounts the file systems that no pod uses.
func (m *Manager) releaseDevices(ctx context.Context) error {
	entries, err := os.ReadDir(m.c.DeviceRoot)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	errs := []error{err}
	for _, e := range entries {
		errs = append(errs, m.releaseDevice(ctx, e.Name()))
	}
	return errors.Join(errs...)
}

func (m *Manager) releaseDevice(ctx context.Context, volume string) error {
	lock := m.deviceLock(volume)
	lock.Lock()
	defer lock.Unlock()
	dir := filepath.Join(m.c.DeviceRoot, volume)
	if _, err := os.Lstat(dir); err != nil || m.usedBy(volume, "") > 0 {
		return nil
	}
	return unmountShare(ctx, dir)
}

// deviceUnused unmounts the file system of a volume if its last pod has ended; what fails is tried again later.
func (m *Manager) deviceUnused(ctx context.Context, volume string) {
	if err := m.releaseDevice(ctx, volume); err != nil {
		slog.Warn("the file system of a volume could not be unmounted", "volume", volume, "err", err)
		m.PokeFolders()
	}
}
