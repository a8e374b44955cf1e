package mtls

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/internal/logline"
	"github.com/kontiki/kontiki/internal/newcomers"
)

// DefaultPort is the port on which a master listens for masters and workers.
const DefaultPort = 6444

// The protocols that share the mTLS port, as ALPN names.
const (
	ProtoRaft    = "kontiki-raft/1"
	ProtoCluster = "kontiki-cluster/1"
	ProtoNode    = "kontiki-node/1"
	ProtoJoin    = "kontiki-join/1"
)

// RaftName returns the ALPN name of raft's protocol among masters that have gone through a number of recoveries. A recovery
// excludes masters for good; if one of them comes back, its raft must not reach the recovered masters.
func RaftName(recoveries uint64) string {
	if recoveries == 0 {
		return ProtoRaft
	}
	return fmt.Sprintf("%s+%d", ProtoRaft, recoveries)
}

// allowed maps a protocol to the roles that may use it; the join protocol requires no certificate.
var allowed = map[string][]pki.Role{
	ProtoRaft:    {pki.RoleMaster},
	ProtoCluster: {pki.RoleMaster},
	ProtoNode:    {pki.RoleWorker, pki.RoleMaster},
	ProtoJoin:    nil,
}

// maxHandshakes limits the connections that have not been admitted. The oldest one is closed for the next.
const maxHandshakes = 512

// MaxJoiners limits the connections of the join protocol, which requires no certificate. The oldest one of the address that has most is
// closed for the next.
const MaxJoiners = 64

// Port is the listener that all protocols share. Handshakes run outside Accept, each with a deadline. A connection whose handshake
// fails gets an answer if that can help, is logged at a limited rate, and closed. Every open connection is tracked, so that Close
// leaves none open.
type Port struct {
	bound   net.Listener
	config  *tls.Config
	log     *slog.Logger
	timeout time.Duration
	routes  map[string]*route
	raft    string // the name of ProtoRaft here

	noise   *logline.Limited
	mu      sync.Mutex
	closed  bool
	joiners []*trackedConn                   // connections of the join protocol, the oldest first
	conns   map[net.Conn][]*x509.Certificate // from raw connection to its peer's chain, which is nil before or without client authentication
	handler sync.WaitGroup

	roots func() *x509.CertPool
	// admit may refuse a peer whose certificate is otherwise valid.
	admit func(pki.Peer) error
}

// NewPort serves on a listener, and closes it when the port is closed. The functions are called at each handshake, so that renewals
// and new CAs need no restart.
func NewPort(listener net.Listener, roots func() *x509.CertPool, certificate func() (*tls.Certificate, error),
	admit func(pki.Peer) error, raft string, timeout time.Duration, log *slog.Logger) *Port {
	p := &Port{
		raft:    raft,
		roots:   roots,
		admit:   admit,
		log:     log,
		timeout: timeout,
		routes:  map[string]*route{},
		noise:   logline.NewLimited(log),
		conns:   map[net.Conn][]*x509.Certificate{},
	}
	p.bound = newcomers.Limit(listener, newcomers.Limits{Newcomers: maxHandshakes}, func(remote net.Addr) {
		p.note("too many connections in their handshake, closed the oldest", "remote", remote.String())
	})
	for name := range allowed {
		p.routes[name] = &route{port: p, queue: make(chan net.Conn), done: make(chan struct{})}
	}
	base := &tls.Config{
		MinVersion: tls.VersionTLS13,
		// A session ticket would let a client resume after its CA was dropped.
		SessionTicketsDisabled: true,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return certificate()
		},
	}
	members := base.Clone()
	members.ClientAuth = tls.RequireAndVerifyClientCert
	members.NextProtos = []string{raft, ProtoCluster, ProtoNode}
	joiners := base.Clone()
	joiners.ClientAuth = tls.NoClientCert
	joiners.NextProtos = []string{ProtoJoin}
	p.config = base.Clone()
	p.config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		for _, offered := range hello.SupportedProtos {
			if offered == ProtoJoin {
				return joiners, nil
			}
			if slices.Contains(members.NextProtos, offered) {
				config := members.Clone()
				config.ClientCAs = roots()
				return config, nil
			}
		}
		return nil, fmt.Errorf("client offers %q, not a protocol of this port", hello.SupportedProtos)
	}
	return p
}

