package cluster

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/join"
	"github.com/kontiki/kontiki/internal/kv"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// maxWorkerAddresses is the maximum number of addresses in a worker's serving certificate.
const maxWorkerAddresses = 64

// workerCertificates issues a worker's certificates, and returns them with what else it needs to take part. Its serving certificate is for
// its name and IP addresses only. view must be consistent, because it has the worker's revocations.
func (c *Cluster) workerCertificates(ctx context.Context, view kv.View, name string, csr []byte, addresses []string) (*clusterv1.JoinWorkerResponse, error) {
	if err := join.CheckName(name); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if len(addresses) > maxWorkerAddresses {
		return nil, status.Errorf(codes.InvalidArgument, "worker %s asks for a certificate for %d addresses, at most %d are allowed", name, len(addresses), maxWorkerAddresses)
	}
	if err := c.mayBeNamed(ctx, view, name); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	for _, a := range addresses {
		if a != name && net.ParseIP(a) == nil {
			return nil, status.Errorf(codes.InvalidArgument, "worker %s asks for a certificate for %q: only its own name and IP addresses are allowed", name, a)
		}
		if err := c.mayServeAt(ctx, view, name, a); err != nil {
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

// mayBeNamed returns an error if a worker must not have a name because it is one of the API's: with a serving certificate for that name it
// could impersonate the API.
func (c *Cluster) mayBeNamed(ctx context.Context, view kv.View, name string) error {
	for _, host := range append([]string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}, c.apiHosts(view)...) {
		if strings.EqualFold(name, host) {
			return fmt.Errorf("%w: a worker cannot be named %s, which is a name of the API; choose another name", errclass.ErrRefused, name)
		}
	}
	if ip := net.ParseIP(name); ip != nil { // an IP address in the certificate, like the others
		if !c.calledFrom(ctx, ip) {
			return fmt.Errorf("%w: a worker named %s must call from that address; choose another name", errclass.ErrRefused, name)
		}
		return c.mayServeAt(ctx, view, name, name)
	}
	return nil
}

// mayTakeName returns an error if a host that joins with a token must not become the worker of that name: a master's name is reserved for
// the worker on the master's own host. A worker that has a certificate keeps its name, even if it calls from another address of its host.
func (c *Cluster) mayTakeName(ctx context.Context, name string) error {
	for _, s := range c.consensus.Servers() {
		if string(s.ID) == name && !c.callsFrom(ctx, s) {
			return fmt.Errorf("%w: the worker asks for the name %s from %s, which is not the address of that master; choose another name", errclass.ErrRefused, name, callerIP(ctx))
		}
	}
	return nil
}

// mayServeAt returns an error if a worker must not get a serving certificate for an address: with one for a master's address, or for the
// API's service address, it could impersonate the API. A worker on a master's own host has the master's name, and calls from its address.
func (c *Cluster) mayServeAt(ctx context.Context, view kv.View, name, address string) error {
	ip := net.ParseIP(address)
	if ip == nil || ip.IsLoopback() {
		return nil // its own name, or loopback, which is no other host's
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
	// Further addresses of the API: its service address, a load balancer.
	if slices.ContainsFunc(c.apiHosts(view), func(host string) bool { return ip.Equal(net.ParseIP(host)) }) {
		return fmt.Errorf("worker %s asks for a certificate for %s, which is the address of the API; give the agent its own host's --node-ip", name, ip)
	}
	return nil
}

// callsFrom reports whether a call comes from a master's own host: from its address, or over loopback if it is this master.
func (c *Cluster) callsFrom(ctx context.Context, s raft.Server) bool {
	ip := callerIP(ctx)
	if ip.IsLoopback() && s.ID == raft.ServerID(c.cfg.Name) {
		return true
	}
	return slices.ContainsFunc(hostIPs(ctx, string(s.Address)), ip.Equal)
}

// calledFrom reports whether a call comes from a host's address, or over loopback if that is this master's own host.
func (c *Cluster) calledFrom(ctx context.Context, host net.IP) bool {
	ip := callerIP(ctx)
	if ip.IsLoopback() {
		return host.IsLoopback() || slices.ContainsFunc(hostIPs(ctx, c.address), host.Equal)
	}
	return ip != nil && ip.Equal(host)
}

// isHost reports whether a host that joins is the one at an address: it says so, and calls from there.
func (c *Cluster) isHost(ctx context.Context, claimed []string, address string) bool {
	return slices.Contains(claimed, address) && c.calledFrom(ctx, net.ParseIP(address))
}

// callerIP returns the address that a call comes from; nil if it is not known.
func callerIP(ctx context.Context) net.IP {
	caller, ok := peer.FromContext(ctx)
	if !ok || caller.Addr == nil {
		return nil
	}
	host, _, _ := net.SplitHostPort(caller.Addr.String())
	return net.ParseIP(host)
}

// resolveBound limits the resolution of a master's host name.
const resolveBound = 2 * time.Second

// hostIPs returns the IP addresses of a host:port; none if its name cannot be resolved.
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
