package harness

import (
	"crypto/tls"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
)

// GRPC returns a connection to the gRPC front, on the port of Serve, with a client certificate for a user of the groups, or without
// a credential if user is "". It is closed when the test ends.
func (h *Harness) GRPC(user string, groups ...string) *grpc.ClientConn {
	h.t.Helper()
	return h.GRPCWith(user, groups)
}

// GRPCWith is GRPC with further options.
func (h *Harness) GRPCWith(user string, groups []string, options ...grpc.DialOption) *grpc.ClientConn {
	h.t.Helper()
	h.Serve()
	config := &tls.Config{InsecureSkipVerify: true, MinVersion: tls.VersionTLS12}
	if user != "" {
		cert, key := h.issue(user, groups)
		pair, err := tls.X509KeyPair(cert, key)
		h.must(err)
		config.Certificates = []tls.Certificate{pair}
	}
	conn, err := grpc.NewClient(h.server.Listener.Addr().String(), append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(config)), grpc.WithUserAgent("harness/1"),
	}, options...)...)
	h.must(err)
	h.t.Cleanup(func() { conn.Close() })
	return conn
}

// TLS returns the TLS configuration of Serve.
func (h *Harness) TLS() *tls.Config { return h.server.TLS.Clone() }
