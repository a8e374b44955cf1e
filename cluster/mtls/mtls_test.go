package mtls

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/cluster/pki"
)

const patience = 30 * time.Second

// testPort is a port on loopback that a test serves.
type testPort struct {
	*Port
	ca      *pki.Authority
	address string
	refuses atomic.Bool // whether admit refuses everybody
}

func serve(t *testing.T) *testPort {
	t.Helper()
	ca, err := pki.NewAuthority("test")
	if err != nil {
		t.Fatal(err)
	}
	own := issued(t, func() (*pki.KeyPair, error) { return ca.IssueMaster("master-1", []string{"127.0.0.1"}) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &testPort{ca: ca, address: listener.Addr().String()}
	p.Port = NewPort(listener, ca.Pool, own, func(pki.Peer) error {
		if p.refuses.Load() {
			return errors.New("it was revoked")
		}
		return nil
	}, RaftName(0), patience, slog.New(slog.DiscardHandler))
	served := make(chan error, 1)
	go func() { served <- p.Serve() }()
	t.Cleanup(func() {
		p.Close()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
	return p
}

// issued returns a certificate that is issued once.
func issued(t *testing.T, issue func() (*pki.KeyPair, error)) func() (*tls.Certificate, error) {
	t.Helper()
	pair, err := issue()
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := pair.TLS()
	if err != nil {
		t.Fatal(err)
	}
	return func() (*tls.Certificate, error) { return &certificate, nil }
}

// as returns a dialer with the certificate of a master, of an API client, or of a worker.
func (p *testPort) as(t *testing.T, role string) *Dialer {
	t.Helper()
	var certificate func() (*tls.Certificate, error)
	switch role {
	case "master":
		certificate = issued(t, func() (*pki.KeyPair, error) { return p.ca.IssueMaster("master-2", []string{"127.0.0.1"}) })
	case "client":
		certificate = issued(t, func() (*pki.KeyPair, error) { return p.ca.IssueClient("admin", []string{"system:masters"}) })
	case "worker":
		key, csr, err := pki.NewRequest("worker-1")
		if err != nil {
			t.Fatal(err)
		}
		client, _, err := p.ca.SignWorker(csr, "worker-1", []string{"worker-1"}, 0)
		if err != nil {
			t.Fatal(err)
		}
		pair, err := tls.X509KeyPair(client, key)
		if err != nil {
			t.Fatal(err)
		}
		certificate = func() (*tls.Certificate, error) { return &pair, nil }
	}
	return &Dialer{Roots: p.ca.Pool, Certificate: certificate}
}

// closed waits until the other end has closed a connection.
func closed(t *testing.T, conn net.Conn) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection stays open")
	}
}

// TestWhoMaySpeakWhat: each protocol is restricted to its roles, by the certificate.
func TestWhoMaySpeakWhat(t *testing.T) {
	p := serve(t)
	accepted := make(chan string)
	for _, proto := range []string{ProtoRaft, ProtoCluster, ProtoNode} {
		go func() {
			for {
				conn, err := p.Listener(proto).Accept()
				if err != nil {
					return
				}
				accepted <- proto
				conn.Close()
			}
		}()
	}
	for _, x := range []struct {
		role, proto string
		may         bool
	}{
		{"master", ProtoRaft, true}, {"master", ProtoCluster, true}, {"master", ProtoNode, true},
		{"worker", ProtoRaft, false}, {"worker", ProtoCluster, false}, {"worker", ProtoNode, true},
		{"client", ProtoRaft, false}, {"client", ProtoCluster, false}, {"client", ProtoNode, false},
	} {
		conn, err := p.as(t, x.role).Dial(t.Context(), p.address, x.proto)
		if err != nil {
			if x.may {
				t.Errorf("%s speaks %s: %v", x.role, x.proto, err)
			}
			continue
		}
		if x.may {
			if got := <-accepted; got != x.proto {
				t.Errorf("%s speaks %s, and reaches %s", x.role, x.proto, got)
			}
		}
		closed(t, conn)
		conn.NetConn().Close()
		select {
		case got := <-accepted:
			t.Errorf("%s speaks %s, and reaches %s", x.role, x.proto, got)
		default:
		}
	}
}

// TestSilentConnectionsKeepNobodyOut: whoever reaches the port can open connections without end; the oldest makes room.
func TestSilentConnectionsKeepNobodyOut(t *testing.T) {
	p := serve(t)
	go func() {
		for {
			conn, err := p.Listener(ProtoNode).Accept()
			if err != nil {
				return
			}
			defer conn.Close()
		}
	}()
	var oldest net.Conn
	for i := range maxHandshakes + 10 {
		conn, err := net.Dial("tcp", p.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i == 0 {
			oldest = conn
		}
	}
	worker, err := p.as(t, "worker").Dial(t.Context(), p.address, ProtoNode)
	if err != nil {
		t.Fatalf("a worker is kept out: %v", err)
	}
	defer worker.NetConn().Close()
	closed(t, oldest)
}

// TestADialerTrustsMastersOfItsClusterOnly: not those of another cluster, and no server of this cluster that is not a master.
func TestADialerTrustsMastersOfItsClusterOnly(t *testing.T) {
	p, other := serve(t), serve(t)
	if _, err := p.as(t, "master").Dial(t.Context(), other.address, ProtoCluster); err == nil {
		t.Error("a master of another cluster was trusted")
	}
	serving, err := p.ca.IssueServing("kontiki-api", []string{"127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := serving.TLS()
	if err != nil {
		t.Fatal(err)
	}
	if err := VerifyMaster(tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf.Leaf}}, p.ca.Pool()); err == nil {
		t.Error("the API's serving certificate was taken for a master's")
	}
}

// TestConnectionsEndWithTheirTrust: an open connection is closed when its certificate is no longer admitted.
func TestConnectionsEndWithTheirTrust(t *testing.T) {
	p := serve(t)
	conn, err := p.as(t, "worker").Dial(t.Context(), p.address, ProtoNode)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.NetConn().Close()
	accepted, err := p.Listener(ProtoNode).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	p.Recheck()
	if _, err := accepted.Write([]byte("still there")); err != nil {
		t.Errorf("a connection that is trusted was closed: %v", err)
	}
	p.refuses.Store(true)
	p.Recheck()
	closed(t, conn)
	again, err := p.as(t, "worker").Dial(t.Context(), p.address, ProtoNode)
	if err == nil {
		closed(t, again)
		again.NetConn().Close()
	}
}

// TestHandlersLearnWhoCalls, and a panic in a handler ends only its call.
func TestHandlersLearnWhoCalls(t *testing.T) {
	p := serve(t)
	server := NewServer(slog.New(slog.DiscardHandler))
	callers := make(chan pki.Peer, 1)
	healthv1.RegisterHealthServer(server, checked{Server: health.NewServer(), callers: callers})
	served := make(chan error, 1)
	go func() { served <- server.Serve(p.Listener(ProtoNode)) }()
	defer func() { StopServer(server, time.Second); <-served }()
	line, err := Connect(p.as(t, "worker"), p.address, ProtoNode)
	if err != nil {
		t.Fatal(err)
	}
	defer line.Close()
	client := healthv1.NewHealthClient(line)
	if _, err := client.Check(t.Context(), &healthv1.HealthCheckRequest{Service: "panic"}, grpc.WaitForReady(true)); status.Code(err) != codes.Internal {
		t.Errorf("a handler that panics: %v", err)
	}
	if _, err := client.Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("the call after it: %v", err)
	}
	if caller := <-callers; caller != (pki.Peer{Role: pki.RoleWorker, Name: "worker-1"}) {
		t.Errorf("the caller is %+v", caller)
	}
}

type checked struct {
	*health.Server
	callers chan<- pki.Peer
}

func (c checked) Check(ctx context.Context, r *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	if r.Service == "panic" {
		panic("a handler's mistake") // what is tested: it ends the call alone
	}
	caller, _ := PeerFromContext(ctx)
	c.callers <- caller
	return c.Server.Check(ctx, r)
}

// TestLinesAreKeptAndForgotten: one line to each address, as long as it is wanted.
func TestLinesAreKeptAndForgotten(t *testing.T) {
	p := serve(t)
	server := NewServer(slog.New(slog.DiscardHandler))
	served := make(chan error, 1)
	go func() { served <- server.Serve(p.Listener(ProtoCluster)) }()
	defer func() { StopServer(server, time.Second); <-served }()
	lines := NewLines(DialedBy(p.as(t, "master")))
	first, err := lines.Ready(t.Context(), p.address)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := lines.Line(p.address); err != nil || again != first {
		t.Errorf("a second line to one address: %v", err)
	}
	lines.Forget(map[string]bool{p.address: true})
	if kept, err := lines.Line(p.address); err != nil || kept != first {
		t.Errorf("a line that is to be kept was let go: %v", err)
	}
	lines.Forget(nil)
	if err := first.Up(t.Context()); !errors.Is(err, ErrClosed) {
		t.Errorf("a line that was let go: %v", err)
	}
	lines.Close()
	if _, err := lines.Line(p.address); !errors.Is(err, ErrClosed) {
		t.Errorf("a line of what is closed: %v", err)
	}
}

// TestAWorkersCallsAreFewAndBegin: a call whose first message does not arrive ends, and a worker has few calls over all connections.
func TestAWorkersCallsAreFewAndBegin(t *testing.T) {
	for name, c := range map[string]struct {
		first time.Duration
		calls int
		want  codes.Code
	}{
		"without a message": {50 * time.Millisecond, 1, codes.Canceled},
		"too many":          {time.Hour, maxWorkerCalls + 1, codes.ResourceExhausted},
	} {
		t.Run(name, func(t *testing.T) {
			p := serve(t)
			server := newWorkerServer(slog.New(slog.DiscardHandler), c.first)
			healthv1.RegisterHealthServer(server, health.NewServer())
			served := make(chan error, 1)
			go func() { served <- server.Serve(p.Listener(ProtoNode)) }()
			defer func() { server.Stop(); <-served }()
			ended := make(chan error, c.calls)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			for done := 0; done < c.calls; done += maxWorkerStreams {
				line, err := Connect(p.as(t, "worker"), p.address, ProtoNode)
				if err != nil {
					t.Fatal(err)
				}
				defer line.Close()
				for range min(maxWorkerStreams, c.calls-done) {
					stream, err := line.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true}, healthv1.Health_Check_FullMethodName, grpc.WaitForReady(true))
					if err != nil {
						t.Fatal(err)
					}
					go func() { ended <- stream.RecvMsg(&healthv1.HealthCheckResponse{}) }()
				}
			}
			select {
			case err := <-ended:
				if status.Code(err) != c.want {
					t.Errorf("a call ended with %v, want %v", err, c.want)
				}
			case <-time.After(30 * time.Second):
				t.Error("all calls are open")
			}
		})
	}
}

// TestEndedCallsOfAWorkerAreForgotten: the limit is of open calls; those that returned, or whose connection closed, do not count.
func TestEndedCallsOfAWorkerAreForgotten(t *testing.T) {
	p := serve(t)
	server := NewWorkerServer(slog.New(slog.DiscardHandler))
	healthv1.RegisterHealthServer(server, health.NewServer())
	served := make(chan error, 1)
	go func() { served <- server.Serve(p.Listener(ProtoNode)) }()
	defer func() { server.Stop(); <-served }()
	for range 5 {
		line, err := Connect(p.as(t, "worker"), p.address, ProtoNode)
		if err != nil {
			t.Fatal(err)
		}
		client := healthv1.NewHealthClient(line)
		for range 20 {
			stream, err := client.Watch(t.Context(), &healthv1.HealthCheckRequest{}, grpc.WaitForReady(true))
			if err == nil {
				_, err = stream.Recv()
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		for range maxWorkerCalls {
			if _, err := client.Check(t.Context(), &healthv1.HealthCheckRequest{}); err != nil {
				t.Fatal(err)
			}
		}
		line.Close()
	}
}
