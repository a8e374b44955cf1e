package nodes

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/kontiki/kontiki/api/client"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// maxMirrors limits the mirror pods of a node: as many as a worker reads files of static pods.
const maxMirrors = 256

// asNode returns a client with the rights of a node, whose writes admission restricts (NodeRestriction).
func (s *Server) asNode(node string) *client.Client {
	return s.Client.As(&user.DefaultInfo{Name: "system:node:" + node, Groups: []string{user.NodesGroup, user.AllAuthenticated}})
}

func isMirror(pod *corev1.Pod) bool {
	_, ok := pod.Annotations[corev1.MirrorPodAnnotationKey]
	return ok
}

// CreateMirrorPod implements NodeService. The object is restricted like those that a kubelet creates; besides, its name must end with the
// node's, so that a stolen worker cannot take names that others will need.
func (s *Server) CreateMirrorPod(ctx context.Context, r *nodev1.CreateMirrorPodRequest) (*nodev1.CreateMirrorPodResponse, error) {
	node, ok := s.Caller(ctx)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "this needs a worker's certificate")
	}
	pod, err := decodePod(r.Pod)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, fmt.Sprintf("pod: %v", err))
	}
	if suffix := "-" + strings.ToLower(node); !strings.HasSuffix(pod.Name, suffix) {
		return nil, status.Errorf(codes.PermissionDenied, "metadata.name: the name of a mirror pod must end with %q", suffix)
	}
	turn, _ := s.mirroring.LoadOrStore(node, &sync.Mutex{})
	turn.(*sync.Mutex).Lock() // calls at the same time would all find that there is room
	defer turn.(*sync.Mutex).Unlock()
	view, err := s.Client.Consistent(ctx)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	mirrors := 0
	for _, other := range client.PodsByNode.Any(view, node) {
		if isMirror(other) {
			mirrors++
		}
	}
	if mirrors >= maxMirrors {
		return nil, status.Errorf(codes.ResourceExhausted, "node %s has %d mirror pods, the limit is %d", node, mirrors, maxMirrors)
	}
	pod.Status = corev1.PodStatus{}
	created, err := client.Create(ctx, s.asNode(node), pod)
	if err != nil {
		return nil, mirrorError(err)
	}
	return &nodev1.CreateMirrorPodResponse{Uid: string(created.UID)}, nil
}

// DeleteMirrorPod implements NodeService.
func (s *Server) DeleteMirrorPod(ctx context.Context, r *nodev1.DeleteMirrorPodRequest) (*nodev1.DeleteMirrorPodResponse, error) {
	node, ok := s.Caller(ctx)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "this needs a worker's certificate")
	}
	view, err := s.Client.Consistent(ctx)
	if err != nil {
		return nil, status.Error(codes.Unavailable, err.Error())
	}
	pod, ok := client.Get[*corev1.Pod](view, r.Namespace, r.Name)
	if !ok || string(pod.UID) != r.Uid {
		return &nodev1.DeleteMirrorPodResponse{}, nil
	}
	if pod.Spec.NodeName != node || !isMirror(pod) {
		return nil, status.Errorf(codes.PermissionDenied, "pod %s/%s is no mirror pod of node %s", r.Namespace, r.Name, node)
	}
	err = s.asNode(node).Delete(ctx, pod, client.IfUID(pod.UID), client.Grace(0))
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return nil, mirrorError(err)
	}
	return &nodev1.DeleteMirrorPodResponse{}, nil
}

// mirrorError converts an error of a write of a mirror pod.
func mirrorError(err error) error {
	code := codes.Unavailable
	switch {
	case apierrors.IsAlreadyExists(err):
		code = codes.AlreadyExists
	case apierrors.IsInvalid(err), apierrors.IsBadRequest(err):
		code = codes.InvalidArgument
	case apierrors.IsForbidden(err), apierrors.IsNotFound(err): // its namespace
		code = codes.PermissionDenied
	}
	return status.Error(code, err.Error())
}
