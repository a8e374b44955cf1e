package rpc

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

// healthPeriod is the interval at which a watch checks the health.
const healthPeriod = time.Second

// health implements grpc.health.v1: a master is SERVING while it can reach a quorum.
type health struct {
	healthv1.UnimplementedHealthServer
	ready    func(context.Context) error
	services func() map[string]grpc.ServiceInfo
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
	return h.now(ctx), nil
}

// List implements healthv1.HealthServer.
func (h *health) List(ctx context.Context, _ *healthv1.HealthListRequest) (*healthv1.HealthListResponse, error) {
	now := h.now(ctx)
	answer := &healthv1.HealthListResponse{Statuses: map[string]*healthv1.HealthCheckResponse{"": now}}
	for service := range h.services() {
		answer.Statuses[service] = now
	}
	return answer, nil
}

// Watch implements healthv1.HealthServer.
func (h *health) Watch(r *healthv1.HealthCheckRequest, stream healthv1.Health_WatchServer) error {
	if !h.known(r.Service) {
		// The protocol requires the watch to continue, for services that may be added; here there are none.
		if err := stream.Send(&healthv1.HealthCheckResponse{Status: healthv1.HealthCheckResponse_SERVICE_UNKNOWN}); err != nil {
			return err
		}
		<-stream.Context().Done()
		return stream.Context().Err()
	}
	ticker := time.NewTicker(healthPeriod)
	defer ticker.Stop()
	shown := healthv1.HealthCheckResponse_UNKNOWN
	for {
		if now := h.now(stream.Context()); now.Status != shown {
			if err := stream.Send(now); err != nil {
				return err
			}
			shown = now.Status
		}
		select {
		case <-ticker.C:
		case <-stream.Context().Done():
			return stream.Context().Err()
		}
	}
}
