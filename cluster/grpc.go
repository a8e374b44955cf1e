package cluster

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/cluster/pki"
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
)

// maxMessage bounds one gRPC message on the mTLS port. Batches stay far below it; it must hold a largest command.
const maxMessage = 16 << 20

// secured are transport credentials for connections whose TLS handshake is already done: the port's, and the dialer's.
// They hand gRPC the peer that the handshake proved.
type secured struct{}

// peerInfo is the credentials.AuthInfo of the port's connections.
type peerInfo struct {
	credentials.CommonAuthInfo
	peer pki.Peer
}

func (peerInfo) AuthType() string { return "kontiki-mtls" }

func authInfo(p pki.Peer) peerInfo {
	return peerInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, peer: p}
}

func (secured) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if _, ok := conn.(*tls.Conn); !ok {
		return nil, nil, fmt.Errorf("connection of type %T is not TLS", conn)
	}
	return conn, authInfo(pki.Peer{Role: pki.RoleMaster}), nil
}

func (secured) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	tracked, ok := conn.(*trackedConn)
	if !ok {
		return nil, nil, fmt.Errorf("connection of type %T is not the port's", conn)
	}
	return conn, authInfo(tracked.peer), nil
}

func (secured) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}
func (s secured) Clone() credentials.TransportCredentials { return s }
func (secured) OverrideServerName(string) error           { return nil }

// Peer is who a caller on the mTLS port is, by its verified certificate.
type Peer = pki.Peer

// Roles of peers.
const (
	RoleMaster = pki.RoleMaster
	RoleWorker = pki.RoleWorker
)

// PeerFromContext is the peer of the call that a gRPC handler on the mTLS port serves.
func PeerFromContext(ctx context.Context) (Peer, bool) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return Peer{}, false
	}
	info, ok := p.AuthInfo.(peerInfo)
	if !ok || info.peer.Name == "" {
		return Peer{}, false
	}
	return info.peer, true
}

// newServer makes the gRPC server of one protocol of the port, whose callers have certificates. A handler's panic ends its call, not the
// master.
func newServer(log *slog.Logger) *grpc.Server {
	return grpc.NewServer(
		grpc.Creds(secured{}),
		grpc.MaxRecvMsgSize(maxMessage),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 2 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 10 * time.Second, Timeout: 5 * time.Second}),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
			defer recovered(log, info.FullMethod, &err)
			return handler(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
			defer recovered(log, info.FullMethod, &err)
			return handler(srv, stream)
		}),
	)
}

// What anybody who reaches the port may take of a master before a token was checked; see also maxJoiners.
const (
	maxJoinMessage = 64 << 10 // a token, names, and a certificate request
	maxJoinStreams = 4        // of one connection
	maxJoinCalls   = 16       // at a time, of all
	joinIdle       = 15 * time.Second
	joinAge        = 2 * time.Minute
)

// newJoinServer makes the gRPC server of the join protocol, whose callers nobody knows yet.
func newJoinServer(log *slog.Logger) *grpc.Server {
	calls := make(turn, maxJoinCalls)
	return grpc.NewServer(
		grpc.Creds(secured{}),
		grpc.MaxRecvMsgSize(maxJoinMessage),
		grpc.MaxConcurrentStreams(maxJoinStreams),
		grpc.MaxHeaderListSize(16<<10),
		grpc.InitialWindowSize(maxJoinMessage), grpc.InitialConnWindowSize(maxJoinMessage),
		grpc.ConnectionTimeout(joinDial),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: joinIdle, MaxConnectionAge: joinAge, MaxConnectionAgeGrace: joinCall, Time: 10 * time.Second, Timeout: 5 * time.Second,
		}),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
			defer recovered(log, info.FullMethod, &err)
			ctx, cancel := context.WithTimeout(ctx, joinCall)
			defer cancel()
			if err := calls.take(ctx); err != nil {
				return nil, status.Error(codes.ResourceExhausted, "too many hosts are joining, try again")
			}
			defer calls.leave()
			return handler(ctx, req)
		}),
	)
}

func recovered(log *slog.Logger, method string, err *error) {
	if r := recover(); r != nil {
		log.Error("a call's handler panicked", "method", method, "panic", r, "stack", string(debug.Stack()))
		*err = status.Error(codes.Internal, "internal error")
	}
}

// stopServer ends a server's calls: politely for a moment, then at once.
func stopServer(s *grpc.Server, grace time.Duration) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.GracefulStop()
	}()
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		s.Stop()
		<-done
	}
}

// connect makes a gRPC client of one protocol to one master. Nothing is dialed before the first call.
func connect(d *dialer, address, proto string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(secured{}),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return d.dial(ctx, address, proto)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		grpc.WithDisableServiceConfig(),
	)
}

// line is a connection to a master, not necessarily up.
type line interface {
	grpc.ClientConnInterface
	// up waits until the connection is up: an error means that nothing was sent.
	up(ctx context.Context) error
	Close() error
}

// grpcLine is a line over the network.
type grpcLine struct{ *grpc.ClientConn }

func (l grpcLine) up(ctx context.Context) error {
	for {
		state := l.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Shutdown:
			return errClosed
		case connectivity.Idle:
			l.Connect()
		}
		if !l.WaitForStateChange(ctx, state) {
			return ctx.Err()
		}
	}
}

// peers keeps one line to each master that was called.
type peers struct {
	connect func(address string) (line, error)
	mu      sync.Mutex
	closed  bool
	conns   map[string]line
}

func newPeers(connect func(address string) (line, error)) *peers {
	return &peers{connect: connect, conns: map[string]line{}}
}

// linesBy makes lines through a dialer.
func linesBy(d *dialer) func(address string) (line, error) {
	return func(address string) (line, error) {
		conn, err := connect(d, address, protoCluster)
		return grpcLine{conn}, err
	}
}

var errClosed = errors.New("cluster: closed")

// conn is the connection to an address, not necessarily up.
func (p *peers) conn(address string) (line, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, errClosed
	}
	if conn, ok := p.conns[address]; ok {
		return conn, nil
	}
	conn, err := p.connect(address)
	if err != nil {
		return nil, err
	}
	p.conns[address] = conn
	return conn, nil
}

// client is a client for the cluster service at an address.
func (p *peers) client(address string) (clusterv1.ClusterServiceClient, error) {
	conn, err := p.conn(address)
	if err != nil {
		return nil, err
	}
	return clusterv1.NewClusterServiceClient(conn), nil
}

// ready waits until the connection to an address is up: an error means that nothing was sent.
func (p *peers) ready(ctx context.Context, address string) (clusterv1.ClusterServiceClient, error) {
	conn, err := p.conn(address)
	if err != nil {
		return nil, err
	}
	if err := conn.up(ctx); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return clusterv1.NewClusterServiceClient(conn), nil
}

// forget closes the connections to addresses that are not in keep.
func (p *peers) forget(keep map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for address, conn := range p.conns {
		if !keep[address] {
			conn.Close()
			delete(p.conns, address)
		}
	}
}

func (p *peers) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, conn := range p.conns {
		conn.Close()
	}
}
