package mtls

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// Stream carries raft's own protocol over the mTLS port. It tracks the outgoing connections, because raft's transport leaves them
// open when it is closed, and because closing them is the only way to end a call to a peer that hangs.
type Stream struct {
	net.Listener
	advertise net.Addr
	dialer    *Dialer
	proto     string // see RaftName

	mu        sync.Mutex
	closed    bool
	suspended bool
	conns     map[*outgoing]struct{}
}

type outgoing struct {
	*tls.Conn
	layer  *Stream
	target raft.ServerAddress
}

func NewStream(accepted net.Listener, advertise string, d *Dialer, proto string) *Stream {
	return &Stream{Listener: accepted, advertise: hostPort(advertise), dialer: d, proto: proto, conns: map[*outgoing]struct{}{}}
}

// hostPort is an advertised address as a net.Addr; it need not be an IP address.
type hostPort string

func (hostPort) Network() string  { return "tcp" }
func (h hostPort) String() string { return string(h) }

func (s *Stream) Addr() net.Addr { return s.advertise }

// Dial implements raft.StreamLayer.
func (s *Stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	s.mu.Lock()
	suspended := s.suspended
	s.mu.Unlock()
	if suspended {
		return nil, ErrSuspended
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	conn, err := s.dialer.Dial(ctx, string(address), s.proto)
	if err != nil {
		return nil, err
	}
	out := &outgoing{Conn: conn, layer: s, target: address}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.suspended {
		conn.NetConn().Close()
		return nil, net.ErrClosed
	}
	s.conns[out] = struct{}{}
	return out, nil
}

// Close closes the socket of an outgoing connection at once: sending a TLS close_notify to a hung peer would block.
func (o *outgoing) Close() error {
	o.layer.mu.Lock()
	delete(o.layer.conns, o)
	o.layer.mu.Unlock()
	return o.NetConn().Close()
}

var ErrSuspended = errors.New("this master's disk has stalled")

// Suspend(true) ends all outgoing calls and refuses new ones, until Suspend(false).
func (s *Stream) Suspend(suspended bool) {
	s.mu.Lock()
	was := s.suspended
	s.suspended = suspended
	s.mu.Unlock()
	if suspended && !was {
		s.Cut("")
	}
}

// Cut closes the outgoing connections to one peer, or to all if target is empty, so that calls in flight fail now.
func (s *Stream) Cut(target raft.ServerAddress) {
	s.mu.Lock()
	var cut []*outgoing
	for conn := range s.conns {
		if target == "" || conn.target == target {
			cut = append(cut, conn)
		}
	}
	s.mu.Unlock()
	for _, conn := range cut {
		conn.Close()
	}
}

// Close implements net.Listener. It also closes the outgoing connections.
func (s *Stream) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.Cut("")
	return s.Listener.Close()
}
