package dashboard

import (
	"net"
	"net/netip"
	"sync"

	"golang.org/x/time/rate"
)

const (
	// perClient and altogether are how many attempts to sign in are accepted, and in what bursts. Behind a load balancer all clients have one
	// address, so the former is not tight; tokens and keys are too long to be guessed, and what is limited is the work of checking them.
	perClientRate, perClientBurst   = 0.5, 20
	altogetherRate, altogetherBurst = 20, 100
	// maxClients is how many addresses are remembered.
	maxClients = 4096
)

// attempts limits how often clients try to sign in. It is safe for concurrent use.
type attempts struct {
	all *rate.Limiter

	mu      sync.Mutex
	clients map[netip.Prefix]*rate.Limiter
}

func newAttempts() *attempts {
	return &attempts{all: rate.NewLimiter(altogetherRate, altogetherBurst), clients: map[netip.Prefix]*rate.Limiter{}}
}

// allow says whether the client with this address may try now.
func (a *attempts) allow(remote string) bool {
	return a.client(remote).Allow() && a.all.Allow()
}

func (a *attempts) client(remote string) *rate.Limiter {
	prefix := network(remote)
	a.mu.Lock()
	defer a.mu.Unlock()
	limiter, ok := a.clients[prefix]
	if !ok {
		if len(a.clients) >= maxClients {
			clear(a.clients) // the limit altogether still holds
		}
		limiter = rate.NewLimiter(perClientRate, perClientBurst)
		a.clients[prefix] = limiter
	}
	return limiter
}

// network returns the address of a client, or of IPv6 the /64 that it is in. It is the zero prefix if there is none.
func network(remote string) netip.Prefix {
	host, _, err := net.SplitHostPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	addr, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}
	}
	addr = addr.Unmap().WithZone("")
	bits := addr.BitLen()
	if addr.Is6() {
		bits = 64
	}
	prefix, _ := addr.Prefix(bits)
	return prefix
}
