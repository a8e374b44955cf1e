package mtls

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"runtime/debug"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/cluster/pki"
)

// maxMessage limits one gRPC message on the mTLS port, in bytes. Batches stay far below it; the largest command must fit.
const maxMessage = 16 << 20

// The windows of HTTP/2, in bytes: how much a sender may send before the receiver has read it. They are fixed, since gRPC measures a
// connection whose windows may grow by a ping for whatever arrives, which doubles the packets of heartbeats. A stream's window suffices
// for 1 Gbit/s with a round trip of 16 ms.
const (
	streamWindow     = 2 << 20
	connectionWindow = 4 << 20
)

// Secured are transport credentials for connections whose TLS handshake is already done: the port's, and the dialer's. They pass
// the peer that the handshake authenticated to gRPC.
type Secured struct{}

// peerInfo is the credentials.AuthInfo of the port's connections.
type peerInfo struct {
	credentials.CommonAuthInfo
	peer pki.Peer
}

func (peerInfo) AuthType() string { return "kontiki-mtls" }

func AuthInfo(p pki.Peer) peerInfo {
	return peerInfo{CommonAuthInfo: credentials.CommonAuthInfo{SecurityLevel: credentials.PrivacyAndIntegrity}, peer: p}
}

func (Secured) ClientHandshake(_ context.Context, _ string, conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	if _, ok := conn.(*tls.Conn); !ok {
		return nil, nil, fmt.Errorf("connection of type %T is not TLS", conn)
	}
	return conn, AuthInfo(pki.Peer{Role: pki.RoleMaster}), nil
}

func (Secured) ServerHandshake(conn net.Conn) (net.Conn, credentials.AuthInfo, error) {
	tracked, ok := conn.(*trackedConn)
	if !ok {
		return nil, nil, fmt.Errorf("connection of type %T is not the port's", conn)
	}
	return conn, AuthInfo(tracked.peer), nil
}

func (Secured) Info() credentials.ProtocolInfo {
	return credentials.ProtocolInfo{SecurityProtocol: "tls"}
}
func (s Secured) Clone() credentials.TransportCredentials { return s }
func (Secured) OverrideServerName(string) error           { return nil }

// Peer identifies a caller on the mTLS port by its verified certificate.
type Peer = pki.Peer

// Roles of peers.
const (
	RoleMaster = pki.RoleMaster
	RoleWorker = pki.RoleWorker
)

// PeerFromContext returns the peer of the call that a gRPC handler on the mTLS port serves.
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

// NewServer creates the gRPC server for masters. If a handler panics, its call fails and the master continues.
func NewServer(log *slog.Logger) *grpc.Server {
	return newServer(log, maxMessage)
}

// Limits for workers. A message may be held in memory for each call, so a worker holds at most the product of its calls and a
// message. A call's first message must arrive within firstMessage.
const (
	MaxWorkerMessage = 2 << 20
	maxWorkerStreams = 32 // per connection; a client waits for a free one
	maxWorkerCalls   = 96 // of one worker, over all its connections
	firstMessage     = 10 * time.Second
)

// NewWorkerServer creates the gRPC server for workers.
func NewWorkerServer(log *slog.Logger) *grpc.Server {
	return newWorkerServer(log, firstMessage)
}

func newWorkerServer(log *slog.Logger, first time.Duration) *grpc.Server {
	calls := workerCalls{first: first, of: map[string]int{}}
	return newServer(log, MaxWorkerMessage, grpc.MaxConcurrentStreams(maxWorkerStreams), grpc.MaxHeaderListSize(64<<10),
		grpc.InTapHandle(calls.begin), grpc.ChainUnaryInterceptor(calls.unary), grpc.ChainStreamInterceptor(calls.stream))
}

func newServer(log *slog.Logger, message int, options ...grpc.ServerOption) *grpc.Server {
	return grpc.NewServer(append(options,
		grpc.Creds(Secured{}),
		grpc.MaxRecvMsgSize(message),
		grpc.StaticStreamWindowSize(streamWindow), grpc.StaticConnWindowSize(connectionWindow),
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
	)...)
}

// Limits for clients that reach the port and have not presented a valid token yet; see also MaxJoiners.
const (
	MaxJoinMessage = 64 << 10 // a token, names, and a certificate request
	maxJoinStreams = 4        // per connection
	maxJoinCalls   = 16       // concurrently, in total
	joinIdle       = 15 * time.Second
	joinAge        = 2 * time.Minute
	joinHandshake  = 5 * time.Second // of HTTP/2
)

// JoinCall is the time limit of one call of the join protocol, on both sides.
const JoinCall = 30 * time.Second

// NewJoinServer creates the gRPC server of the join protocol, whose callers are not authenticated yet.
func NewJoinServer(log *slog.Logger) *grpc.Server {
	calls := semaphore.NewWeighted(maxJoinCalls)
	return grpc.NewServer(
		grpc.Creds(Secured{}),
		grpc.MaxRecvMsgSize(MaxJoinMessage),
		grpc.MaxConcurrentStreams(maxJoinStreams),
		grpc.MaxHeaderListSize(16<<10),
		grpc.InitialWindowSize(MaxJoinMessage), grpc.InitialConnWindowSize(MaxJoinMessage),
		grpc.ConnectionTimeout(joinHandshake),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 10 * time.Second}),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionIdle: joinIdle, MaxConnectionAge: joinAge, MaxConnectionAgeGrace: JoinCall, Time: 10 * time.Second, Timeout: 5 * time.Second,
		}),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
			defer recovered(log, info.FullMethod, &err)
			ctx, cancel := context.WithTimeout(ctx, JoinCall)
			defer cancel()
			if err := calls.Acquire(ctx, 1); err != nil {
				return nil, status.Error(codes.ResourceExhausted, "too many hosts are joining, try again")
			}
			defer calls.Release(1)
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

// StopServer lets a server's calls finish for the grace period, then ends them.
func StopServer(s *grpc.Server, grace time.Duration) {
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
