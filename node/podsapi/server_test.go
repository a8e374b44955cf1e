package podsapi

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/pods/v1alpha1"

	"github.com/kontiki/kontiki/internal/broadcast"
)

// node has pods that a test changes.
type node struct {
	mu      sync.Mutex
	list    []*corev1.Pod
	ready   bool
	changed broadcast.Signal
}

func (n *node) set(list ...*corev1.Pod) {
	n.mu.Lock()
	n.list = list
	n.mu.Unlock()
	n.changed.Tell()
}

func pod(uid types.UID, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod-" + string(uid), UID: uid, Labels: map[string]string{"a": "b"}}, Status: corev1.PodStatus{Phase: phase}}
}

func serve(t *testing.T, n *node) api.PodsClient {
	t.Helper()
	dir, err := os.MkdirTemp("", "pa") // the path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, Config{Dir: dir, Changed: n.changed.Next,
			Pods:  func() []*corev1.Pod { n.mu.Lock(); defer n.mu.Unlock(); return slices.Clone(n.list) },
			Ready: func() bool { n.mu.Lock(); defer n.mu.Unlock(); return n.ready }})
	}()
	conn, err := grpc.NewClient("unix:"+filepath.Join(dir, "pods-api.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return api.NewPodsClient(conn)
}

func decode(t *testing.T, data []byte) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{}
	if err := p.Unmarshal(data); err != nil {
		t.Fatal(err)
	}
	return p
}

func TestListAndGet(t *testing.T) {
	n := &node{list: []*corev1.Pod{pod("b", corev1.PodRunning), pod("a", corev1.PodPending)}}
	c := serve(t, n)
	if _, err := c.ListPods(t.Context(), &api.ListPodsRequest{}); status.Code(err) != codes.FailedPrecondition {
		t.Fatalf("before the agent knows its pods: %v", err)
	}
	n.mu.Lock()
	n.ready = true
	n.mu.Unlock()
	list, err := c.ListPods(t.Context(), &api.ListPodsRequest{})
	if err != nil || len(list.Pods) != 2 {
		t.Fatalf("%v, %v", list, err)
	}
	if a, b := decode(t, list.Pods[0]), decode(t, list.Pods[1]); a.UID != "a" || b.UID != "b" || b.Status.Phase != corev1.PodRunning || b.Labels["a"] != "b" {
		t.Errorf("%+v, %+v", a, b)
	}
	got, err := c.GetPod(t.Context(), &api.GetPodRequest{PodUID: "b"})
	if err != nil || decode(t, got.Pod).Name != "pod-b" {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := c.GetPod(t.Context(), &api.GetPodRequest{PodUID: "c"}); status.Code(err) != codes.NotFound {
		t.Errorf("a pod that is not here: %v", err)
	}
}

func TestWatch(t *testing.T) {
	n := &node{ready: true, list: []*corev1.Pod{pod("a", corev1.PodPending)}}
	c := serve(t, n)
	w, err := c.WatchPods(t.Context(), &api.WatchPodsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	next := func(kind api.EventType, uid types.UID, phase corev1.PodPhase) {
		t.Helper()
		e, err := w.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if p := decode(t, e.Pod); e.Type != kind || p.UID != uid || p.Status.Phase != phase {
			t.Fatalf("%v of %q, which is %s; want %v of %q", e.Type, p.UID, p.Status.Phase, kind, uid)
		}
	}
	next(api.EventType_ADDED, "a", corev1.PodPending)
	next(api.EventType_INITIAL_SYNC_COMPLETE, "", "")
	n.set(pod("a", corev1.PodRunning), pod("b", corev1.PodPending))
	next(api.EventType_MODIFIED, "a", corev1.PodRunning)
	next(api.EventType_ADDED, "b", corev1.PodPending)
	n.set(pod("a", corev1.PodRunning), pod("b", corev1.PodPending)) // nothing has changed
	n.set(pod("b", corev1.PodPending))
	next(api.EventType_DELETED, "a", "")
	n.set(pod("b", corev1.PodSucceeded))
	next(api.EventType_MODIFIED, "b", corev1.PodSucceeded)
}
