package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// clusterService handles calls of other masters.
type clusterService struct {
	clusterv1.UnimplementedClusterServiceServer
	c *Cluster
}

func (s clusterService) Propose(ctx context.Context, request *clusterv1.ProposeRequest) (*clusterv1.ProposeResponse, error) {
	return s.c.consensus.ServePropose(ctx, request), nil
}

func (s clusterService) ReadIndex(ctx context.Context, _ *clusterv1.ReadIndexRequest) (*clusterv1.ReadIndexResponse, error) {
	return s.c.consensus.ServeReadIndex(ctx)
}

func (s clusterService) NodeStatus(context.Context, *clusterv1.NodeStatusRequest) (*clusterv1.NodeStatusResponse, error) {
	return s.c.nodeStatus(), nil
}

func (s clusterService) PrepareMember(ctx context.Context, r *clusterv1.PrepareMemberRequest) (*clusterv1.PrepareMemberResponse, error) {
	return &clusterv1.PrepareMemberResponse{}, errclass.ToStatus(s.c.prepareAnywhere(ctx, r))
}

func (c *Cluster) prepareAnywhere(ctx context.Context, r *clusterv1.PrepareMemberRequest) error {
	return c.onLeader(ctx, func(ctx context.Context) error {
		return c.prepareMember(ctx, r.Name, r.Address)
	}, func(ctx context.Context, client clusterv1.ClusterServiceClient) error {
		_, err := client.PrepareMember(ctx, r)
		return err
	})
}

func (s clusterService) AddMember(ctx context.Context, r *clusterv1.AddMemberRequest) (*clusterv1.AddMemberResponse, error) {
	if caller, ok := mtls.PeerFromContext(ctx); !ok || (caller.Name != r.Name && !isForwarder(s.c, caller)) {
		return nil, status.Errorf(codes.PermissionDenied, "a master adds only itself, not %q", r.Name)
	}
	err := s.c.onLeader(ctx, func(ctx context.Context) error {
		return s.c.addMember(ctx, r.Name, r.Address)
	}, func(ctx context.Context, client clusterv1.ClusterServiceClient) error {
		_, err := client.AddMember(ctx, r)
		return err
	})
	return &clusterv1.AddMemberResponse{}, errclass.ToStatus(err)
}

// isForwarder reports whether the caller is a master of the cluster, which may forward requests of other hosts.
func isForwarder(c *Cluster, caller mtls.Peer) bool {
	return slices.ContainsFunc(c.consensus.Servers(), func(s raft.Server) bool { return string(s.ID) == caller.Name })
}

func (s clusterService) RemoveMember(ctx context.Context, r *clusterv1.RemoveMemberRequest) (*clusterv1.RemoveMemberResponse, error) {
	return &clusterv1.RemoveMemberResponse{}, errclass.ToStatus(s.c.RemoveMember(ctx, r.Name))
}

func (s clusterService) TransferLeadership(ctx context.Context, r *clusterv1.TransferLeadershipRequest) (*clusterv1.TransferLeadershipResponse, error) {
	leader, err := s.c.TransferLeadership(ctx, r.To)
	return &clusterv1.TransferLeadershipResponse{Leader: leader}, errclass.ToStatus(err)
}

func (s clusterService) Status(ctx context.Context, _ *clusterv1.StatusRequest) (*clusterv1.StatusResponse, error) {
	st, err := s.c.Status(ctx)
	if err != nil {
		return nil, errclass.ToStatus(err)
	}
	data, err := json.Marshal(st)
	return &clusterv1.StatusResponse{Json: data}, errclass.ToStatus(err)
}

func (s clusterService) CreateToken(ctx context.Context, r *clusterv1.CreateTokenRequest) (*clusterv1.CreateTokenResponse, error) {
	token, err := s.c.CreateToken(ctx, pki.Role(r.Role), time.Duration(r.TtlSeconds)*time.Second, r.Description)
	return &clusterv1.CreateTokenResponse{Token: token}, errclass.ToStatus(err)
}

func (s clusterService) ListTokens(ctx context.Context, _ *clusterv1.ListTokensRequest) (*clusterv1.ListTokensResponse, error) {
	tokens, err := s.c.Tokens(ctx)
	response := &clusterv1.ListTokensResponse{}
	for _, t := range tokens {
		token := &clusterv1.Token{Id: t.ID, Role: string(t.Role), Description: t.Description, CreatedAt: t.CreatedAt.Unix()}
		if !t.ExpiresAt.IsZero() {
			token.ExpiresAt = t.ExpiresAt.Unix()
		}
		response.Tokens = append(response.Tokens, token)
	}
	return response, errclass.ToStatus(err)
}

