package volume

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/amount"
	"github.com/kontiki/kontiki/node/csi"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

const (
	// expandRetry is when an expansion that failed is tried again.
	expandRetry = 30 * time.Second
	// maxExpansionText limits in bytes what is told about one.
	maxExpansionText = 1024
)

func sizeOf(pv *corev1.PersistentVolume) int64 {
	capacity := pv.Spec.Capacity[corev1.ResourceStorage]
	return amount.Value(&capacity)
}

// waitsForNode says whether a claim's volume has grown and its file system has not.
func waitsForNode(claim *corev1.PersistentVolumeClaim) bool {
	switch claim.Status.AllocatedResourceStatuses[corev1.ResourceStorage] {
	case corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress:
		return true
	}
	return false
}

// mustExpand says whether the file system of a mounted volume is to be expanded now.
func (m *Manager) mustExpand(r *request, claim *corev1.PersistentVolumeClaim) bool {
	size := sizeOf(r.pv)
	m.mu.Lock()
	settled := m.settled[operationKey{string(r.pod.UID), r.volume.Name}] == size
	later := time.Now().Before(m.expandAt[operationKey{string(r.pod.UID), r.volume.Name}])
	m.mu.Unlock()
	return !settled && !later && (waitsForNode(claim) || size > r.state.CSI.Size && expandsEverywhere(claim))
}

// expandCSI tells the driver that a volume has grown, and the masters what has become of it. A failure is in an event of the pod and in the claim's
// status, and it is tried again.
func (m *Manager) expandCSI(ctx context.Context, r *request, driver *csi.Driver, can csi.Capabilities, v *csi.Volume) {
	k := operationKey{string(r.pod.UID), r.volume.Name}
	size := sizeOf(r.pv)
	claim, ok := m.claimOf(r.pv)
	if !ok {
		return
	}
	err := m.expandOnce(ctx, r, driver, can, v, claim, size)
	if err == nil {
		m.mu.Lock()
		delete(m.expandAt, k)
		delete(m.usages, k)
		m.settled[k] = size
		delete(m.expandFailed, r.pv.Name)
		m.mu.Unlock()
		r.state.CSI.Size = size
		if r.state.Mounted {
			if err := m.saveState(string(r.pod.UID), *r.state); err != nil {
				slog.Warn("the size of a volume cannot be stored", "volume", r.pv.Name, "err", err)
			}
		}
		return
	}
	m.tell(r.pod, corev1.EventTypeWarning, "VolumeResizeFailed", fmt.Sprintf("NodeExpandVolume failed for volume %q : %v", r.pv.Name, err))
	m.mu.Lock()
	if status.Code(err) == codes.FailedPrecondition { // the driver cannot while the volume is in use
		m.settled[k] = size
	}
	m.expandAt[k] = time.Now().Add(expandRetry)
	m.mu.Unlock()
	m.dueIn(r, expandRetry)
}

func (m *Manager) expandOnce(ctx context.Context, r *request, driver *csi.Driver, can csi.Capabilities, v *csi.Volume, claim *corev1.PersistentVolumeClaim, size int64) error {
	report := func(phase nodev1.ReportExpansionRequest_Phase, message string) error {
		if !waitsForNode(claim) || m.c.ReportExpansion == nil {
			return nil // another node has expanded it
		}
		limited, cancel := context.WithTimeout(ctx, reportTime)
		defer cancel()
		capacity := r.pv.Spec.Capacity[corev1.ResourceStorage]
		return m.c.ReportExpansion(limited, &nodev1.ReportExpansionRequest{Namespace: claim.Namespace, Name: claim.Name, Uid: string(claim.UID), Volume: r.pv.Name,
			Phase: phase, Size: capacity.String(), Message: shorten(strings.ToValidUTF8(message, ""), maxExpansionText)})
	}
	if !can.Expand {
		if !waitsForNode(claim) {
			return nil
		}
		return fmt.Errorf("NodeExpand is not supported by the CSI driver %s", driver.Name())
	}
	if err := report(nodev1.ReportExpansionRequest_PHASE_BEGUN, ""); err != nil {
		return err
	}
	pv, err := r.csi()
	if err != nil {
		return err
	}
	grown := *v
	if grown.Secrets, err = m.secretRef("NodeExpandSecretRef", pv.Spec.CSI.NodeExpandSecretRef); err != nil {
		return err
	}
	staged := ""
	if can.Stage {
		staged = m.c.Kubelet.Seen(r.state.CSI.Staging)
	}
	if err := driver.Expand(ctx, &grown, staged, m.c.Kubelet.Seen(r.state.CSI.Target), size); err != nil {
		if csi.Finished(err) {
			phase := nodev1.ReportExpansionRequest_PHASE_FAILED
			// If the user has asked for another size after it failed, the controller is to begin anew.
			m.mu.Lock()
			before := m.expandFailed[r.pv.Name]
			m.expandFailed[r.pv.Name] = true
			m.mu.Unlock()
			asked := claim.Spec.Resources.Requests[corev1.ResourceStorage]
			if csi.Infeasible(err) || before && amount.Value(&asked) != size {
				phase = nodev1.ReportExpansionRequest_PHASE_INFEASIBLE
			}
			if failed := report(phase, err.Error()); failed != nil {
				slog.Warn("a failed expansion cannot be reported", "volume", r.pv.Name, "err", failed)
			}
		}
		return err
	}
	if err := report(nodev1.ReportExpansionRequest_PHASE_FINISHED, ""); err != nil {
		return err
	}
	m.tell(r.pod, corev1.EventTypeNormal, "FileSystemResizeSuccessful", fmt.Sprintf("MountVolume.NodeExpandVolume succeeded for volume %q %s", r.pv.Name, m.c.NodeName))
	return nil
}

// tell records an event of a pod.
func (m *Manager) tell(pod *corev1.Pod, kind, reason, message string) {
	if m.c.Event != nil {
		m.c.Event(pod, kind, reason, message)
	}
}
