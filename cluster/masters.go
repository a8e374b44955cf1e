package cluster

import (
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/raft"
	"google.golang.org/grpc"
)

// RegisterMasters lets a caller add services to the gRPC server that other masters reach; call it before Run.
func (c *Cluster) RegisterMasters(register func(grpc.ServiceRegistrar)) { register(c.clusterServer) }

// Master is a connection to the services that the master at an mTLS address serves to masters. It is the cluster's own, not
// necessarily up, and not to be closed.
func (c *Cluster) Master(address string) (grpc.ClientConnInterface, error) {
	return c.peers.Line(address)
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

// MastersChanged is closed when IsMember and MasterAddresses may have changed; take it before asking them.
func (c *Cluster) MastersChanged() <-chan struct{} { return c.mastersChanged.next() }

// IsMember says whether a master of that name is in the cluster, by this master's latest configuration.
func (c *Cluster) IsMember(name string) bool {
	return slices.ContainsFunc(c.replica.servers(), func(s raft.Server) bool { return string(s.ID) == name })
}

// broadcast tells everybody who waits. The zero value is ready.
type broadcast struct {
	mu sync.Mutex
	ch chan struct{}
}

// next is closed by the next tell.
func (b *broadcast) next() <-chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch == nil {
		b.ch = make(chan struct{})
	}
	return b.ch
}

func (b *broadcast) tell() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ch != nil {
		close(b.ch)
		b.ch = nil
	}
}
