package cluster

import (
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
)

// RegisterMasters adds services to the gRPC server for other masters; call it before Run.
func (c *Cluster) RegisterMasters(register func(grpc.ServiceRegistrar)) { register(c.clusterServer) }

// Master returns a connection to the services that the master at an mTLS address serves to other masters. The connection is shared and may
// not be established yet; the caller must not close it.
func (c *Cluster) Master(address string) (grpc.ClientConnInterface, error) {
	return c.consensus.Line(address)
}

// Detached returns how long this master has not heard from a leader: 0 on the leader itself, and at most the time since Open.
func (c *Cluster) Detached() time.Duration { return c.consensus.Detached(c.opened) }

// MastersChanged returns a channel that is closed when the results of IsMember and MasterAddresses may have changed; call it before them.
func (c *Cluster) MastersChanged() <-chan struct{} { return c.mastersChanged.Next() }

// IsMember reports whether this master's latest raft configuration has a master of that name.
func (c *Cluster) IsMember(name string) bool {
	return slices.ContainsFunc(c.consensus.Servers(), func(s raft.Server) bool { return string(s.ID) == name })
}
