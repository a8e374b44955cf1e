package nodes

import (
	"context"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/kontiki/kontiki/api/auth"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// Callers decides who may call the nodes' ports.
type Callers struct {
	// Authenticate returns whose token it is, nil if it is not valid, for the API's own audience.
	Authenticate func(ctx context.Context, token string) (user.Info, error)
	Authorizer   auth.Authorizer
	// Worker returns the node that a certificate was issued to, or why it is not valid (any more).
	Worker func(der []byte) (node string, err error)
}

// maxSubresources limits how many subresources one request may name: no path of the port has more.
const maxSubresources = 4

// AuthorizeCaller implements NodeService. A worker can ask about requests to its own port only. It learns whose token it has, as
// kubelets do, which may create TokenReviews.
func (s *Server) AuthorizeCaller(ctx context.Context, r *nodev1.AuthorizeCallerRequest) (*nodev1.AuthorizeCallerResponse, error) {
	node, ok := s.Caller(ctx)
	if !ok {
		return nil, status.Error(codes.PermissionDenied, "this needs a worker's certificate")
	}
	if s.Callers.Authenticate == nil {
		return nil, status.Error(codes.Unimplemented, "this master does not decide about tokens")
	}
	if len(r.WorkerCertificate) > 0 {
		if s.Callers.Worker == nil {
			return nil, status.Error(codes.Unimplemented, "this master does not decide about certificates")
		}
		name, err := s.Callers.Worker(r.WorkerCertificate)
		if err != nil {
			return &nodev1.AuthorizeCallerResponse{Reason: err.Error()}, nil
		}
		return &nodev1.AuthorizeCallerResponse{User: "system:node:" + name, Allowed: true}, nil
	}
	if len(r.Subresources) == 0 || len(r.Subresources) > maxSubresources {
		return nil, status.Errorf(codes.InvalidArgument, "subresources: there are %d, and must be 1 to %d", len(r.Subresources), maxSubresources)
	}
	who, err := s.Callers.Authenticate(ctx, r.Token)
	if err != nil || who == nil {
		return &nodev1.AuthorizeCallerResponse{Reason: "the token is not valid"}, nil
	}
	response := &nodev1.AuthorizeCallerResponse{User: who.GetName()}
	for _, subresource := range r.Subresources {
		err := auth.Check(ctx, s.Callers.Authorizer, authorizer.AttributesRecord{
			User: who, Verb: r.Verb, APIVersion: "v1", Resource: "nodes", Subresource: subresource, Name: node, ResourceRequest: true, Path: r.Path,
		})
		if err == nil {
			response.Allowed = true
			return response, nil
		}
		response.Reason = err.Error()
	}
	return response, nil
}
