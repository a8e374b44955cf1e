package clusterapi

import (
	"bufio"
	"context"
	"errors"
	"net/http"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/kontiki/kontiki/api/rpc"
	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/pki"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
)

// Service returns the gRPC service Cluster, the equivalent of Paths.
func (a *API) Service() kontikiv1.ClusterServer { return &service{cluster: a.Cluster} }

// service implements kontikiv1.ClusterServer. Its callers have been authorized.
type service struct {
	kontikiv1.UnimplementedClusterServer
	cluster *cluster.Cluster
}

// Status implements kontikiv1.ClusterServer.
func (s *service) Status(ctx context.Context, _ *kontikiv1.StatusRequest) (*kontikiv1.StatusResponse, error) {
	status, err := s.cluster.Status(ctx)
	if err != nil {
		return nil, adminError(err)
	}
	return statusResponse(status), nil
}

func statusResponse(status *cluster.Status) *kontikiv1.StatusResponse {
	out := &kontikiv1.StatusResponse{
		ClusterId: status.ClusterID, Leader: status.Leader, Term: status.Term, CommitIndex: status.CommitIndex, Revision: status.Revision,
		Epoch: status.Epoch, FeatureLevel: int32(status.FeatureLevel), FailuresTolerated: int32(status.FailuresTolerated), Problems: status.Problems, Behind: status.Behind,
	}
	for _, m := range status.Members {
		out.Masters = append(out.Masters, &kontikiv1.MasterStatus{
			Name: m.Name, Role: m.Role, Address: m.Address, ApiAddress: m.APIAddress, Version: m.Version, Health: m.Health,
			LastContact: durationIn(m.LastContact), RoundTrip: durationIn(m.RoundTrip), Gossip: m.Gossip,
			AppliedIndex: m.AppliedIndex, LastIndex: m.LastIndex, Revision: m.Revision, FeatureLevel: int32(m.FeatureLevel),
			DiskWrite: durationIn(m.DiskWrite), DiskFreeBytes: m.DiskFree, DiskTotalBytes: m.DiskTotal, CertificateExpires: timestampOf(m.CertificateExpires), Settings: m.Settings,
		})
	}
	return out
}

// durationIn parses a duration in a status; it returns nil for "never" and "".
func durationIn(text string) *durationpb.Duration {
	d, err := time.ParseDuration(text)
	if err != nil {
		return nil
	}
	return durationpb.New(d)
}

