package cluster

import (
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
)

// RegisterMasters lets a caller add services to the gRPC server that other masters reach; call it before Run.
func (c *Cluster) RegisterMasters(register func(grpc.ServiceRegistrar)) { register(c.clusterServer) }

// Master is a connection to the services that the master at an mTLS address serves to masters. It is the cluster's own, not
// necessarily up, and not to be closed.
func (c *Cluster) Master(address string) (grpc.ClientConnInterface, error) {
	return c.consensus.Line(address)
}

// Detached is how long this master has not heard of a leader: 0 on the leader itself, and on a master that has just
// started as long as it has been running.
func (c *Cluster) Detached() time.Duration { return c.consensus.Detached(c.opened) }

// MastersChanged is closed when IsMember and MasterAddresses may have changed; take it before asking them.
func (c *Cluster) MastersChanged() <-chan struct{} { return c.mastersChanged.Next() }

// IsMember says whether a master of that name is in the cluster, by this master's latest configuration.
func (c *Cluster) IsMember(name string) bool {
	return slices.ContainsFunc(c.consensus.Servers(), func(s raft.Server) bool { return string(s.ID) == name })
}
