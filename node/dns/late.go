package dns

import (
	"context"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/kontiki/kontiki/node/netapi"
)

// Late is a Server whose address is not known yet: it starts once Configure provides the cluster's DNS address, which a worker gets
// from its first master (and later from its disk). Its methods are safe for concurrent use.
type Late struct {
	o Options
	// known is closed when the address is known, and given when the services are.
	known, given chan struct{}
	once         sync.Once
	patience     time.Duration

	mu       sync.Mutex
	server   *Server
	services []*corev1.Service
	slices   []*discoveryv1.EndpointSlice
}

// NewLate creates a Late; o.Address and o.Domain are ignored.
func NewLate(o Options) *Late {
	return &Late{o: o, known: make(chan struct{}), given: make(chan struct{}), patience: servicesWait}
}

// servicesWait is how long the server waits for the services of the cluster before it listens.
const servicesWait = 5 * time.Second

// SetServices implements netapi.ServiceConsumer.
func (l *Late) SetServices(services []*corev1.Service, slices []*discoveryv1.EndpointSlice) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.once.Do(func() { close(l.given) })
	l.services, l.slices = services, slices
	if l.server != nil {
		l.server.SetServices(services, slices)
	}
}

// Configure creates the server when it first gets the address. A cluster's address does not change: a worker that gets another one
// uses it after its next start.
func (l *Late) Configure(ctx context.Context, c netapi.NetworkConfig) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.server == nil && c.ClusterDNS.IsValid() {
		o := l.o
		o.Address, o.Domain = netip.AddrPortFrom(c.ClusterDNS, 53), c.ClusterDomain
		server, err := New(o)
		if err != nil {
			return err
		}
		if l.services != nil || l.slices != nil {
			server.SetServices(l.services, l.slices)
		}
		l.server = server
		close(l.known)
	}
	if l.server == nil {
		return nil
	}
	return l.server.Configure(ctx, c)
}

// Run serves from when the address is known until ctx ends. It may be called once. It waits for the services for a few seconds: a pod that asks
// while the agent restarts then asks again, as when nobody listens, and is not told that the server fails.
func (l *Late) Run(ctx context.Context) error {
	select {
	case <-l.known:
	case <-ctx.Done():
		return nil
	}
	select {
	case <-l.given:
	case <-time.After(l.patience):
	case <-ctx.Done():
		return nil
	}
	return l.server.Run(ctx)
}
