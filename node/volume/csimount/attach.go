package csimount

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/kontiki/kontiki/internal/volumes"
)

// A volume that is attached is mounted only when one version of the Node, as the masters have it, has it in volumesInUse and in volumesAttached
// (controller/attachdetach has the other half). So that an old version of the Node is not taken for a new one, a volume that was used before is
// reported as in use again only after a version was seen in which it is not.

// InUse returns the names of the volumes that are attached and that pods use, or are about to, for the Node's status.
func (m *Mounter) InUse() []corev1.UniqueVolumeName {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inUse()
}

// inUse is InUse for callers that hold mu.
func (m *Mounter) inUse() []corev1.UniqueVolumeName {
	var out []corev1.UniqueVolumeName
	for _, s := range m.states {
		if s.InUse != "" && !m.leaving[s.InUse] {
			out = append(out, s.InUse)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// used notes that a state was kept or dropped.
func (m *Mounter) used(s *State) {
	if s.InUse != "" {
		m.c.InUseChanged()
	}
}

// left notes that a volume is not in use any more, if it is not. The caller holds mu.
func (m *Mounter) left(s *State) {
	if s.InUse != "" && !slices.Contains(m.inUse(), s.InUse) {
		m.leaving[s.InUse] = true
	}
}

// NodeChanged notes that the Node, as the masters have it, or attachments to it have changed.
func (m *Mounter) NodeChanged() {
	if node := m.c.Node(); node != nil {
		m.mu.Lock()
		before := len(m.leaving)
		for name := range m.leaving {
			if !slices.Contains(node.Status.VolumesInUse, name) {
				delete(m.leaving, name)
			}
		}
		changed := len(m.leaving) != before
		m.mu.Unlock()
		if changed {
			m.c.InUseChanged()
		}
	}
	m.attached.Tell()
}

// adoptInUse finds the volumes that a version of the Node from before has in use and that are not.
func (m *Mounter) adoptInUse() {
	node := m.c.Node()
	if node == nil {
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.inUse()
	for _, name := range node.Status.VolumesInUse {
		if !slices.Contains(now, name) {
			m.leaving[name] = true
		}
	}
}

// awaitAttached waits until a volume is attached and the masters know that it is in use, and returns what its attachment says for the driver.
func (m *Mounter) awaitAttached(ctx context.Context, c *State) (map[string]string, error) {
	if c.InUse == "" {
		return nil, nil
	}
	for {
		changed := m.attached.Next()
		if !m.attaches(c.Driver) {
			return nil, nil
		}
		if node := m.c.Node(); node != nil && m.isUsed(c.InUse) && slices.Contains(node.Status.VolumesInUse, c.InUse) &&
			slices.ContainsFunc(node.Status.VolumesAttached, func(a corev1.AttachedVolume) bool { return a.Name == c.InUse }) {
			if a, ok := m.c.Objects.VolumeAttachment(volumes.AttachmentName(c.Driver, c.Handle, m.c.NodeName)); ok && a.Status.Attached && a.DeletionTimestamp == nil {
				return a.Status.AttachmentMetadata, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-changed:
		}
	}
}

// LimitReached says whether a volume is not attached because the node has too many, and has the driver asked again how many it can have. It is
// for drivers that say that the number changes (CSIDriver.spec.nodeAllocatableUpdatePeriodSeconds).
func (m *Mounter) LimitReached(k Key) bool {
	m.mu.Lock()
	s := m.states[k]
	m.mu.Unlock()
	if s == nil || s.InUse == "" {
		return false
	}
	if driver, ok := m.c.Objects.CSIDriver(s.Driver); !ok || ptr.Deref(driver.Spec.NodeAllocatableUpdatePeriodSeconds, 0) == 0 {
		return false
	}
	a, ok := m.c.Objects.VolumeAttachment(volumes.AttachmentName(s.Driver, s.Handle, m.c.NodeName))
	if !ok || a.Status.AttachError == nil || ptr.Deref(a.Status.AttachError.ErrorCode, 0) != int32(codes.ResourceExhausted) {
		return false
	}
	m.c.Drivers.AskAgain(s.Driver)
	return true
}

// isUsed says whether the agent reports that a volume is in use.
func (m *Mounter) isUsed(name corev1.UniqueVolumeName) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Contains(m.inUse(), name)
}
