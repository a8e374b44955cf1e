package cluster

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// followingWorker is a worker that is or was connected to this master by a stream.
type followingWorker struct {
	name, address string
	streams       int
	left          bool // it announced that it stops
	since         time.Time
	// generation, issuer, renewal and notAfter are as the worker reported them.
	generation uint64
	issuer     string
	renewal    uint64
	notAfter   time.Time
}

// forgottenAfter is how long a worker without a stream is kept.
const forgottenAfter = 24 * time.Hour

// followingWorkers are the workers that call TrustService.Follow on this master. The zero value is ready to use.
type followingWorkers struct {
	mu    sync.Mutex
	known map[string]*followingWorker
}

// begin counts a new stream of a worker, end its end.
func (f *followingWorkers) begin(name string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.known == nil {
		f.known = map[string]*followingWorker{}
	}
	w := f.known[name]
	if w == nil {
		w = &followingWorker{name: name}
		f.known[name] = w
	}
	if w.streams++; w.streams == 1 {
		w.left, w.since = false, time.Now()
	}
	for name, other := range f.known {
		if other.streams == 0 && time.Since(other.since) > forgottenAfter {
			delete(f.known, name)
		}
	}
}

func (f *followingWorkers) end(name string, left bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.known[name]
	if w.streams--; w.streams == 0 {
		w.left, w.since = left, time.Now()
	}
}

// heard stores a worker's report.
func (f *followingWorkers) heard(name string, r *clusterv1.FollowRequest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	w := f.known[name]
	w.generation, w.issuer, w.renewal, w.notAfter = r.Generation, r.Issuer, r.Renewal, time.Unix(r.NotAfter, 0).UTC()
	w.address = r.Address
}

// all returns every known worker.
func (f *followingWorkers) all() map[string]followingWorker {
	f.mu.Lock()
	defer f.mu.Unlock()
	known := make(map[string]followingWorker, len(f.known))
	for name, w := range f.known {
		known[name] = *w
	}
	return known
}

// trustService tells workers which CAs to trust and which gossip keys to use.
type trustService struct {
	clusterv1.UnimplementedTrustServiceServer
	c *Cluster
}

func (s trustService) Follow(stream clusterv1.TrustService_FollowServer) error {
	caller, ok := mtls.PeerFromContext(stream.Context())
	if !ok || caller.Role != pki.RoleWorker {
		return status.Error(codes.PermissionDenied, "only a worker follows")
	}
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	c := s.c
	c.workers.begin(caller.Name)
	left := false
	defer func() { c.workers.end(caller.Name, left) }()
	ctx, cancel := context.WithCancel(stream.Context())
	var sending sync.WaitGroup
	sending.Go(func() { c.tellTrust(ctx, stream) })
	defer sending.Wait()
	defer cancel()
	for request := first; ; {
		c.workers.heard(caller.Name, request)
		left = request.Leaving
		if request, err = stream.Recv(); err != nil {
			return err
		}
	}
}

// tellTrust sends the present trust, and sends it again whenever it changes.
func (c *Cluster) tellTrust(ctx context.Context, stream clusterv1.TrustService_FollowServer) {
	for {
		id := c.identity.Now()
		workersGossip, changed := c.trust.get()
		err := stream.Send(&clusterv1.FollowResponse{
			Generation: id.Generation, CaCertificates: id.RootsPEM(), GossipKeys: id.GossipKeys, Issuer: id.CA.Pin(), Renewal: id.Renewals,
			WorkersGossip: workersGossip, Masters: c.MasterAddresses(), Gossip: c.gossipSeeds(),
		})
		if err != nil {
			return // the receiver gets the error
		}
		select {
		case <-id.Changed:
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}
