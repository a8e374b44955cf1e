package nodes

import (
	"context"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/volumes"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// A worker that runs pods whose volumes are for one node at a time asks for a lease about every second, and stops these pods when it has
// none. Masters grant none to a worker whose Node is marked as being fenced; docs/storage-fencing.md has the argument why that is enough. It
// rests on one thing here: the view in which a master looks for the mark is read, consistently, after the request has arrived.

// leaseReadTimeout limits such a read. The worker asks again.
const leaseReadTimeout = 2 * time.Second

// fresh serves consistent views to many at once: those who ask while a read is running share the next one, which begins after they asked.
type fresh struct {
	read    func(context.Context) (client.View, error)
	mu      sync.Mutex
	next    *freshRead
	running bool
}

type freshRead struct {
	done chan struct{}
	view client.View
	err  error
}

// view returns a view that has everything that was stored before the call.
func (f *fresh) view(ctx context.Context) (client.View, error) {
	f.mu.Lock()
	if f.next == nil {
		f.next = &freshRead{done: make(chan struct{})}
	}
	r := f.next
	if !f.running {
		f.running = true
		go f.run() // it ends with the last read that is waited for, at most leaseReadTimeout after that began
	}
	f.mu.Unlock()
	select {
	case <-r.done:
		return r.view, r.err
	case <-ctx.Done():
		return client.View{}, ctx.Err()
	}
}

func (f *fresh) run() {
	for {
		f.mu.Lock()
		r := f.next
		f.next, f.running = nil, r != nil
		f.mu.Unlock()
		if r == nil {
			return
		}
		r.err = contain.Run(func() (err error) {
			ctx, cancel := context.WithTimeout(context.Background(), leaseReadTimeout)
			defer cancel()
			r.view, err = f.read(ctx)
			return err
		})
		close(r.done)
	}
}

// leases answers the worker's requests for leases.
func (s *session) leases(ctx context.Context) error {
	select {
	case <-s.begun: // the Node says how long this session's leases are
	case <-ctx.Done():
		return ctx.Err()
	}
	for {
		select {
		case <-s.wantsLease:
		case <-ctx.Done():
			return ctx.Err()
		}
		number := s.leaseAsked.Load()
		limited, cancel := context.WithTimeout(ctx, leaseReadTimeout)
		view, err := s.fresh.view(limited)
		cancel()
		if err != nil || !s.mayHold(view) {
			continue
		}
		if err := s.send(&nodev1.SessionResponse{Message: &nodev1.SessionResponse_Lease{Lease: &nodev1.LeaseGrant{Number: number}}}); err != nil {
			return err
		}
	}
}

// mayHold says whether the worker may have a lease.
func (s *session) mayHold(view client.View) bool {
	node, ok := client.Get[*corev1.Node](view, "", s.node)
	return ok && s.Lease > 0 && node.Annotations[volumes.LeaseOfNode] == s.Lease.String() &&
		!metav1.HasAnnotation(node.ObjectMeta, volumes.FencingNode) && !metav1.HasAnnotation(node.ObjectMeta, volumes.FencedNode)
}

// askLease notes that the worker asks for a lease. It never blocks.
func (s *session) askLease(number uint64) {
	s.leaseAsked.Store(number)
	select {
	case s.wantsLease <- struct{}{}:
	default:
	}
}

// markLease says in a Node how long the leases of its worker are, so that those who fence it know; lease is 0 if the worker asks for none.
func markLease(node *corev1.Node, lease time.Duration) {
	if lease > 0 {
		metav1.SetMetaDataAnnotation(&node.ObjectMeta, volumes.LeaseOfNode, lease.String())
	} else {
		delete(node.Annotations, volumes.LeaseOfNode)
	}
}