func (s clusterService) RevokeToken(ctx context.Context, r *clusterv1.RevokeTokenRequest) (*clusterv1.RevokeTokenResponse, error) {
	return &clusterv1.RevokeTokenResponse{}, errclass.ToStatus(s.c.RevokeToken(ctx, r.Id))
}

// joinService handles calls of hosts that have a token and no certificate yet.
type joinService struct {
	clusterv1.UnimplementedJoinServiceServer
	c *Cluster
}

func (s joinService) JoinMaster(ctx context.Context, r *clusterv1.JoinMasterRequest) (*clusterv1.JoinMasterResponse, error) {
	c := s.c
	if _, err := c.checkToken(ctx, r.Token, pki.RoleMaster); err != nil {
		c.log.Info("a host was not admitted as a master", "master", r.Name, "address", r.Address, "error", err)
		return nil, errclass.ToStatus(err)
	}
	if err := c.admitLevel(r.Name, r.Version, max(int(r.FeatureLevel), 1)); err != nil {
		return nil, errclass.ToStatus(err)
	}
	if err := c.checkSettings(r.Name, r.FixedSettings); err != nil {
		return nil, errclass.ToStatus(err)
	}
	if err := c.prepareAnywhere(ctx, &clusterv1.PrepareMemberRequest{Name: r.Name, Address: r.Address}); err != nil {
		return nil, errclass.ToStatus(err)
	}
	identity, err := json.Marshal(c.identity.Now().Identity)
	if err != nil {
		return nil, errclass.ToStatus(err)
	}
	c.log.Info("sending the cluster's identity to a new master", "master", r.Name, "address", r.Address)
	return &clusterv1.JoinMasterResponse{Identity: identity, Masters: c.MasterAddresses(), Gossip: c.gossipSeeds(), Recoveries: c.memberNow().Recoveries}, nil
}

func (s joinService) JoinWorker(ctx context.Context, r *clusterv1.JoinWorkerRequest) (*clusterv1.JoinWorkerResponse, error) {
	c := s.c
	view, err := c.checkToken(ctx, r.Token, pki.RoleWorker)
	if err != nil {
		c.log.Info("a host was not admitted as a worker", "worker", r.Name, "error", err)
		return nil, errclass.ToStatus(err)
	}
	for _, m := range c.gossip.Members() {
		host, _, _ := net.SplitHostPort(m.Gossip)
		if m.Role == pki.RoleWorker && m.Name == r.Name && m.State == gossip.Alive && !c.isHost(ctx, r.Addresses, host) {
			return nil, errclass.ToStatus(fmt.Errorf("the name %q is %w: the worker at %s has it and is alive; choose another name", r.Name, errclass.ErrNameTaken, host))
		}
	}
	if !c.WorkersGossip() {
		for _, m := range c.everyMaster(ctx) {
			if w := m.Workers[r.Name]; w.Following && !c.isHost(ctx, r.Addresses, w.Address) {
				return nil, errclass.ToStatus(fmt.Errorf("the name %q is %w: the worker at %s has it and is connected to %s; choose another name", r.Name, errclass.ErrNameTaken, w.Address, m.Name))
			}
		}
	}
	if err := c.mayTakeName(ctx, r.Name); err != nil {
		return nil, errclass.ToStatus(err)
	}
	c.log.Info("admitting a worker", "worker", r.Name, "addresses", r.Addresses)
	return c.workerCertificates(ctx, view, r.Name, r.Csr, r.Addresses)
}

// workerService handles calls of workers, which have a certificate.
type workerService struct {
	clusterv1.UnimplementedWorkerServiceServer
	c *Cluster
}

func (s workerService) Renew(ctx context.Context, r *clusterv1.RenewRequest) (*clusterv1.JoinWorkerResponse, error) {
	caller, ok := mtls.PeerFromContext(ctx)
	if !ok || caller.Role != pki.RoleWorker {
		return nil, status.Error(codes.PermissionDenied, "only a worker renews a worker's certificates")
	}
	// This master may not have applied a revocation yet.
	view, err := s.c.Consistent(ctx)
	if err != nil {
		return nil, errclass.ToStatus(err)
	}
	revoked, _ := revocationOf(view, caller.Name)
	if err := revoked.check(caller); err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	return s.c.workerCertificates(ctx, view, caller.Name, r.Csr, r.Addresses)
}

// gossipSeeds returns the gossip addresses of masters, this one's first.
func (c *Cluster) gossipSeeds() []string {
	seeds := []string{c.gossip.Address()}
	for _, m := range c.gossip.Members() {
		if m.Role == pki.RoleMaster && m.Name != c.cfg.Name && m.State == gossip.Alive {
			seeds = append(seeds, m.Gossip)
		}
	}
	return seeds
}
