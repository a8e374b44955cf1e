package volume

import (
	"context"
	"fmt"
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
func (m *Manager) InUse() []corev1.UniqueVolumeName {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inUse()
}

// inUse is InUse for callers that hold mu.
func (m *Manager) inUse() []corev1.UniqueVolumeName {
	var out []corev1.UniqueVolumeName
	for _, pod := range m.states {
		for _, s := range pod {
			if s.CSI != nil && s.CSI.InUse != "" && !m.leaving[s.CSI.InUse] {
				out = append(out, s.CSI.InUse)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// used notes that a state was kept or dropped.
func (m *Manager) used(s *State) {
	if s.CSI != nil && s.CSI.InUse != "" && m.c.InUseChanged != nil {
		m.c.InUseChanged()
	}
}

// left notes that a volume is not in use any more, if it is not. The caller holds mu.
func (m *Manager) left(s *State) {
	if s.CSI != nil && s.CSI.InUse != "" && !slices.Contains(m.inUse(), s.CSI.InUse) {
		m.leaving[s.CSI.InUse] = true
	}
}

// clusterNode returns the Node as the masters have it; nil if it is not known.
func (m *Manager) clusterNode() *corev1.Node {
	if m.c.ClusterNode == nil {
		return nil
	}
	return m.c.ClusterNode()
}

// NodeChanged notes that the Node, as the masters have it, or attachments to it have changed.
func (m *Manager) NodeChanged() {
	if node := m.clusterNode(); node != nil {
		m.mu.Lock()
		before := len(m.leaving)
		for name := range m.leaving {
			if !slices.Contains(node.Status.VolumesInUse, name) {
				delete(m.leaving, name)
			}
		}
		changed := len(m.leaving) != before
		m.mu.Unlock()
		if changed && m.c.InUseChanged != nil {
			m.c.InUseChanged()
		}
	}
	m.attached.Tell()
}

// adoptInUse finds the volumes that a version of the Node from before has in use and that are not.
func (m *Manager) adoptInUse() {
	node := m.clusterNode()
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
func (m *Manager) awaitAttached(ctx context.Context, c *CSIState) (map[string]string, error) {
	if c.InUse == "" {
		return nil, nil
	}
	for {
		changed := m.attached.Next()
		if !m.attaches(c.Driver) {
			return nil, nil
		}
		if node := m.clusterNode(); node != nil && m.isUsed(c.InUse) && slices.Contains(node.Status.VolumesInUse, c.InUse) &&
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

// AttachLimitError is the error for a volume that cannot be attached because the node has too many: the pod is refused, so that its controller makes
// another one, which the scheduler places by what is known of the node by then. Its text is the kubelet's.
type AttachLimitError struct{ Volume string }

func (e *AttachLimitError) Error() string {
	return fmt.Sprintf("Node has reached its volume attachment limit, rejecting pod. unmounted volumes=[%s], unattached volumes=[%s], failed to process volumes=[]: context deadline exceeded", e.Volume, e.Volume)
}

// Rejects is the reason for which the pod is refused.
func (e *AttachLimitError) Rejects() string { return "VolumeAttachmentLimitExceeded" }

// attachLimitReached says whether a volume is not attached because the node has too many, and has the driver asked again how many it can have. It is
// for drivers that say that the number changes (CSIDriver.spec.nodeAllocatableUpdatePeriodSeconds).
func (m *Manager) attachLimitReached(pod *corev1.Pod, v *corev1.Volume) bool {
	s, ok := m.state(string(pod.UID), v.Name)
	if !ok || s.CSI == nil || s.CSI.InUse == "" {
		return false
	}
	if driver, ok := m.c.Objects.CSIDriver(s.CSI.Driver); !ok || ptr.Deref(driver.Spec.NodeAllocatableUpdatePeriodSeconds, 0) == 0 {
		return false
	}
	a, ok := m.c.Objects.VolumeAttachment(volumes.AttachmentName(s.CSI.Driver, s.CSI.Handle, m.c.NodeName))
	if !ok || a.Status.AttachError == nil || ptr.Deref(a.Status.AttachError.ErrorCode, 0) != int32(codes.ResourceExhausted) {
		return false
	}
	m.c.CSI.AskAgain(s.CSI.Driver)
	return true
}

// isUsed says whether the agent reports that a volume is in use.
func (m *Manager) isUsed(name corev1.UniqueVolumeName) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Contains(m.inUse(), name)
}
