package csimount

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	"github.com/kontiki/kontiki/node/csi"
	"github.com/kontiki/kontiki/node/volume/mounts"
)

// Unmount reverses Mount.
func (m *Mounter) Unmount(ctx context.Context, k Key, c *State) error {
	driver, err := m.c.Drivers.Driver(c.Driver)
	if err != nil {
		return fmt.Errorf("kubernetes.io/csi: Unmounter.TearDownAt failed to get CSI client: %w", err)
	}
	if err := driver.Unpublish(ctx, c.Handle, m.c.Kubelet.Seen(c.Target)); err != nil {
		return fmt.Errorf("kubernetes.io/csi: Unmounter.TearDownAt failed: %w", err)
	}
	if mounts.At(c.Target) {
		return fmt.Errorf("the CSI driver %s says that it has unmounted %s, which is still mounted", c.Driver, c.Target)
	}
	removeTarget(c)
	return m.unstage(ctx, driver, k, c)
}

// unstage reverses stage when no pod uses the volume any more.
func (m *Mounter) unstage(ctx context.Context, driver *csi.Driver, k Key, c *State) error {
	if c.Staging == "" {
		return nil
	}
	lock := m.stagingLock(c.Staging)
	lock.Lock()
	defer lock.Unlock()
	if m.release(k, c) > 0 {
		return nil
	}
	can, err := driver.Capabilities(ctx)
	if err != nil {
		return err
	}
	if can.Stage {
		if err := driver.Unstage(ctx, c.Handle, m.c.Kubelet.Seen(c.Staging)); err != nil {
			return fmt.Errorf("UnmountDevice failed: %w", err)
		}
		if mounts.At(c.Staging) {
			return fmt.Errorf("the CSI driver %s says that it has unstaged %s, which is still mounted", c.Driver, c.Staging)
		}
	}
	m.mu.Lock()
	delete(m.staged, c.Staging)
	m.mu.Unlock()
	removeEmpty(c.Staging)
	if !c.Block {
		os.Remove(filepath.Join(filepath.Dir(c.Staging), volumeData)) // it may not be there
		removeEmpty(filepath.Dir(c.Staging))
	}
	return nil
}

// release notes that a pod does not need its volume to be staged any more, and returns how many others do.
func (m *Mounter) release(k Key, s *State) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for other, v := range m.states {
		switch {
		case !v.Begun || v.Staging != s.Staging:
		case other == k:
			v.released = true
		case !v.released:
			n++
		}
	}
	return n
}

// removeTarget removes what is left where a volume was published. Nothing that is mounted is entered.
func removeTarget(c *State) {
	if mounts.At(c.Target) {
		return
	}
	removeEmpty(c.Target)
	if c.Block {
		removeEmpty(filepath.Dir(c.Target))
		return
	}
	os.Remove(filepath.Join(filepath.Dir(c.Target), volumeData)) // it may not be there
	removeEmpty(filepath.Dir(c.Target))
}

// removeEmpty removes an empty folder, or a file, on which a device was mounted. What cannot be removed is removed with the pod's folder, or stays.
func removeEmpty(path string) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		slog.Debug("a folder of a CSI volume stays", "path", path, "err", err)
	}
}

// stagingLock serializes staging and unstaging of a volume.
func (m *Mounter) stagingLock(path string) *sync.Mutex {
	lock, _ := m.staging.LoadOrStore(path, &sync.Mutex{})
	return lock.(*sync.Mutex)
}

// stage stages a volume, unless it is, and returns where; "" if the driver does not want that.
func (m *Mounter) stage(ctx context.Context, driver *csi.Driver, can csi.Capabilities, r *Request, v *csi.Volume) (string, error) {
	c := r.State
	if c.Staging == "" || !can.Stage {
		return "", nil
	}
	lock := m.stagingLock(c.Staging)
	lock.Lock()
	defer lock.Unlock()
	m.mu.Lock()
	done := m.staged[c.Staging]
	m.mu.Unlock()
	if done {
		return c.Staging, nil
	}
	pv, err := r.csi()
	if err != nil {
		return "", err
	}
	staging := *v
	if staging.Secrets, err = m.secretRef("NodeStageSecretRef", pv.Spec.CSI.NodeStageSecretRef); err != nil {
		return "", err
	}
	if err := os.MkdirAll(c.Staging, 0o750); err != nil {
		return "", err
	}
	if !c.Block {
		if err := writeData(filepath.Dir(c.Staging), map[string]string{"volumeHandle": c.Handle, "driverName": c.Driver}); err != nil {
			return "", err
		}
	}
	if err := driver.Stage(ctx, &staging, m.c.Kubelet.Seen(c.Staging)); err != nil {
		return "", fmt.Errorf("MountVolume.MountDevice failed for volume %q : %w", pv.Name, err)
	}
	m.mu.Lock()
	m.staged[c.Staging] = true
	m.mu.Unlock()
	return c.Staging, nil
}