func timestampOf(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

// Members implements kontikiv1.ClusterServer.
func (s *service) Members(context.Context, *kontikiv1.MembersRequest) (*kontikiv1.MembersResponse, error) {
	out := &kontikiv1.MembersResponse{}
	for _, m := range s.cluster.Members() {
		out.Members = append(out.Members, &kontikiv1.Member{
			Name: m.Name, Role: string(m.Role), Address: m.Address, ApiAddress: m.APIAddress, GossipAddress: m.Gossip, Version: m.Version,
			State: string(m.State), Since: timestampOf(m.Since),
		})
	}
	return out, nil
}

// TransferLeadership implements kontikiv1.ClusterServer.
func (s *service) TransferLeadership(ctx context.Context, in *kontikiv1.TransferLeadershipRequest) (*kontikiv1.TransferLeadershipResponse, error) {
	leader, err := s.cluster.TransferLeadership(ctx, in.To)
	if err != nil {
		return nil, adminError(err)
	}
	return &kontikiv1.TransferLeadershipResponse{Leader: leader}, nil
}

// RemoveMember implements kontikiv1.ClusterServer.
func (s *service) RemoveMember(ctx context.Context, in *kontikiv1.RemoveMemberRequest) (*kontikiv1.RemoveMemberResponse, error) {
	if in.Name == "" {
		return nil, rpc.Wrong("name", "must be given")
	}
	if err := s.cluster.RemoveMember(ctx, in.Name); err != nil {
		return nil, adminError(err)
	}
	return &kontikiv1.RemoveMemberResponse{}, nil
}

// maxTokenDescription limits the length of a token's description, in bytes.
const maxTokenDescription = 1024

// CreateToken implements kontikiv1.ClusterServer.
func (s *service) CreateToken(ctx context.Context, in *kontikiv1.CreateTokenRequest) (*kontikiv1.CreateTokenResponse, error) {
	role := pki.Role(in.Role)
	if role != pki.RoleMaster && role != pki.RoleWorker {
		return nil, rpc.Wrong("role", "%q is neither %q nor %q", in.Role, pki.RoleMaster, pki.RoleWorker)
	}
	if len(in.Description) > maxTokenDescription {
		return nil, rpc.Wrong("description", "must have at most %d bytes", maxTokenDescription)
	}
	var ttl time.Duration
	if in.Ttl != nil {
		if err := in.Ttl.CheckValid(); err != nil {
			return nil, rpc.Wrong("ttl", "%v", err)
		}
		if ttl = in.Ttl.AsDuration(); ttl < 0 {
			return nil, rpc.Wrong("ttl", "must not be negative")
		}
	}
	token, err := s.cluster.CreateToken(ctx, role, ttl, in.Description)
	if err != nil {
		return nil, adminError(err)
	}
	return &kontikiv1.CreateTokenResponse{Token: token}, nil
}

// ListTokens implements kontikiv1.ClusterServer.
func (s *service) ListTokens(ctx context.Context, _ *kontikiv1.ListTokensRequest) (*kontikiv1.ListTokensResponse, error) {
	tokens, err := s.cluster.Tokens(ctx)
	if err != nil {
		return nil, adminError(err)
	}
	out := &kontikiv1.ListTokensResponse{}
	for _, t := range tokens {
		out.Tokens = append(out.Tokens, &kontikiv1.Token{Id: t.ID, Role: string(t.Role), Description: t.Description, CreatedAt: timestampOf(t.CreatedAt), ExpiresAt: timestampOf(t.ExpiresAt)})
	}
	return out, nil
}

// RevokeToken implements kontikiv1.ClusterServer.
func (s *service) RevokeToken(ctx context.Context, in *kontikiv1.RevokeTokenRequest) (*kontikiv1.RevokeTokenResponse, error) {
	if in.Id == "" {
		return nil, rpc.Wrong("id", "must be given")
	}
	if err := s.cluster.RevokeToken(ctx, in.Id); err != nil {
		return nil, adminError(err)
	}
	return &kontikiv1.RevokeTokenResponse{}, nil
}

// snapshotChunk is the number of bytes of a snapshot in one message.
const snapshotChunk = 64 << 10

// Snapshot implements kontikiv1.ClusterServer. An incomplete stream ends with an error.
func (s *service) Snapshot(_ *kontikiv1.SnapshotRequest, stream kontikiv1.Cluster_SnapshotServer) error {
	out := bufio.NewWriterSize(snapshotParts{stream}, snapshotChunk)
	_, err := s.cluster.Backups().Save(stream.Context(), out)
	if err == nil {
		err = out.Flush()
	}
	switch {
	case err == nil:
		return nil
	case stream.Context().Err() != nil:
		return stream.Context().Err()
	}
	return adminError(err)
}

// snapshotParts is a writer that sends what is written to it.
type snapshotParts struct {
	stream kontikiv1.Cluster_SnapshotServer
}

func (p snapshotParts) Write(b []byte) (int, error) {
	for done := 0; done < len(b); {
		n := min(snapshotChunk, len(b)-done)
		if err := p.stream.Send(&kontikiv1.SnapshotResponse{Data: b[done : done+n]}); err != nil {
			return done, err
		}
		done += n
	}
	return len(b), nil
}

// adminError converts an error of the administration to an API error.
func adminError(err error) error {
	var known apierrors.APIStatus
	if errors.As(err, &known) {
		return err
	}
	status := adminStatus(err)
	if status.Code == http.StatusInternalServerError {
		return apierrors.NewInternalError(err)
	}
	return &apierrors.StatusError{ErrStatus: status}
}
