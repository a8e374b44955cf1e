package rpc_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/rpc"
	"github.com/kontiki/kontiki/internal/kv"
	kontikiv1 "github.com/kontiki/kontiki/proto/kontiki/v1"
	"github.com/kontiki/kontiki/test/harness"
)

// between is a store whose proposals the test can make fail.
type between struct {
	objects.Store
	propose atomic.Pointer[func(context.Context) error]
}

func (s *between) Propose(ctx context.Context, c *kv.Command) (kv.Result, error) {
	if f := s.propose.Load(); f != nil {
		if err := (*f)(ctx); err != nil {
			return kv.Result{}, err
		}
	}
	return s.Store.Propose(ctx, c)
}

func newBetween(t *testing.T) (*harness.Harness, *between) {
	store := &between{}
	h := harness.NewOver(t, func(s objects.Store) objects.Store {
		store.Store = s
		return store
	})
	return h, store
}

func TestDeadlinesAndCancellationReachTheProposal(t *testing.T) {
	h, store := newBetween(t)
	api := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters"))
	began, ended := make(chan struct{}, 1), make(chan error, 1)
	wait := func(ctx context.Context) error {
		began <- struct{}{}
		<-ctx.Done()
		ended <- ctx.Err()
		return kv.ErrOutcomeUnknown
	}
	store.propose.Store(&wait)
	for name, test := range map[string]struct {
		run  func(context.CancelFunc)
		code codes.Code
	}{
		"cancelled": {func(cancel context.CancelFunc) { cancel() }, codes.Canceled},
		"too late":  {func(context.CancelFunc) {}, codes.DeadlineExceeded},
	} {
		t.Run(name, func(t *testing.T) {
			limit := 2 * time.Second // long enough for the call to come to the store, which is waited for
			if test.code == codes.Canceled {
				limit = 30 * time.Second
			}
			ctx, cancel := context.WithTimeout(deadline(t), limit)
			defer cancel()
			answered := make(chan error, 1)
			go func() {
				_, err := api.Create(ctx, &kontikiv1.CreateRequest{Object: configMap(t, "a", nil)})
				answered <- err
			}()
			<-began
			test.run(cancel)
			wantCode(t, <-answered, test.code)
			select {
			case <-ended:
			case <-time.After(10 * time.Second):
				t.Error("the proposal goes on")
			}
		})
	}
}

func TestWhatTheStoreCannotDoHasACodeOfItsOwn(t *testing.T) {
	h, store := newBetween(t)
	api := kontikiv1.NewObjectsClient(h.GRPC("admin", "system:masters"))
	for _, test := range []struct {
		err  error
		code codes.Code
		want string
	}{
		{kv.ErrNoLeader, codes.Unavailable, "nothing was changed"},
		{kv.ErrDiskFull, codes.Unavailable, "read-only, nothing was changed"},
		{kv.ErrOutcomeUnknown, codes.DeadlineExceeded, "the outcome of the request is unknown"},
		{kv.ErrTooLarge, codes.InvalidArgument, "too large"},
	} {
		fail := func(context.Context) error { return test.err }
		store.propose.Store(&fail)
		_, err := api.Create(deadline(t), &kontikiv1.CreateRequest{Object: configMap(t, "a", nil)})
		if status.Code(err) != test.code || !strings.Contains(status.Convert(err).Message(), test.want) {
			t.Errorf("%v: %v, want %v with %q", test.err, err, test.code, test.want)
		}
	}
	panics := func(context.Context) error { panic("a defect") }
	store.propose.Store(&panics)
	_, err := api.Create(deadline(t), &kontikiv1.CreateRequest{Object: configMap(t, "a", nil)})
	wantCode(t, err, codes.Internal)
	if strings.Contains(err.Error(), "a defect") {
		t.Errorf("%v tells what is for the log", err)
	}
	store.propose.Store(nil)
	if _, err := api.Create(deadline(t), &kontikiv1.CreateRequest{Object: configMap(t, "a", nil)}); err != nil {
		t.Errorf("after a panic: %v", err)
	}
}

func TestAServerThatStopsSaysSo(t *testing.T) {
	h := harness.New(t)
	running, stop := context.WithCancel(context.Background())
	defer stop()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithCancel(r.Context())
		defer cancel()
		defer context.AfterFunc(running, cancel)()
		h.API.ServeHTTP(w, r.WithContext(ctx))
	}))
	server.TLS, server.EnableHTTP2 = &tls.Config{ClientAuth: tls.RequestClientCert}, true
	server.StartTLS()
	defer server.Close()
	conn, err := grpc.NewClient(server.Listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	stream, err := healthWatch(deadline(t), conn)
	if err != nil {
		t.Fatal(err)
	}
	stop()
	_, err = stream.Recv()
	wantCode(t, err, codes.Unavailable)
	if message := status.Convert(err).Message(); !strings.Contains(message, "stopping") {
		t.Error(message)
	}
}

// healthWatch is a health watch that has begun.
func healthWatch(ctx context.Context, conn *grpc.ClientConn) (healthv1.Health_WatchClient, error) {
	stream, err := healthv1.NewHealthClient(conn).Watch(ctx, &healthv1.HealthCheckRequest{})
	if err == nil {
		_, err = stream.Recv()
	}
	return stream, err
}

func TestHealthSaysWhetherTheMasterServes(t *testing.T) {
	h := harness.New(t)
	var broken atomic.Bool
	config := h.RPC.Config
	config.Ready = func(context.Context) error {
		if broken.Load() {
			return errors.New("no quorum")
		}
		return nil
	}
	server := httptest.NewUnstartedServer(rpc.New(config))
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	conn, err := grpc.NewClient(server.Listener.Addr().String(), grpc.WithTransportCredentials(credentials.NewTLS(&tls.Config{InsecureSkipVerify: true})))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	api := healthv1.NewHealthClient(conn)
	stream, err := api.Watch(deadline(t), &healthv1.HealthCheckRequest{Service: "kontiki.v1.Objects"})
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []healthv1.HealthCheckResponse_ServingStatus{
		healthv1.HealthCheckResponse_SERVING, healthv1.HealthCheckResponse_NOT_SERVING, healthv1.HealthCheckResponse_SERVING,
	} {
		broken.Store(want != healthv1.HealthCheckResponse_SERVING)
		seen, err := stream.Recv()
		if err != nil || seen.Status != want {
			t.Fatalf("the watch shows %v, %v, want %v", seen, err, want)
		}
		one, err := api.Check(deadline(t), &healthv1.HealthCheckRequest{})
		if err != nil || one.Status != want {
			t.Errorf("a check answers %v, %v, want %v", one, err, want)
		}
		all, err := api.List(deadline(t), &healthv1.HealthListRequest{})
		if err != nil || all.Statuses["kontiki.v1.Pods"].GetStatus() != want {
			t.Errorf("a list answers %v, %v, want %v", all, err, want)
		}
	}
	_, err = api.Check(deadline(t), &healthv1.HealthCheckRequest{Service: "unknown"})
	wantCode(t, err, codes.NotFound)
}
