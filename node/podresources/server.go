// Package podresources serves the kubelet's PodResourcesLister (k8s.io/kubelet/pkg/apis/podresources/v1, KEP-606) at the socket
// pod-resources/kubelet.sock, by which monitoring agents of vendors learn which devices, processors and memory each container has.
package podresources

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
	corev1 "k8s.io/api/core/v1"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/kontiki/kontiki/internal/beneath"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/node/podspec"
)

// Source says what containers have. It adds what it knows.
type Source interface {
	// Describe adds what a container has.
	Describe(pod *corev1.Pod, container string, to *api.ContainerResources)
	// Allocatable adds what pods can have, whoever has it now.
	Allocatable(to *api.AllocatableResourcesResponse)
}

// Config has what a Server needs.
type Config struct {
	// Dir is the folder pod-resources. It is made if necessary.
	Dir string
	// Pods returns the node's pods.
	Pods    func() []*corev1.Pod
	Sources []Source
	limit   rate.Limit // requests a second, with bursts of as many; 0 means maxPerSecond
	burst   int
}

const (
	socketName = "kubelet.sock"
	// Limits for callers: they may open the folder because a pod mounts it, but need little.
	maxStreams, maxConnections = 16, 64
	// maxPerSecond limits requests, as the kubelet does (with bursts of as many).
	maxPerSecond = 100
)

// Serve serves until ctx ends.
func Serve(ctx context.Context, c Config) error {
	if err := os.MkdirAll(c.Dir, 0o750); err != nil {
		return fmt.Errorf("pod resources: %w", err)
	}
	path := filepath.Join(c.Dir, socketName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("pod resources: %w", err)
	}
	dir, err := os.Open(c.Dir)
	if err != nil {
		return fmt.Errorf("pod resources: %w", err)
	}
	// The folder's path may be longer than a socket's may be.
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(beneath.Path(dir), socketName)})
	dir.Close()
	if err != nil {
		return fmt.Errorf("pod resources: %w", err)
	}
	listener.SetUnlinkOnClose(false) // that path leads elsewhere by then
	defer os.Remove(path)
	if c.limit == 0 {
		c.limit, c.burst = maxPerSecond, maxPerSecond
	}
	limit := rate.NewLimiter(c.limit, c.burst)
	server := grpc.NewServer(grpc.MaxConcurrentStreams(maxStreams), grpc.MaxRecvMsgSize(64<<10),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (answer any, err error) {
			if !limit.Allow() {
				return nil, status.Error(codes.ResourceExhausted, "rejected by rate limit")
			}
			defer contain.Recover(&err)
			return handle(ctx, req)
		}))
	api.RegisterPodResourcesListerServer(server, &lister{c: c})
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(netutil.LimitListener(listener, maxConnections)); err != nil && ctx.Err() == nil {
		return fmt.Errorf("pod resources: %w", err)
	}
	return ctx.Err()
}

// lister is the service.
type lister struct {
	api.UnimplementedPodResourcesListerServer
	c Config
}

// List describes all pods that may have containers.
func (l *lister) List(context.Context, *api.ListPodResourcesRequest) (*api.ListPodResourcesResponse, error) {
	out := &api.ListPodResourcesResponse{}
	for _, pod := range l.c.Pods() {
		if active(pod) {
			out.PodResources = append(out.PodResources, l.describe(pod))
		}
	}
	return out, nil
}

// Get describes one pod.
func (l *lister) Get(_ context.Context, r *api.GetPodResourcesRequest) (*api.GetPodResourcesResponse, error) {
	for _, pod := range l.c.Pods() {
		if pod.Namespace == r.PodNamespace && pod.Name == r.PodName && active(pod) {
			return &api.GetPodResourcesResponse{PodResources: l.describe(pod)}, nil
		}
	}
	return nil, fmt.Errorf("pod %.300s in namespace %.300s not found", r.PodName, r.PodNamespace)
}

// GetAllocatableResources describes what pods can have.
func (l *lister) GetAllocatableResources(context.Context, *api.AllocatableResourcesRequest) (*api.AllocatableResourcesResponse, error) {
	out := &api.AllocatableResourcesResponse{}
	for _, s := range l.c.Sources {
		s.Allocatable(out)
	}
	return out, nil
}

func active(pod *corev1.Pod) bool {
	return pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed && len(pod.Spec.Containers) > 0
}

// describe says what the containers of a pod have that run during its whole life.
func (l *lister) describe(pod *corev1.Pod) *api.PodResources {
	out := &api.PodResources{Name: pod.Name, Namespace: pod.Namespace}
	for c, kind := range podspec.Containers(pod) {
		if kind == podspec.Ephemeral || kind == podspec.Init && !podspec.IsSidecar(c) {
			continue
		}
		to := &api.ContainerResources{Name: c.Name}
		for _, s := range l.c.Sources {
			s.Describe(pod, c.Name, to)
		}
		out.Containers = append(out.Containers, to)
	}
	return out
}
