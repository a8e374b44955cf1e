package nodes

import (
	"context"
	"slices"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/localpath"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// volumesByNode finds the volumes whose folders a node has, by the node.
var volumesByNode = client.NewIndex(func(volume *corev1.PersistentVolume, add func(string)) {
	if node := localpath.NodeOf(volume.Annotations); node != "" {
		add(node)
	}
})

// ownAnnotations returns the annotations that a worker may set on its node.
func ownAnnotations(asked map[string]string) map[string]string {
	root := asked[localpath.Root]
	if root == "" || len(root) > maxRoot || !strings.HasPrefix(root, "/") {
		return nil
	}
	return map[string]string{localpath.Root: root}
}

// maxRoot limits the path of the folder with a node's volumes in bytes, and maxQuota what a worker says about a quota.
const maxRoot, maxQuota = 1024, 512

// ReportVolume implements NodeService. A worker may report about the volumes of its own node only, and that a folder was removed only if
// that was asked for: so a stolen worker cannot make the cluster forget others' volumes.
func (s *Server) ReportVolume(ctx context.Context, r *nodev1.ReportVolumeRequest) (*nodev1.ReportVolumeResponse, error) {
	node, ok := s.Caller(ctx)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "this needs a worker's certificate")
	}
	if len(r.Quota) > maxQuota {
		return nil, status.Errorf(codes.InvalidArgument, "quota: %d bytes, the limit is %d", len(r.Quota), maxQuota)
	}
	state := map[nodev1.ReportVolumeRequest_State]string{
		nodev1.ReportVolumeRequest_STATE_MADE: localpath.Made, nodev1.ReportVolumeRequest_STATE_REMOVED: localpath.Removed}[r.State]
	if state == "" {
		return nil, status.Errorf(codes.InvalidArgument, "state: unknown value %d", r.State)
	}
	err := retry.OnError(retry.DefaultRetry, again, func() error {
		view, err := s.Client.Consistent(ctx)
		if err != nil {
			return err
		}
		volume, ok := client.Get[*corev1.PersistentVolume](view, "", r.Name)
		if !ok || string(volume.UID) != r.Uid || !mayReportVolume(view, node, volume, state) {
			if state == localpath.Removed && (!ok || string(volume.UID) != r.Uid) {
				return nil // it was reported before
			}
			return status.Errorf(codes.PermissionDenied, "volume %s with uid %s is not on node %s", r.Name, r.Uid, node)
		}
		if state == localpath.Removed && !localpath.ToRemove(string(volume.Spec.PersistentVolumeReclaimPolicy), string(volume.Status.Phase), volume.DeletionTimestamp != nil) {
			return status.Errorf(codes.FailedPrecondition, "volume %s is not to be removed", r.Name)
		}
		if volume.Annotations[localpath.State] == state && volume.Annotations[localpath.Quota] == r.Quota {
			return nil
		}
		changed := volume.DeepCopy()
		metav1.SetMetaDataAnnotation(&changed.ObjectMeta, localpath.State, state)
		if r.Quota != "" {
			metav1.SetMetaDataAnnotation(&changed.ObjectMeta, localpath.Quota, r.Quota)
		}
		_, err = client.Update(ctx, s.Client, changed)
		return err
	})
	if _, ok := status.FromError(err); !ok {
		if apierrors.IsInvalid(err) || apierrors.IsForbidden(err) {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	if err != nil {
		return nil, err
	}
	return &nodev1.ReportVolumeResponse{}, nil
}

// mayReportVolume says whether a node may report about a folder: its own, or one on a server that it has made because a pod there uses its
// claim.
func mayReportVolume(v client.View, node string, volume *corev1.PersistentVolume, state string) bool {
	if localpath.NodeOf(volume.Annotations) == node {
		return true
	}
	ref := volume.Spec.ClaimRef
	if volume.Annotations[localpath.ProvisionedBy] != localpath.NFS || state != localpath.Made || ref == nil {
		return false
	}
	for _, pod := range client.PodsByNode.Any(v, node) {
		if pod.Namespace == ref.Namespace && slices.Contains(references(pod), key{"persistentvolumeclaims", ref.Namespace, ref.Name}) {
			return true
		}
	}
	return false
}
