package localgrpc

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// service panics when it is asked for a service of that name.
// service panics where the test asks for it, to see that a panic ends one request.
type service struct {
	grpc_health_v1.UnimplementedHealthServer
}

func (service) Check(_ context.Context, r *grpc_health_v1.HealthCheckRequest) (*grpc_health_v1.HealthCheckResponse, error) {
	if r.Service == "panic" {
		panic("here")
	}
	return &grpc_health_v1.HealthCheckResponse{Status: grpc_health_v1.HealthCheckResponse_SERVING}, nil
}

func (service) Watch(*grpc_health_v1.HealthCheckRequest, grpc_health_v1.Health_WatchServer) error {
	panic("there")
}

func TestServeLimitsCallers(t *testing.T) {
	top, err := os.MkdirTemp("", "lg")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	dir := filepath.Join(top, strings.Repeat("a-long-name/", 10))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "s.sock"), []byte("left by another agent"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, Config{Dir: dir, Socket: "s.sock", Limit: 1e-9, Burst: 5}, func(s *grpc.Server) { grpc_health_v1.RegisterHealthServer(s, service{}) })
	}()
	link := filepath.Join(top, "d")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix:"+filepath.Join(link, "s.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := grpc_health_v1.NewHealthClient(conn)
	check := func(name string) error {
		_, err := c.Check(t.Context(), &grpc_health_v1.HealthCheckRequest{Service: name}, grpc.WaitForReady(true))
		return err
	}
	if err := check(""); err != nil {
		t.Fatal(err)
	}
	if err := check("panic"); err == nil || check("") != nil {
		t.Errorf("a panic: %v", err)
	}
	if err := check(strings.Repeat("x", maxRequestBytes)); status.Code(err) != codes.ResourceExhausted || !strings.Contains(err.Error(), "larger than max") {
		t.Errorf("a large request: %v", err)
	}
	if w, err := c.Watch(t.Context(), &grpc_health_v1.HealthCheckRequest{}); err != nil {
		t.Error(err)
	} else if _, err := w.Recv(); err == nil {
		t.Error("a panic in a stream is no error")
	}
	var last error
	for range 5 {
		last = check("")
	}
	if status.Code(last) != codes.ResourceExhausted || !strings.Contains(last.Error(), "rejected by rate limit") {
		t.Errorf("more requests than the limit: %v", last)
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := os.Lstat(filepath.Join(dir, "s.sock")); !os.IsNotExist(err) {
		t.Errorf("the socket stays: %v", err)
	}
}
