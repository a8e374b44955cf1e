package hollow

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/kontiki/kontiki/node/netapi"
)

// network gives pods addresses of the node's range, and connects nothing. Its zero value is ready.
type network struct {
	mu   sync.Mutex
	free []netip.Addr // addresses that pods had
	next netip.Addr
	last netip.Prefix
	pods map[string]netip.Addr // by UID
}

var errNoRange = errors.New("the node has no range of pod addresses yet")

// AddPod implements netapi.Network.
func (n *network) AddPod(_ context.Context, p netapi.PodNetwork) (netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a, ok := n.pods[p.UID]; ok {
		return a, nil
	}
	if !n.last.IsValid() {
		return netip.Addr{}, errNoRange
	}
	var a netip.Addr
	if len(n.free) > 0 {
		a, n.free = n.free[0], n.free[1:]
	} else if a = n.next; !n.last.Contains(a) {
		return netip.Addr{}, fmt.Errorf("the range %s has no free address", n.last)
	} else {
		n.next = a.Next()
	}
	n.pods[p.UID] = a
	return a, nil
}

// DelPod implements netapi.Network.
func (n *network) DelPod(_ context.Context, uid string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if a, ok := n.pods[uid]; ok {
		delete(n.pods, uid)
		if n.last.Contains(a) {
			n.free = append(n.free, a)
		}
	}
	return nil
}

// Sweep implements netapi.Network. Nothing is left of earlier processes.
func (n *network) Sweep(context.Context, []string) error { return nil }

// Configure implements netapi.Network.
func (n *network) Configure(_ context.Context, c netapi.NetworkConfig) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.pods == nil {
		n.pods = map[string]netip.Addr{}
	}
	if c.PodCIDR != n.last {
		n.last, n.free = c.PodCIDR, nil
		n.next = c.PodCIDR.Addr().Next().Next() // after the range's own address and the bridge's
	}
	return nil
}
