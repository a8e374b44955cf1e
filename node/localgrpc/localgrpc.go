// Package localgrpc serves gRPC at a socket in one of the kubelet's folders, for programs of vendors on the same machine.
//
// Such a program may be a pod that mounts the folder, so its requests are limited in number, rate and size, and a panic ends one request.
package localgrpc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/net/netutil"
	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/internal/beneath"
	"github.com/kontiki/kontiki/internal/contain"
)

const (
	// Limits for callers, who need little.
	maxStreams, maxConnections, maxRequestBytes = 16, 64, 64 << 10
	// perSecond limits the requests of all callers together, as the kubelet does (with bursts of as many).
	perSecond = 100
)

// Config says where to serve.
type Config struct {
	// Dir is the folder, which is made if necessary, and Socket the name of the socket in it. A socket that is left there is replaced.
	Dir, Socket string
	// Limit replaces the limit of requests a second, with bursts of Burst, for tests; 0 means the kubelet's.
	Limit rate.Limit
	Burst int
}

// Serve serves until ctx ends, and then returns its error. register adds the services.
func Serve(ctx context.Context, c Config, register func(*grpc.Server)) error {
	listener, err := listen(c.Dir, c.Socket)
	if err != nil {
		return fmt.Errorf("socket %s: %w", filepath.Join(c.Dir, c.Socket), err)
	}
	defer os.Remove(filepath.Join(c.Dir, c.Socket))
	if c.Limit == 0 {
		c.Limit, c.Burst = perSecond, perSecond
	}
	limit := rate.NewLimiter(c.Limit, c.Burst)
	refusal := status.Error(codes.ResourceExhausted, "rejected by rate limit")
	server := grpc.NewServer(grpc.MaxConcurrentStreams(maxStreams), grpc.MaxRecvMsgSize(maxRequestBytes),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (answer any, err error) {
			if !limit.Allow() {
				return nil, refusal
			}
			defer contain.Recover(&err)
			return handle(ctx, req)
		}),
		grpc.StreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, handle grpc.StreamHandler) (err error) {
			if !limit.Allow() {
				return refusal
			}
			defer contain.Recover(&err)
			return handle(srv, stream)
		}))
	register(server)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(netutil.LimitListener(listener, maxConnections)); err != nil && ctx.Err() == nil {
		return fmt.Errorf("socket %s: %w", filepath.Join(c.Dir, c.Socket), err)
	}
	return ctx.Err()
}

func listen(folder, name string) (net.Listener, error) {
	if err := os.MkdirAll(folder, 0o750); err != nil {
		return nil, err
	}
	if err := os.Remove(filepath.Join(folder, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	dir, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// The folder's path may be longer than a socket's may be.
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(beneath.Path(dir), name)})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false) // that path leads elsewhere by then
	return listener, nil
}
