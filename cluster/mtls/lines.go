package mtls

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/keepalive"
)

// Connect creates a gRPC client for one protocol of one master. It does not dial before the first call.
func Connect(d *Dialer, address, proto string) (*grpc.ClientConn, error) {
	return grpc.NewClient("passthrough:///"+address,
		grpc.WithTransportCredentials(Secured{}),
		grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
			return d.Dial(ctx, address, proto)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithStaticStreamWindowSize(streamWindow), grpc.WithStaticConnWindowSize(connectionWindow),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second},
			MinConnectTimeout: 2 * time.Second,
		}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true}),
		grpc.WithDisableServiceConfig(),
	)
}

// Line is a connection to a master, which may not be established yet.
type Line interface {
	grpc.ClientConnInterface
	// Up waits until the connection is established. After an error nothing was sent.
	Up(ctx context.Context) error
	Close() error
}

// grpcLine is a Line over the network.
type grpcLine struct{ *grpc.ClientConn }

func (l grpcLine) Up(ctx context.Context) error {
	for {
		state := l.GetState()
		switch state {
		case connectivity.Ready:
			return nil
		case connectivity.Shutdown:
			return ErrClosed
		case connectivity.Idle:
			l.Connect()
		}
		if !l.WaitForStateChange(ctx, state) {
			return ctx.Err()
		}
	}
}

// Lines keeps one line to each master that was called.
type Lines struct {
	connect func(address string) (Line, error)
	mu      sync.Mutex
	closed  bool
	conns   map[string]Line
}

func NewLines(connect func(address string) (Line, error)) *Lines {
	return &Lines{connect: connect, conns: map[string]Line{}}
}

// DialedBy returns a function that creates lines with a dialer.
func DialedBy(d *Dialer) func(address string) (Line, error) {
	return func(address string) (Line, error) {
		conn, err := Connect(d, address, ProtoCluster)
		return grpcLine{conn}, err
	}
}

var ErrClosed = errors.New("cluster: closed")

// Line returns the connection to an address, which may not be established yet.
func (p *Lines) Line(address string) (Line, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, ErrClosed
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

// Ready waits until the connection to an address is established. After an error nothing was sent.
func (p *Lines) Ready(ctx context.Context, address string) (Line, error) {
	conn, err := p.Line(address)
	if err != nil {
		return nil, err
	}
	if err := conn.Up(ctx); err != nil {
		return nil, fmt.Errorf("connect to %s: %w", address, err)
	}
	return conn, nil
}

// Forget closes the connections to addresses that are not in keep.
func (p *Lines) Forget(keep map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for address, conn := range p.conns {
		if !keep[address] {
			conn.Close()
			delete(p.conns, address)
		}
	}
}

func (p *Lines) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, conn := range p.conns {
		conn.Close()
	}
}