// route is the listener for connections of one protocol whose handshake is finished.
type route struct {
	port  *Port
	queue chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func (r *route) Accept() (net.Conn, error) {
	select {
	case conn := <-r.queue:
		return conn, nil
	case <-r.done:
		return nil, net.ErrClosed
	}
}

func (r *route) Close() error {
	r.once.Do(func() { close(r.done) })
	return nil
}

func (r *route) Addr() net.Addr { return r.port.bound.Addr() }

// Joiners returns the number of open connections of the join protocol.
func (p *Port) Joiners() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.joiners)
}

// Listener returns the listener for one protocol; its connections have finished their handshake.
func (p *Port) Listener(proto string) net.Listener { return p.routes[proto] }

// Serve accepts connections until Close.
func (p *Port) Serve() error {
	for {
		conn, err := p.bound.Accept()
		if err != nil {
			if errors.Is(err, net.ErrClosed) {
				return nil
			}
			// Most likely the process is out of file descriptors, and closing others will help.
			p.note("accept failed", "error", err)
			time.Sleep(20 * time.Millisecond)
			continue
		}
		if !p.track(conn) {
			conn.Close()
			return nil
		}
		go func() {
			defer p.handler.Done()
			p.handle(conn)
		}()
	}
}

// track adds a raw connection and its handler, unless the port is closed.
func (p *Port) track(conn net.Conn) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.conns[conn] = nil
	p.handler.Add(1)
	return true
}

func (p *Port) untrack(conn net.Conn) {
	p.mu.Lock()
	delete(p.conns, conn)
	p.mu.Unlock()
}

// handle performs a connection's handshake and passes it to its route.
func (p *Port) handle(raw net.Conn) {
	conn := &trackedConn{Conn: tls.Server(raw, p.config), raw: raw, port: p}
	ctx, cancel := context.WithTimeout(context.Background(), p.timeout)
	err := conn.HandshakeContext(ctx)
	cancel()
	if err != nil {
		p.refuse(raw, err)
		conn.Close()
		return
	}
	state := conn.ConnectionState()
	proto := state.NegotiatedProtocol
	if proto == p.raft {
		proto = ProtoRaft
	}
	conn.peer, err = peerOf(state, proto)
	if err == nil && len(state.PeerCertificates) > 0 {
		err = p.admit(conn.peer)
	}
	if err != nil {
		p.note("refused a connection on the mTLS port", "remote", raw.RemoteAddr(), "protocol", proto, "error", err)
		conn.Close()
		return
	}
	if len(state.PeerCertificates) > 0 && !p.remember(raw, conn.peer, state.PeerCertificates) {
		p.note("refused a connection on the mTLS port: its certificate has just been revoked", "remote", raw.RemoteAddr(), "peer", conn.peer.Name)
		conn.Close()
		return
	}
	if proto == ProtoJoin {
		if over := p.admitJoiner(conn); over != nil {
			p.note("too many connections of hosts that join, closing one", "remote", over.RemoteAddr())
			over.Close()
		}
	}
	newcomers.Known(raw)
	route := p.routes[proto]
	select {
	case route.queue <- conn:
	case <-route.done:
		conn.Close()
	}
}

// admitJoiner counts a connection of the join protocol until it is closed, and returns one to close if there are too many: perhaps that
// one itself.
func (p *Port) admitJoiner(conn *trackedConn) (over *trackedConn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.joiners = append(p.joiners, conn)
	if len(p.joiners) <= MaxJoiners {
		return nil
	}
	host := func(c *trackedConn) string {
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		return host
	}
	counts := map[string]int{}
	for _, c := range p.joiners {
		counts[host(c)]++
	}
	over = p.joiners[0]
	for _, c := range p.joiners[1:] {
		if counts[host(c)] > counts[host(over)] {
			over = c
		}
	}
	p.joiners = slices.DeleteFunc(p.joiners, func(c *trackedConn) bool { return c == over })
	return over
}

