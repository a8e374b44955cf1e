package csimount

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/internal/amount"
	"github.com/kontiki/kontiki/node/csi"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

const (
	// expandRetry is when an expansion that failed is tried again.
	expandRetry = 30 * time.Second
	// maxExpansionText limits in bytes what is told about one.
	maxExpansionText = 1024
	// reportTime limits a report to a master.
	reportTime = 10 * time.Second
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
func (m *Mounter) mustExpand(r *Request, claim *corev1.PersistentVolumeClaim) bool {
	size := sizeOf(r.PV)
	m.mu.Lock()
	settled := m.settled[r.key()] == size
	later := m.Now().Before(m.expandAt[r.key()])
	m.mu.Unlock()
	return !settled && !later && (waitsForNode(claim) || size > r.State.Size && expandsEverywhere(claim))
}

// expand tells the driver that a volume has grown, and the masters what has become of it. A failure is in an event of the pod and in the claim's
// status, and it is tried again.
func (m *Mounter) expand(ctx context.Context, r *Request, driver *csi.Driver, can csi.Capabilities, v *csi.Volume) {
	k := r.key()
	size := sizeOf(r.PV)
	claim, ok := m.claimOf(r.PV)
	if !ok {
		return
	}
	err := m.expandOnce(ctx, r, driver, can, v, claim, size)
	if err == nil {
		m.mu.Lock()
		delete(m.expandAt, k)
		delete(m.usages, k)
		m.settled[k] = size
		delete(m.expandFailed, r.PV.Name)
		m.mu.Unlock()
		r.State.Size = size
		if r.Mounted {
			if err := r.Save(); err != nil {
				slog.Warn("the size of a volume cannot be stored", "volume", r.PV.Name, "err", err)
			}
		}
		return
	}
	m.c.Event(r.Pod, corev1.EventTypeWarning, "VolumeResizeFailed", fmt.Sprintf("NodeExpandVolume failed for volume %q : %v", r.PV.Name, err))
	m.mu.Lock()
	if status.Code(err) == codes.FailedPrecondition { // the driver cannot while the volume is in use
		m.settled[k] = size
	}
	m.expandAt[k] = m.Now().Add(expandRetry)
	m.mu.Unlock()
	m.dueIn(r.key(), expandRetry)
}

func (m *Mounter) expandOnce(ctx context.Context, r *Request, driver *csi.Driver, can csi.Capabilities, v *csi.Volume, claim *corev1.PersistentVolumeClaim, size int64) error {
	report := func(phase nodev1.ReportExpansionRequest_Phase, message string) error {
		if !waitsForNode(claim) || m.c.ReportExpansion == nil {
			return nil // another node has expanded it
		}
		limited, cancel := context.WithTimeout(ctx, reportTime)
		defer cancel()
		capacity := r.PV.Spec.Capacity[corev1.ResourceStorage]
		return m.c.ReportExpansion(limited, &nodev1.ReportExpansionRequest{Namespace: claim.Namespace, Name: claim.Name, Uid: string(claim.UID), Volume: r.PV.Name,
			Phase: phase, Size: capacity.String(), Message: clip(message)})
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
		staged = m.c.Kubelet.Seen(r.State.Staging)
	}
	if err := driver.Expand(ctx, &grown, staged, m.c.Kubelet.Seen(r.State.Target), size); err != nil {
		if csi.Finished(err) {
			phase := nodev1.ReportExpansionRequest_PHASE_FAILED
			// If the user has asked for another size after it failed, the controller is to begin anew.
			m.mu.Lock()
			before := m.expandFailed[r.PV.Name]
			m.expandFailed[r.PV.Name] = true
			m.mu.Unlock()
			asked := claim.Spec.Resources.Requests[corev1.ResourceStorage]
			if csi.Infeasible(err) || before && amount.Value(&asked) != size {
				phase = nodev1.ReportExpansionRequest_PHASE_INFEASIBLE
			}
			if failed := report(phase, err.Error()); failed != nil {
				slog.Warn("a failed expansion cannot be reported", "volume", r.PV.Name, "err", failed)
			}
		}
		return err
	}
	if err := report(nodev1.ReportExpansionRequest_PHASE_FINISHED, ""); err != nil {
		return err
	}
	m.c.Event(r.Pod, corev1.EventTypeNormal, "FileSystemResizeSuccessful", fmt.Sprintf("MountVolume.NodeExpandVolume succeeded for volume %q %s", r.PV.Name, m.c.NodeName))
	return nil
}

// claimOf returns the claim of a volume.
func (m *Mounter) claimOf(pv *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, bool) {
	if pv == nil || pv.Spec.ClaimRef == nil {
		return nil, false
	}
	claim, ok := m.c.Objects.PersistentVolumeClaim(pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.Name)
	return claim, ok && claim.UID == pv.Spec.ClaimRef.UID
}

// withoutNodeExpansion is an annotation of claims whose file systems the driver's controller expands.
const withoutNodeExpansion = "volume.kubernetes.io/node-expansion-not-required"

// expandsEverywhere says whether a volume must be expanded on each of its nodes.
func expandsEverywhere(claim *corev1.PersistentVolumeClaim) bool {
	return slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteMany) && !metav1.HasAnnotation(claim.ObjectMeta, withoutNodeExpansion)
}

// clip returns the beginning of a text, as valid UTF-8.
func clip(text string) string {
	text = strings.ToValidUTF8(text, "")
	return strings.ToValidUTF8(text[:min(len(text), maxExpansionText)], "")
}
