package dns

import (
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// shares gives a bounded number of places to clients, none of which can keep the others out: a client has a bound of its
// own, and when all places are taken, one that has fewer takes a place from the client that has most.
type shares struct {
	total, each int

	mu    sync.Mutex
	taken int
	held  map[netip.Addr][]*place // oldest first
}

// place is one client's. lose is called, once, if another client takes it.
type place struct {
	client netip.Addr
	lose   func()
}

func newShares(total, each int) *shares {
	return &shares{total: total, each: each, held: map[netip.Addr][]*place{}}
}

// take returns a place, or nil when the client has its share. Whoever has one frees it, also after it was lost.
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

// most returns the oldest place of the client that has most, which is the one that most surely waits in vain.
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

// remove is called with mu held.
func (s *shares) remove(p *place) {
	places := s.held[p.client]
	i := slices.Index(places, p)
	if i < 0 {
		return // lost
	}
	s.taken--
	if places = slices.Delete(places, i, i+1); len(places) == 0 {
		delete(s.held, p.client)
	} else {
		s.held[p.client] = places
	}
}

// fairListener accepts connections within shares. One that finds no place is closed.
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

// fairConn frees its place when it is closed, and does not wait for a client that never reads (dns.Server has a
// WriteTimeout, which it does not use).
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
