package csimount

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/internal/volumes"
	"github.com/kontiki/kontiki/node/csi"
	"github.com/kontiki/kontiki/node/volume/fsgroup"
	"github.com/kontiki/kontiki/node/volume/mounts"
)

// Mount mounts a volume of a CSI driver.
func (m *Mounter) Mount(ctx context.Context, r *Request) (string, error) {
	c := r.State
	attachment, err := m.awaitAttached(ctx, c)
	if err != nil {
		return "", err
	}
	driver, err := m.c.Drivers.Driver(c.Driver)
	if err != nil {
		return "", fmt.Errorf("kubernetes.io/csi: mounter.SetUpAt failed to get CSI client: %w", err)
	}
	can, err := driver.Capabilities(ctx)
	if err != nil {
		return "", err
	}
	v, readOnly, err := m.volume(r, can)
	if err != nil {
		return "", err
	}
	v.PublishContext = attachment
	c.Begun = true
	if err := r.Save(); err != nil {
		return "", err
	}
	staged, err := m.stage(ctx, driver, can, r, v)
	if err != nil {
		return "", err
	}
	if err := m.publish(ctx, driver, r, v, staged, readOnly); err != nil {
		if csi.Finished(err) {
			removeTarget(c)
		}
		return "", err
	}
	if !c.Block && !mounts.At(c.Target) {
		slog.Warn("a CSI driver has mounted nothing for a volume: does its container mount the kubelet's folder with mountPropagation Bidirectional?",
			"driver", c.Driver, "pod", r.Pod.Name, "namespace", r.Pod.Namespace, "volume", r.Volume.Name)
	}
	if !can.MountGroup && !readOnly && m.groups(r, v) {
		if err := fsgroup.Set(ctx, c.Target, r.Pod); err != nil {
			return "", fmt.Errorf("applyFSGroup failed for vol %s: %w", c.Handle, err)
		}
	}
	if r.PV != nil {
		c.Size = sizeOf(r.PV)
		if claim, ok := m.claimOf(r.PV); ok && waitsForNode(claim) {
			c.Size = 0
			m.expand(ctx, r, driver, can, v)
		}
	}
	m.dueAgain(r)
	return c.Target, nil
}

// Refresh publishes a mounted volume again, if its driver wants that, and expands its file system, if that is due.
func (m *Mounter) Refresh(ctx context.Context, r *Request) error {
	c := r.State
	again := m.mustRepublish(r)
	claim, ok := m.claimOf(r.PV)
	grow := ok && m.mustExpand(r, claim)
	if !again && !grow {
		return nil
	}
	driver, err := m.c.Drivers.Driver(c.Driver)
	if err != nil {
		return err
	}
	can, err := driver.Capabilities(ctx)
	if err != nil {
		return err
	}
	v, readOnly, err := m.volume(r, can)
	if err != nil {
		return err
	}
	if grow {
		m.expand(ctx, r, driver, can, v)
	}
	if !again {
		return nil
	}
	if c.InUse != "" {
		if a, ok := m.c.Objects.VolumeAttachment(volumes.AttachmentName(c.Driver, c.Handle, m.c.NodeName)); ok {
			v.PublishContext = a.Status.AttachmentMetadata
		}
	}
	staged := ""
	if can.Stage {
		staged = c.Staging
	}
	err = m.publish(ctx, driver, r, v, staged, readOnly)
	m.dueAgain(r)
	return err
}

// republishPeriod is how often a volume is published again for a driver that wants that (CSIDriver.spec.requiresRepublish).
const republishPeriod = time.Minute

func (m *Mounter) mustRepublish(r *Request) bool {
	driver, ok := m.c.Objects.CSIDriver(r.State.Driver)
	if !ok || !ptr.Deref(driver.Spec.RequiresRepublish, false) {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.Now().Before(m.due[r.key()]) // also if it is not known
}

// dueAgain notes when a volume must be published again.
func (m *Mounter) dueAgain(r *Request) {
	driver, ok := m.c.Objects.CSIDriver(r.State.Driver)
	if ok && ptr.Deref(driver.Spec.RequiresRepublish, false) {
		m.dueIn(r.key(), republishPeriod)
	}
}
