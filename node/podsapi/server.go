// Package podsapi serves the kubelet's Pods API (k8s.io/kubelet/pkg/apis/pods/v1alpha1, KEP-4188) at the socket pods-api/pods-api.sock, by which
// agents on the machine read and watch its pods without the API server. Pods are in protobuf, with the status that the agent has itself.
//
// A watch shows states, not each change: a watcher that is slower than the changes of a pod receives its newest state.
package podsapi

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/pods/v1alpha1"

	"github.com/kontiki/kontiki/internal/pause"
	"github.com/kontiki/kontiki/node/localgrpc"
)

// Config has what the service needs.
type Config struct {
	// Dir is the folder pods-api. It is made if necessary.
	Dir string
	// Pods returns the node's pods with their present status. Changed returns a channel that is closed at the next change of what Pods returns.
	Pods    func() []*corev1.Pod
	Changed func() <-chan struct{}
	// Ready says whether Pods are all pods of the node: the agent has heard of them since it started.
	Ready func() bool
}

const (
	socketName = "pods-api.sock"
	// watchPause is the least time between two looks of a watcher at all pods.
	watchPause = 100 * time.Millisecond
)

// Serve serves until ctx ends.
func Serve(ctx context.Context, c Config) error {
	return localgrpc.Serve(ctx, localgrpc.Config{Dir: c.Dir, Socket: socketName}, func(s *grpc.Server) { api.RegisterPodsServer(s, &server{c: c}) })
}

type server struct {
	api.UnimplementedPodsServer
	c Config
}

// pods returns the pods in the order of their UIDs.
func (s *server) pods() ([]*corev1.Pod, error) {
	if !s.c.Ready() {
		return nil, status.Error(codes.FailedPrecondition, "Kubelet is initializing")
	}
	list := s.c.Pods()
	slices.SortFunc(list, func(a, b *corev1.Pod) int { return cmp.Compare(a.UID, b.UID) })
	return list, nil
}

func marshal(pod *corev1.Pod) ([]byte, error) {
	data, err := pod.Marshal()
	if err != nil {
		return nil, status.Errorf(codes.Internal, "failed to marshal pod: %v", err)
	}
	return data, nil
}

// ListPods implements api.PodsServer.
func (s *server) ListPods(context.Context, *api.ListPodsRequest) (*api.ListPodsResponse, error) {
	list, err := s.pods()
	if err != nil {
		return nil, err
	}
	out := &api.ListPodsResponse{Pods: make([][]byte, len(list))}
	for i, pod := range list {
		if out.Pods[i], err = marshal(pod); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// GetPod implements api.PodsServer.
func (s *server) GetPod(_ context.Context, r *api.GetPodRequest) (*api.GetPodResponse, error) {
	list, err := s.pods()
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(list, func(pod *corev1.Pod) bool { return pod.UID == types.UID(r.PodUID) })
	if i < 0 {
		return nil, status.Errorf(codes.NotFound, "pod with UID %.100s not found", r.PodUID)
	}
	data, err := marshal(list[i])
	if err != nil {
		return nil, err
	}
	return &api.GetPodResponse{Pod: data}, nil
}

// sent is the state of a pod that a watcher has.
type sent struct {
	pod  *corev1.Pod
	data []byte
}

// WatchPods implements api.PodsServer.
func (s *server) WatchPods(_ *api.WatchPodsRequest, stream api.Pods_WatchPodsServer) error {
	ctx := stream.Context()
	known := map[types.UID]sent{}
	for first := true; ; first = false {
		changed := s.c.Changed()
		list, err := s.pods()
		if err != nil {
			return err
		}
		if err := update(stream, known, list); err != nil {
			return err
		}
		if first {
			if err := stream.Send(&api.WatchPodsEvent{Type: api.EventType_INITIAL_SYNC_COMPLETE}); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		}
		if !pause.For(ctx, watchPause) {
			return ctx.Err()
		}
	}
}

// update sends how the pods differ from those that the watcher knows.
func update(stream api.Pods_WatchPodsServer, known map[types.UID]sent, list []*corev1.Pod) error {
	here := make(map[types.UID]bool, len(list))
	for _, pod := range list {
		here[pod.UID] = true
		data, err := marshal(pod)
		if err != nil {
			return err
		}
		before, ok := known[pod.UID]
		if ok && bytes.Equal(before.data, data) {
			continue
		}
		event := &api.WatchPodsEvent{Type: api.EventType_ADDED, Pod: data}
		if ok {
			event.Type = api.EventType_MODIFIED
		}
		if err := stream.Send(event); err != nil {
			return err
		}
		known[pod.UID] = sent{pod, data}
	}
	for uid, last := range known {
		if here[uid] {
			continue
		}
		data, err := marshal(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: last.pod.Name, Namespace: last.pod.Namespace, UID: uid}})
		if err != nil {
			return err
		}
		if err := stream.Send(&api.WatchPodsEvent{Type: api.EventType_DELETED, Pod: data}); err != nil {
			return err
		}
		delete(known, uid)
	}
	return nil
}
