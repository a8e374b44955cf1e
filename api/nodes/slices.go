package nodes

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/client"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// slicesByNode finds the ResourceSlices of devices that only pods on one node can use, by the node.
var slicesByNode = client.NewIndex(func(slice *resourcev1.ResourceSlice, add func(string)) {
	if node := slice.Spec.NodeName; node != nil && *node != "" {
		add(*node)
	}
})

// maxKept limits the drivers in a RemoveResourceSlicesRequest.
const maxKept = 1000

// RemoveResourceSlices implements NodeService. A worker may remove the slices of its own node only, as node authorization allows a kubelet.
func (s *Server) RemoveResourceSlices(ctx context.Context, r *nodev1.RemoveResourceSlicesRequest) (*nodev1.RemoveResourceSlicesResponse, error) {
	node, ok := s.Caller(ctx)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "this needs a worker's certificate")
	}
	if len(r.Keep) > maxKept {
		return nil, status.Errorf(codes.InvalidArgument, "keep: %d drivers, the limit is %d", len(r.Keep), maxKept)
	}
	view, err := s.Client.Consistent(ctx)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	for _, slice := range slicesByNode.Any(view, node) {
		if r.Driver != "" && slice.Spec.Driver != r.Driver || r.Driver == "" && slices.Contains(r.Keep, slice.Spec.Driver) {
			continue
		}
		if err := s.Client.Delete(ctx, slice, client.IfUID(slice.UID)); err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return nil, status.Error(codes.Unavailable, err.Error())
		}
	}
	return &nodev1.RemoveResourceSlicesResponse{}, nil
}
