package rpc_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/kontiki/kontiki/api/rpc"
	"github.com/kontiki/kontiki/test/harness"
)

// dialHealth serves an API whose health is that of ready, and connects to it without a credential.
func dialHealth(t *testing.T, ready func(context.Context) error, change func(*rpc.Server)) *grpc.ClientConn {
	t.Helper()
	config := harness.New(t).RPC.Config
	config.Ready = ready
	api := rpc.New(config)
	change(api)
	server := httptest.NewUnstartedServer(api)
	server.EnableHTTP2 = true
	server.StartTLS()
	t.Cleanup(server.Close)
	conn, err := grpc.NewClient(server.Listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestStrangersShareOneCheckAndTheirNumberIsLimited(t *testing.T) {
	var mu sync.Mutex
	running, most := 0, 0
	checked := make(chan struct{}, 1000)
	ready := func(context.Context) error {
		mu.Lock()
		running++
		most = max(most, running)
		mu.Unlock()
		time.Sleep(10 * time.Millisecond) // so that checks by several watches would overlap
		mu.Lock()
		running--
		mu.Unlock()
		select {
		case checked <- struct{}{}:
		default:
		}
		return errors.New("no quorum")
	}
	conn := dialHealth(t, ready, func(*rpc.Server) {})
	ctx, cancel := context.WithCancel(deadline(t))
	defer cancel()
	watches := make([]healthv1.Health_WatchClient, 100)
	var opened sync.WaitGroup
	for i := range watches {
		opened.Go(func() {
			var err error
			if watches[i], err = healthWatch(ctx, conn); err != nil {
				t.Error(err)
			}
		})
	}
	opened.Wait()
	for range 3 {
		<-checked
	}
	mu.Lock()
	if most != 1 {
		t.Errorf("%d checks ran at a time for 100 watches, want 1", most)
	}
	mu.Unlock()
	_, err := healthWatch(deadline(t), conn)
	wantCode(t, err, codes.ResourceExhausted)
	if _, err := healthv1.NewHealthClient(conn).Check(deadline(t), &healthv1.HealthCheckRequest{}); err != nil {
		t.Errorf("a check beside the watches: %v", err)
	}
	cancel()
	for {
		_, err := healthWatch(deadline(t), conn)
		if err == nil {
			break // the places of the ended watches are free
		}
		wantCode(t, err, codes.ResourceExhausted)
		if t.Failed() {
			break
		}
	}
}

func TestHealthWatchesEnd(t *testing.T) {
	conn := dialHealth(t, nil, func(s *rpc.Server) { s.SetWatches(20*time.Millisecond, time.Minute) })
	for _, service := range []string{"", "unknown"} {
		stream, err := healthv1.NewHealthClient(conn).Watch(deadline(t), &healthv1.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		for err == nil {
			_, err = stream.Recv()
		}
		wantCode(t, err, codes.Unavailable)
	}
}

// TestAHealthCheckThatPanicsEndsNothing: the check runs for all watches, in a goroutine of its own.
func TestAHealthCheckThatPanicsEndsNothing(t *testing.T) {
	conn := dialHealth(t, func(context.Context) error { panic("a mistake") }, func(*rpc.Server) {})
	stream, err := healthv1.NewHealthClient(conn).Watch(deadline(t), &healthv1.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if now, err := stream.Recv(); err != nil || now.Status != healthv1.HealthCheckResponse_NOT_SERVING {
		t.Errorf("the watch shows %v, %v", now, err)
	}
}
