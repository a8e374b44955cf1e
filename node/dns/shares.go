package dns

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// shares distributes a limited number of places among clients so that none can exclude the others: each client has a limit, and
// when all places are taken, a client that has fewer takes a place from the client that has most.
type shares struct {
	total, each int

	mu    sync.Mutex
	taken int
	held  map[netip.Addr][]*place // oldest first
}

// place is one client's place. lose is called, once, if another client takes it.
type place struct {
	client netip.Addr
	lose   func()
}

func newShares(total, each int) *shares {
	return &shares{total: total, each: each, held: map[netip.Addr][]*place{}}
}

// take returns a place, or nil if the client has reached its limit. The caller must free the place, even after it was lost.
func (s *shares) take(client netip.Addr, lose func()) *place {
	s.mu.Lock()
	have := len(s.held[client])
	if have >= s.each {
		s.mu.Unlock()
		return nil
	}
	var victim *place
	if s.taken >= s.total {
		if victim = s.most(); victim == nil || len(s.held[victim.client]) <= have+1 {
			s.mu.Unlock()
			return nil
		}
		s.remove(victim)
	}
	p := &place{client: client, lose: lose}
	s.held[client] = append(s.held[client], p)
	s.taken++
	s.mu.Unlock()
	if victim != nil {
		victim.lose()
	}
	return p
}

// most returns the oldest place of the client that has most places, which is the least likely to get an answer.
func (s *shares) most() *place {
	var most []*place
	for _, places := range s.held {
		if len(places) > len(most) {
			most = places
		}
	}
	if most == nil {
		return nil
	}
	return most[0]
}

func (s *shares) free(p *place) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.remove(p)
}

// remove removes a place. The caller holds mu.
func (s *shares) remove(p *place) {
	places := s.held[p.client]
	i := slices.Index(places, p)
	if i < 0 {
		return // it was lost
	}
	s.taken--
	if places = slices.Delete(places, i, i+1); len(places) == 0 {
		delete(s.held, p.client)
	} else {
		s.held[p.client] = places
	}
}

// fairListener accepts connections within shares. A connection that gets no place is closed.
type fairListener struct {
	net.Listener
	places       *shares
	writeTimeout time.Duration
}

func (l *fairListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		p := l.places.take(addressOf(c.RemoteAddr()), func() { c.Close() })
		if p == nil {
			c.Close()
			continue
		}
		return &fairConn{Conn: c, free: sync.OnceFunc(func() { l.places.free(p) }), writeTimeout: l.writeTimeout}, nil
	}
}

// fairConn frees its place when it is closed. It sets a deadline for writes, so that a client that never reads does not block them
// (dns.Server has a WriteTimeout that it does not use).
type fairConn struct {
	net.Conn
	free         func()
	writeTimeout time.Duration
}

func (c *fairConn) Write(b []byte) (int, error) {
	if err := c.SetWriteDeadline(time.Now().Add(c.writeTimeout)); err != nil {
		return 0, err
	}
	return c.Conn.Write(b)
}

func (c *fairConn) Close() error {
	c.free()
	return c.Conn.Close()
}

// addressOf returns the IP address of a client.
func addressOf(a net.Addr) netip.Addr {
	if p, err := netip.ParseAddrPort(a.String()); err == nil {
		return p.Addr().Unmap()
	}
	return netip.Addr{}
}
