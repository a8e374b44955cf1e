package rpc

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/internal/broadcast"
	"github.com/kontiki/kontiki/internal/contain"
)

// healthPeriod is the interval at which the health is checked while somebody watches it.
const healthPeriod = time.Second

// maxStrangers limits the watches of the health by callers without a credential, and their checks in flight.
const maxStrangers = 100

var errHealthWatchOver = errors.New("the watch has reached its maximum duration; start another")

// health implements grpc.health.v1: a master is SERVING while it can reach a quorum.
type health struct {
	healthv1.UnimplementedHealthServer
	ready    func(context.Context) error
	services func() map[string]grpc.ServiceInfo
	// lifetime returns the shortest duration of a watch; the longest is twice that.
	lifetime func() time.Duration
	poll     poll
	// checks and watches are the places of callers without a credential.
	checks, watches chan struct{}
}

func newHealth(ready func(context.Context) error, services func() map[string]grpc.ServiceInfo, lifetime func() time.Duration) *health {
	h := &health{ready: ready, services: services, lifetime: lifetime, checks: make(chan struct{}, maxStrangers), watches: make(chan struct{}, maxStrangers)}
	h.poll.read = h.now
	return h
}

// poll checks the health for all watches together, while there are any.
type poll struct {
	read    func(context.Context) *healthv1.HealthCheckResponse
	mu      sync.Mutex
	watches int
	stop    context.CancelFunc
	done    chan struct{}                 // closed when the present run has ended
	last    *healthv1.HealthCheckResponse // nil until the first check has ended
	changed broadcast.Signal
}

// join adds a watch, which must leave.
func (p *poll) join() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watches++; p.watches > 1 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	p.stop, p.last, p.done = cancel, nil, done
	go func() {
		defer close(done)
		p.run(ctx)
	}()
}

// leave removes a watch. The last one waits for the end of the run, whose context it has ended.
func (p *poll) leave() {
	p.mu.Lock()
	p.watches--
	last, done := p.watches == 0, p.done
	if last {
		p.stop()
	}
	p.mu.Unlock()
	if last {
		<-done
	}
}

func (p *poll) run(ctx context.Context) {
	ticker := time.NewTicker(healthPeriod)
	defer ticker.Stop()
	for {
		var now *healthv1.HealthCheckResponse
		if err := contain.Run(func() error { now = p.read(ctx); return nil }); err != nil { // it has panicked
			now = &healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_NOT_SERVING}
		}
		p.mu.Lock()
		if ctx.Err() != nil { // its last watch has left, and another poll may run already
			p.mu.Unlock()
			return
		}
		changed := p.last == nil || p.last.Status != now.Status
		p.last = now
		p.mu.Unlock()
		if changed {
			p.changed.Tell()
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

func (p *poll) current() *healthv1.HealthCheckResponse {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last
}

// enter takes a place for a caller without a credential, and returns the function that releases it.
func enter(ctx context.Context, places chan struct{}) (leave func(), err error) {
	if callerOf(ctx).sender != auth.Anonymous {
		return func() {}, nil
	}
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	default:
		return nil, status.Errorf(codes.ResourceExhausted, "too many clients without a credential ask for the health, the limit is %d; try again later, or authenticate", cap(places))
	}
}

func (h *health) now(ctx context.Context) *healthv1.HealthCheckResponse {
	if h.ready != nil && h.ready(ctx) != nil {
		return &healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_NOT_SERVING}
	}
	return &healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_SERVING}
}

func (h *health) known(service string) bool {
	_, ok := h.services()[service]
	return ok || service == ""
}

// Check implements healthv1.HealthServer.
func (h *health) Check(ctx context.Context, r *healthv1.HealthCheckRequest) (*healthv1.HealthCheckResponse, error) {
	if !h.known(r.Service) {
		return nil, status.Errorf(codes.NotFound, "service: there is no service %q", r.Service)
	}
	leave, err := enter(ctx, h.checks)
	if err != nil {
		return nil, err
	}
	defer leave()
	return h.now(ctx), nil
}

// List implements healthv1.HealthServer.
func (h *health) List(ctx context.Context, _ *healthv1.HealthListRequest) (*healthv1.HealthListResponse, error) {
	leave, err := enter(ctx, h.checks)
	if err != nil {
		return nil, err
	}
	defer leave()
	now := h.now(ctx)
	answer := &healthv1.HealthListResponse{Statuses: map[string]*healthv1.HealthCheckResponse{"": now}}
	for service := range h.services() {
		answer.Statuses[service] = now
	}
	return answer, nil
}

// Watch implements healthv1.HealthServer.
func (h *health) Watch(r *healthv1.HealthCheckRequest, stream healthv1.Health_WatchServer) error {
	leave, err := enter(stream.Context(), h.watches)
	if err != nil {
		return err
	}
	defer leave()
	shortest := h.lifetime()
	ctx, cancel := context.WithTimeoutCause(stream.Context(), shortest+rand.N(shortest), errHealthWatchOver)
	defer cancel()
	if err := h.watch(ctx, r, stream); err != nil {
		return err
	}
	if errors.Is(context.Cause(ctx), errHealthWatchOver) {
		return status.Error(codes.Unavailable, errHealthWatchOver.Error())
	}
	return ctx.Err()
}

// watch sends the health until the context ends.
func (h *health) watch(ctx context.Context, r *healthv1.HealthCheckRequest, stream healthv1.Health_WatchServer) error {
	if !h.known(r.Service) {
		// The protocol requires the watch to continue, for services that may be added; here there are none.
		if err := stream.Send(&healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_SERVICE_UNKNOWN}); err != nil {
			return err
		}
		<-ctx.Done()
		return nil
	}
	h.poll.join()
	defer h.poll.leave()
	shown := healthv1.HealthCheckResponse_UNKNOWN
	for {
		next := h.poll.changed.Next()
		if now := h.poll.current(); now != nil && now.Status != shown {
			if err := stream.Send(now); err != nil {
				return err
			}
			shown = now.Status
		}
		select {
		case <-next:
		case <-ctx.Done():
			return nil
		}
	}
}
