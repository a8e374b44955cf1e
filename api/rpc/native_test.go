package rpc_test

import (
	"context"
	"crypto/tls"
	"net"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/health"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/kontiki/kontiki/test/harness"
)

// BenchmarkTransport measures a call that does nothing, by this front and by a plain grpc-go server with the same TLS. The
// difference is the cost of sharing REST's port.
func BenchmarkTransport(b *testing.B) {
	check := func(b *testing.B, conn *grpc.ClientConn) {
		api := healthv1.NewHealthClient(conn)
		if _, err := api.Check(context.Background(), &healthv1.HealthCheckRequest{}); err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		b.ResetTimer()
		for range b.N {
			if _, err := api.Check(context.Background(), &healthv1.HealthCheckRequest{}); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.Run("shared", func(b *testing.B) { check(b, harness.New(b).GRPC("admin", "system:masters")) })
	b.Run("own", func(b *testing.B) {
		h := harness.New(b)
		h.Serve()
		server := grpc.NewServer(grpc.Creds(credentials.NewTLS(h.TLS())))
		healthv1.RegisterHealthServer(server, health.NewServer())
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		served := make(chan error, 1)
		go func() { served <- server.Serve(listener) }()
		conn, err := grpc.NewClient(listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
		if err != nil {
			b.Fatal(err)
		}
		check(b, conn)
		b.StopTimer()
		conn.Close()
		server.Stop()
		if err := <-served; err != nil {
			b.Error(err)
		}
	})
}
