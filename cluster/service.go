package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/internal/kv"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// clusterService serves the other masters.
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

// isForwarder says whether a caller is a master of the cluster, which passes on what others ask.
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

// joinService serves hosts that have a token and no certificate.
type joinService struct {
	clusterv1.UnimplementedJoinServiceServer
	c *Cluster
}

func (s joinService) JoinMaster(ctx context.Context, r *clusterv1.JoinMasterRequest) (*clusterv1.JoinMasterResponse, error) {
	c := s.c
	if _, err := c.checkToken(ctx, r.Token, pki.RoleMaster); err != nil {
		c.log.Info("a host was not let in as a master", "master", r.Name, "address", r.Address, "error", err)
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
	c.log.Info("handing the cluster's identity to a new master", "master", r.Name, "address", r.Address)
	return &clusterv1.JoinMasterResponse{Identity: identity, Masters: c.MasterAddresses(), Gossip: c.gossipSeeds(), Recoveries: c.memberNow().Recoveries}, nil
}

func (s joinService) JoinWorker(ctx context.Context, r *clusterv1.JoinWorkerRequest) (*clusterv1.JoinWorkerResponse, error) {
	c := s.c
	view, err := c.checkToken(ctx, r.Token, pki.RoleWorker)
	if err != nil {
		c.log.Info("a host was not let in as a worker", "worker", r.Name, "error", err)
		return nil, errclass.ToStatus(err)
	}
	for _, m := range c.gossip.Members() {
		host, _, _ := net.SplitHostPort(m.Gossip)
		if m.Role == pki.RoleWorker && m.Name == r.Name && m.State == gossip.Alive && !slices.Contains(r.Addresses, host) {
			return nil, errclass.ToStatus(fmt.Errorf("the name %q is %w: the worker at %s has it and is alive; choose another name", r.Name, errclass.ErrNameTaken, host))
		}
	}
	if !c.WorkersGossip() {
		for _, m := range c.everyMaster(ctx) {
			if w := m.Workers[r.Name]; w.Following && !slices.Contains(r.Addresses, w.Address) {
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

// maxWorkerAddresses is for how many addresses a worker gets a serving certificate.
const maxWorkerAddresses = 64

// workerCertificates returns all that a worker needs. Its serving certificate is for its name and IP addresses only. The view is a
// consistent one: it says how often certificates of the worker were revoked.
func (c *Cluster) workerCertificates(ctx context.Context, view kv.View, name string, csr []byte, addresses []string) (*clusterv1.JoinWorkerResponse, error) {
	if err := join.CheckName(name); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if len(addresses) > maxWorkerAddresses {
		return nil, status.Errorf(codes.InvalidArgument, "worker %s asks for a certificate for %d addresses, at most %d are allowed", name, len(addresses), maxWorkerAddresses)
	}
	if err := c.mayBeNamed(name); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	for _, a := range addresses {
		if a != name && net.ParseIP(a) == nil {
			return nil, status.Errorf(codes.InvalidArgument, "worker %s asks for a certificate for %q: only its own name and IP addresses are allowed", name, a)
		}
		if err := c.mayServeAt(ctx, name, a); err != nil {
			return nil, status.Error(codes.InvalidArgument, err.Error())
		}
	}
	revoked, _ := revocationOf(view, name)
	client, serving, err := c.identity.Issuer().SignWorker(csr, name, append([]string{name}, slices.DeleteFunc(slices.Clone(addresses), func(a string) bool { return a == name })...), revoked.Count)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	return &clusterv1.JoinWorkerResponse{
		ClientCertificate:  client,
		ServingCertificate: serving,
		CaCertificate:      c.identity.Now().RootsPEM(),
		GossipKeys:         c.identity.Now().GossipKeys,
		Masters:            c.MasterAddresses(),
		Gossip:             c.gossipSeeds(),
	}, nil
}

// mayBeNamed says why a worker does not get a serving certificate for its name: with one for a name of the API it could pose as the API.
func (c *Cluster) mayBeNamed(name string) error {
	for _, host := range append([]string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}, c.cfg.APIHosts...) {
		if strings.EqualFold(name, host) {
			return fmt.Errorf("%w: a worker cannot be named %s, which is a name of the API; choose another name", errclass.ErrRefused, name)
		}
	}
	return nil
}

// mayTakeName says why a host that shows a token and no certificate does not become the worker of that name: a master's name is for the
// worker on its own host. A worker that has a certificate keeps its name, also if it calls from another address of its host.
func (c *Cluster) mayTakeName(ctx context.Context, name string) error {
	for _, s := range c.consensus.Servers() {
		if string(s.ID) == name && !c.callsFrom(ctx, s) {
			return fmt.Errorf("%w: the worker asks for the name %s from %s, which is not the address of that master; choose another name", errclass.ErrRefused, name, callerIP(ctx))
		}
	}
	return nil
}

// mayServeAt says why a worker does not get a serving certificate for an address: with one for a master's, or for the
// API's service, it could pose as the API. A worker on a master's own host has the master's name, and calls from its address.
func (c *Cluster) mayServeAt(ctx context.Context, name, address string) error {
	ip := net.ParseIP(address)
	if ip == nil || ip.IsLoopback() {
		return nil // its own name; loopback is no other host's
	}
	if !ip.IsGlobalUnicast() {
		return fmt.Errorf("worker %s asks for a certificate for %s, which is no host's address", name, ip)
	}
	for _, s := range c.consensus.Servers() {
		if !slices.ContainsFunc(hostIPs(ctx, string(s.Address)), ip.Equal) {
			continue
		}
		if string(s.ID) == name {
			if c.callsFrom(ctx, s) {
				return nil
			}
			return fmt.Errorf("worker %s asks for a certificate for %s, which is that master's address, and calls from %s; let the agent on that host reach the masters from that address", name, ip, callerIP(ctx))
		}
		return fmt.Errorf("worker %s asks for a certificate for %s, which is the address of %s; give the agent its own host's --node-ip", name, ip, s.ID)
	}
	// What is no single master's host is the API's: its service, a balancer before it.
	if slices.ContainsFunc(c.cfg.APIHosts, func(host string) bool { return ip.Equal(net.ParseIP(host)) }) {
		return fmt.Errorf("worker %s asks for a certificate for %s, which is the address of the API; give the agent its own host's --node-ip", name, ip)
	}
	return nil
}

// callsFrom says whether a call comes from a master's own host: from its address, or over loopback if it is this master.
func (c *Cluster) callsFrom(ctx context.Context, s raft.Server) bool {
	ip := callerIP(ctx)
	if ip.IsLoopback() && s.ID == raft.ServerID(c.cfg.Name) {
		return true
	}
	return slices.ContainsFunc(hostIPs(ctx, string(s.Address)), ip.Equal)
}

// callerIP is the address that a call comes from; nil where it is not known.
func callerIP(ctx context.Context) net.IP {
	caller, ok := peer.FromContext(ctx)
	if !ok || caller.Addr == nil {
		return nil
	}
	host, _, _ := net.SplitHostPort(caller.Addr.String())
	return net.ParseIP(host)
}

// resolveBound is how long a master's name may take to be resolved.
const resolveBound = 2 * time.Second

// hostIPs are the IP addresses of a host:port; none where its name cannot be resolved.
func hostIPs(ctx context.Context, address string) []net.IP {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil
	}
	if ip := net.ParseIP(host); ip != nil {
		return []net.IP{ip}
	}
	ctx, cancel := context.WithTimeout(ctx, resolveBound)
	defer cancel()
	ips, _ := net.DefaultResolver.LookupIP(ctx, "ip", host)
	return ips
}

// workerService serves workers that have a certificate.
type workerService struct {
	clusterv1.UnimplementedWorkerServiceServer
	c *Cluster
}

func (s workerService) Renew(ctx context.Context, r *clusterv1.RenewRequest) (*clusterv1.JoinWorkerResponse, error) {
	caller, ok := mtls.PeerFromContext(ctx)
	if !ok || caller.Role != pki.RoleWorker {
		return nil, status.Error(codes.PermissionDenied, "only a worker renews a worker's certificates")
	}
	// What this master has applied may lag behind a revocation.
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

// gossipSeeds are the gossip addresses of masters, this one first.
func (c *Cluster) gossipSeeds() []string {
	seeds := []string{c.gossip.Address()}
	for _, m := range c.gossip.Members() {
		if m.Role == pki.RoleMaster && m.Name != c.cfg.Name && m.State == gossip.Alive {
			seeds = append(seeds, m.Gossip)
		}
	}
	return seeds
}