// refuse reports why a handshake failed, to the log and to a client that sent plain HTTP.
func (p *Port) refuse(raw net.Conn, err error) {
	var header tls.RecordHeaderError
	if !errors.As(err, &header) {
		p.note("TLS handshake failed on the mTLS port", "remote", raw.RemoteAddr(), "error", err)
		return
	}
	what := "bytes that are not TLS"
	if looksLikeHTTP(header.RecordHeader[:]) {
		what = "plain HTTP"
		const body = "This is Kontiki's port for masters and workers (mTLS). The API is HTTPS, on port 6443.\n"
		_ = raw.SetWriteDeadline(time.Now().Add(time.Second))
		fmt.Fprintf(raw, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	}
	p.note("refused a connection on the mTLS port: the client sent "+what, "remote", raw.RemoteAddr())
}

func looksLikeHTTP(start []byte) bool {
	for _, method := range []string{"GET /", "HEAD ", "POST ", "PUT /", "PATCH", "DELET", "OPTIO", "PRI *", "CONNE"} {
		if bytes.HasPrefix([]byte(method), start) || bytes.HasPrefix(start, []byte(method)) {
			return true
		}
	}
	return false
}

// note logs what anyone who reaches the port can cause.
func (p *Port) note(message string, args ...any) {
	p.mu.Lock()
	closed := p.closed
	p.mu.Unlock()
	if !closed {
		p.noise.Info(message, args...)
	}
}

// remember records the chain of a connection's peer. It returns false if the peer is no longer trusted.
func (p *Port) remember(raw net.Conn, peer pki.Peer, chain []*x509.Certificate) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, ok := p.conns[raw]; !ok || p.distrusts(peer, chain) != nil {
		return false
	}
	p.conns[raw] = chain
	return true
}

// distrusts returns why a certificate that was valid at its handshake is no longer trusted. Expiry since then does not count.
func (p *Port) distrusts(peer pki.Peer, chain []*x509.Certificate) error {
	_, err := chain[0].Verify(x509.VerifyOptions{
		Roots: p.roots(), Intermediates: pki.Pool(chain[1:]...), CurrentTime: pki.IssuedAt(chain[0]), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if err == nil {
		err = p.admit(peer)
	}
	return err
}

// Recheck closes the connections of peers that are no longer trusted. Call it after CAs were dropped or certificates revoked; peers
// with a newer certificate reconnect with that.
func (p *Port) Recheck() {
	p.mu.Lock()
	var cut []net.Conn
	for raw, chain := range p.conns {
		if len(chain) == 0 {
			continue
		}
		if peer, err := pki.ParsePeer(chain[0]); err != nil || p.distrusts(peer, chain) != nil {
			cut = append(cut, raw)
		}
	}
	p.mu.Unlock()
	for _, raw := range cut {
		raw.Close() // its readers get an error
	}
}

// Close stops listening, closes every open connection, and waits for unfinished handshakes.
func (p *Port) Close() {
	p.mu.Lock()
	p.closed = true
	conns := make([]net.Conn, 0, len(p.conns))
	for conn := range p.conns {
		conns = append(conns, conn)
	}
	p.mu.Unlock()
	p.bound.Close()
	for _, r := range p.routes {
		r.Close()
	}
	for _, conn := range conns {
		conn.Close()
	}
	p.handler.Wait()
}

// trackedConn is an accepted connection whose handshake is finished.
type trackedConn struct {
	*tls.Conn
	raw  net.Conn
	port *Port
	peer pki.Peer
}

// Close closes the socket first: sending a TLS close_notify to a peer that does not read would block.
func (c *trackedConn) Close() error {
	c.port.untrack(c.raw)
	c.port.mu.Lock()
	c.port.joiners = slices.DeleteFunc(c.port.joiners, func(other *trackedConn) bool { return other == c })
	c.port.mu.Unlock()
	return c.raw.Close()
}

// peerOf returns the peer of a connection, or an error if it may not use the protocol.
func peerOf(state tls.ConnectionState, proto string) (pki.Peer, error) {
	roles, ok := allowed[proto]
	if !ok {
		return pki.Peer{}, fmt.Errorf("protocol %q is not served here", proto)
	}
	if roles == nil {
		return pki.Peer{}, nil
	}
	if len(state.PeerCertificates) == 0 {
		return pki.Peer{}, errors.New("no client certificate")
	}
	peer, err := pki.ParsePeer(state.PeerCertificates[0])
	if err != nil {
		return pki.Peer{}, err
	}
	for _, role := range roles {
		if peer.Role == role {
			return peer, nil
		}
	}
	return pki.Peer{}, fmt.Errorf("%s %q may not use %s", peer.Role, peer.Name, proto)
}
