package nodes

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/kontiki/kontiki/api/client"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// maxExpansionMessage limits in bytes what a worker says about an expansion, and maxQuantity a quantity.
const maxExpansionMessage, maxQuantity = 1024, 64

// ReportExpansion implements NodeService. A worker may report about a claim that a pod of its node uses, while the claim waits for a node, and
// no size but that of its volume.
func (s *Server) ReportExpansion(ctx context.Context, r *nodev1.ReportExpansionRequest) (*nodev1.ReportExpansionResponse, error) {
	node, ok := s.Caller(ctx)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "this needs a worker's certificate")
	}
	if len(r.Message) > maxExpansionMessage || len(r.Size) > maxQuantity {
		return nil, status.Errorf(codes.InvalidArgument, "message or size: over %d or %d bytes", maxExpansionMessage, maxQuantity)
	}
	size, err := resource.ParseQuantity(r.Size)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "size: %v", err)
	}
	err = retry.OnError(retry.DefaultRetry, again, func() error {
		view, err := s.Client.Consistent(ctx)
		if err != nil {
			return err
		}
		claim, ok := client.Get[*corev1.PersistentVolumeClaim](view, r.Namespace, r.Name)
		if !ok || string(claim.UID) != r.Uid || claim.Spec.VolumeName != r.Volume || !usedOn(view, node, claim) {
			return status.Errorf(codes.PermissionDenied, "claim %s/%s with uid %s and volume %s is not used on node %s", r.Namespace, r.Name, r.Uid, r.Volume, node)
		}
		volume, ok := client.Get[*corev1.PersistentVolume](view, "", r.Volume)
		if !ok || volume.Spec.ClaimRef == nil || volume.Spec.ClaimRef.UID != claim.UID {
			return status.Errorf(codes.PermissionDenied, "volume %s is not that of claim %s/%s", r.Volume, r.Namespace, r.Name)
		}
		if volume.Spec.Capacity.Storage().Cmp(size) != 0 {
			return status.Errorf(codes.FailedPrecondition, "size: %s is not the capacity of volume %s", r.Size, r.Volume)
		}
		changed := claim.DeepCopy()
		if err := expand(&changed.Status, r, size); err != nil {
			return err
		}
		if equality.Semantic.DeepEqual(changed.Status, claim.Status) {
			return nil
		}
		_, err = client.UpdateStatus(ctx, s.Client, changed)
		return err
	})
	switch _, ok := status.FromError(err); {
	case err == nil:
		return &nodev1.ReportExpansionResponse{}, nil
	case ok:
		return nil, err
	case apierrors.IsInvalid(err) || apierrors.IsForbidden(err):
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return nil, status.Error(codes.Unavailable, err.Error())
}

// usedOn says whether a pod on a node uses a claim.
func usedOn(v client.View, node string, claim *corev1.PersistentVolumeClaim) bool {
	return slices.ContainsFunc(client.PodsByNode.Any(v, node), func(pod *corev1.Pod) bool {
		return pod.Namespace == claim.Namespace && slices.Contains(references(pod), key{"persistentvolumeclaims", claim.Namespace, claim.Name})
	})
}

// expand changes a claim's status as a kubelet does (pkg/volume/util/resize_util.go).
func expand(s *corev1.PersistentVolumeClaimStatus, r *nodev1.ReportExpansionRequest, size resource.Quantity) error {
	state := s.AllocatedResourceStatuses[corev1.ResourceStorage]
	switch state {
	case corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress:
	case corev1.PersistentVolumeClaimNodeResizeInfeasible:
		if r.Phase == nodev1.ReportExpansionRequest_PHASE_INFEASIBLE {
			return nil // it was reported before
		}
		fallthrough
	default:
		if r.Phase == nodev1.ReportExpansionRequest_PHASE_FINISHED && s.Capacity.Storage().Cmp(size) == 0 {
			return nil // the same
		}
		return status.Errorf(codes.FailedPrecondition, "the claim does not wait for a node to expand its volume: allocatedResourceStatuses.storage is %q", state)
	}
	failed := func() {
		c := corev1.PersistentVolumeClaimCondition{Type: corev1.PersistentVolumeClaimNodeResizeError, Status: corev1.ConditionTrue,
			LastTransitionTime: metav1.Now(), Message: "failed to expand pvc with " + strings.ToValidUTF8(r.Message, "")}
		if i := slices.IndexFunc(s.Conditions, func(o corev1.PersistentVolumeClaimCondition) bool { return o.Type == c.Type }); i < 0 {
			s.Conditions = append(s.Conditions, c)
		} else if s.Conditions[i].Message != c.Message || s.Conditions[i].Status != c.Status {
			s.Conditions[i] = c
		}
	}
	switch r.Phase {
	case nodev1.ReportExpansionRequest_PHASE_BEGUN:
		s.AllocatedResourceStatuses[corev1.ResourceStorage] = corev1.PersistentVolumeClaimNodeResizeInProgress
	case nodev1.ReportExpansionRequest_PHASE_FAILED:
		failed()
	case nodev1.ReportExpansionRequest_PHASE_INFEASIBLE:
		s.AllocatedResourceStatuses[corev1.ResourceStorage] = corev1.PersistentVolumeClaimNodeResizeInfeasible
		failed()
	case nodev1.ReportExpansionRequest_PHASE_FINISHED:
		if s.Capacity == nil {
			s.Capacity = corev1.ResourceList{}
		}
		s.Capacity[corev1.ResourceStorage] = size
		if delete(s.AllocatedResourceStatuses, corev1.ResourceStorage); len(s.AllocatedResourceStatuses) == 0 {
			s.AllocatedResourceStatuses = nil
		}
		s.Conditions = slices.DeleteFunc(s.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
			switch c.Type {
			case corev1.PersistentVolumeClaimResizing, corev1.PersistentVolumeClaimFileSystemResizePending, corev1.PersistentVolumeClaimControllerResizeError, corev1.PersistentVolumeClaimNodeResizeError:
				return true
			}
			return false
		})
	default:
		return status.Errorf(codes.InvalidArgument, "phase: unknown value %d", r.Phase)
	}
	return nil
}
