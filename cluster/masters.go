package cluster

import (
	"time"

	"google.golang.org/grpc"
)

// RegisterMasters lets a caller add services to the gRPC server that other masters reach; call it before Run.
func (c *Cluster) RegisterMasters(register func(grpc.ServiceRegistrar)) { register(c.clusterServer) }

// Master is a connection to the services that the master at an mTLS address serves to masters. It is the cluster's own, not
// necessarily up, and not to be closed.
func (c *Cluster) Master(address string) (grpc.ClientConnInterface, error) {
	return c.peers.conn(address)
}

// Detached is how long this master has not heard of a leader: 0 on the leader itself, and on a master that has just
// started as long as it has been running.
func (c *Cluster) Detached() time.Duration {
	if c.leaders.current().self {
		return 0
	}
	last := c.replica.raft.LastContact()
	if last.Before(c.opened) {
		last = c.opened
	}
	return time.Since(last)
}
