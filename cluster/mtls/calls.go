package mtls

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"
)

// workerCalls limits the calls that each worker has open, and the time in which a call's first message must arrive.
type workerCalls struct {
	first time.Duration
	mu    sync.Mutex
	of    map[string]int // by the worker's name
}

// deadlineKey is the key of the timer that cancels a call whose first message does not arrive.
type deadlineKey struct{}

// begin is called before a call's messages are read. gRPC ends the context with the call.
func (c *workerCalls) begin(ctx context.Context, _ *tap.Info) (context.Context, error) {
	caller, _ := PeerFromContext(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.of[caller.Name] >= maxWorkerCalls {
		return nil, status.Errorf(codes.ResourceExhausted, "worker %s has %d calls open, the limit is %d", caller.Name, c.of[caller.Name], maxWorkerCalls)
	}
	c.of[caller.Name]++
	ctx, cancel := context.WithCancel(ctx)
	timer := time.AfterFunc(c.first, cancel)
	context.AfterFunc(ctx, func() {
		timer.Stop()
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.of[caller.Name]--; c.of[caller.Name] == 0 {
			delete(c.of, caller.Name)
		}
	})
	return context.WithValue(ctx, deadlineKey{}, timer), nil
}

// arrived says that the call's first message is there.
func arrived(ctx context.Context) {
	if timer, ok := ctx.Value(deadlineKey{}).(*time.Timer); ok {
		timer.Stop()
	}
}

func (*workerCalls) unary(ctx context.Context, request any, _ *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	arrived(ctx)
	return handler(ctx, request)
}

func (*workerCalls) stream(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	return handler(srv, &firstStream{ServerStream: stream})
}

type firstStream struct {
	grpc.ServerStream
	once sync.Once
}

func (s *firstStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.once.Do(func() { arrived(s.Context()) })
	}
	return err
}
