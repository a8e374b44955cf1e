// Package podresources serves the kubelet's PodResourcesLister (k8s.io/kubelet/pkg/apis/podresources/v1, KEP-606) at the socket
// pod-resources/kubelet.sock, by which monitoring agents of vendors learn which devices, processors and memory each container has.
package podresources

import (
	"context"
	"fmt"

	"golang.org/x/time/rate"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/kontiki/kontiki/node/localgrpc"
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
	limit   rate.Limit // see localgrpc.Config
	burst   int
}

const socketName = "kubelet.sock"

// Serve serves until ctx ends.
func Serve(ctx context.Context, c Config) error {
	return localgrpc.Serve(ctx, localgrpc.Config{Dir: c.Dir, Socket: socketName, Limit: c.limit, Burst: c.burst},
		func(s *grpc.Server) { api.RegisterPodResourcesListerServer(s, &lister{c: c}) })
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
