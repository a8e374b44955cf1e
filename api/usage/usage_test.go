package usage_test

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/api/usage"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/await"
)

// report returns a report of one pod, "a", with one container.
func report(nanocores uint64) *nodev1.UsageReport {
	compute := &nodev1.ComputeUsage{CpuNanocores: nanocores, WindowMs: 15_000, MemoryWorkingSetBytes: 1 << 20}
	now := time.Now().UnixNano()
	return &nodev1.UsageReport{Node: &nodev1.NodeUsage{Time: now, Compute: compute}, Pods: []*nodev1.PodUsage{
		{Namespace: "ns", Name: "a", Uid: "uid-a", Complete: true, Containers: []*nodev1.ContainerUsage{{Name: "c", Time: now, Compute: compute}}},
	}}
}

func encode(t *testing.T, r *nodev1.UsageReport) []byte {
	t.Helper()
	b, err := proto.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func all(*nodev1.PodUsage) bool { return true }

func pod(node string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "a", UID: types.UID("uid-a")}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
}

// serve serves what a master has to the others; nil is one of a version that has nothing to serve.
func serve(t *testing.T, local *usage.Local) *grpc.ClientConn {
	t.Helper()
	listener, server := bufconn.Listen(1<<16), grpc.NewServer()
	if local != nil {
		local.Register(server)
	}
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	conn, err := grpc.NewClient("passthrough:///m", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		conn.Close()
		server.Stop()
		<-done
	})
	return conn
}

// TestEveryMasterAnswersForAllNodes: also when another master is of an older version, and one cannot be reached.
func TestEveryMasterAnswersForAllNodes(t *testing.T) {
	other := usage.NewLocal()
	conns := map[string]grpc.ClientConnInterface{"other": serve(t, other), "old": serve(t, nil)}
	own := usage.NewLocal()
	d := usage.NewDirectory(usage.Config{Local: own, Own: "own", Masters: func() []string { return []string{"own", "other", "old", "gone"} },
		Connect: func(address string) (grpc.ClientConnInterface, error) {
			if conns[address] == nil {
				return nil, errors.New("there is no such master")
			}
			return conns[address], nil
		}})
	put := func(l *usage.Local, worker string, nanocores uint64) {
		t.Helper()
		if err := l.Put(worker, encode(t, report(nanocores)), all); err != nil {
			t.Fatal(err)
		}
	}
	put(own, "w1", 1)
	put(other, "w2", 2)
	s := d.Now(t.Context())
	if a, b := s.Node("w1"), s.Node("w2"); a.GetCompute().GetCpuNanocores() != 1 || b.GetCompute().GetCpuNanocores() != 2 {
		t.Fatalf("w1 uses %v, w2 %v", a, b)
	}
	if p := s.Pod(pod("w2")); p.GetContainers()[0].Name != "c" {
		t.Errorf("the pod uses %v", p)
	}
	// A pod is only what the worker of its node says.
	if p := s.Pod(pod("w3")); p != nil {
		t.Errorf("a pod of another node has what w1 and w2 reported: %v", p)
	}
	if m := s.PodMetrics(pod("w2")); m == nil || m.Containers[0].Usage.Cpu().String() != "2n" || m.Containers[0].Usage.Memory().String() != "1Mi" || m.Window.Duration != 15*time.Second {
		t.Errorf("metrics of the pod: %v", m)
	}
	// What is new there is read, and a worker that has changed to another master counts once, with the newer report.
	put(other, "w1", 3)
	put(other, "w4", 4)
	await.That(t, "what is new on the other master", func() error {
		s := d.Now(t.Context())
		if a, b, c := s.Node("w1"), s.Node("w2"), s.Node("w4"); a.GetCompute().GetCpuNanocores() != 3 || b == nil || c.GetCompute().GetCpuNanocores() != 4 {
			return errors.New("w1 and w4 are not new, or w2 is gone")
		}
		return nil
	})
	// A master that was started again begins anew.
	again := usage.NewLocal()
	put(again, "w5", 5)
	conns["other"] = serve(t, again)
	await.That(t, "the reports of the master that started again", func() error {
		s := d.Now(t.Context())
		if s.Node("w5") == nil || s.Node("w4") != nil {
			return errors.New("w5 is missing, or w4 is not forgotten")
		}
		return nil
	})
}

func TestWhatCannotBeIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*nodev1.UsageReport)
		want   string
	}{
		"no node":             {func(r *nodev1.UsageReport) { r.Node = nil }, "no node"},
		"no numbers":          {func(r *nodev1.UsageReport) { r.Pods[0].Containers[0].Compute = nil }, `container "c": compute is missing`},
		"too many processors": {func(r *nodev1.UsageReport) { r.Node.Compute.CpuNanocores = 1 << 62 }, "cpu_nanocores"},
		"too much memory":     {func(r *nodev1.UsageReport) { r.Node.Compute.MemoryWorkingSetBytes = 1 << 63 }, "bytes of memory"},
		"a window of a day":   {func(r *nodev1.UsageReport) { r.Node.Compute.WindowMs = 86_400_000 }, "window_ms"},
		"a long name":         {func(r *nodev1.UsageReport) { r.Pods[0].Name = strings.Repeat("x", 300) }, "longer than 253"},
		"too many pods":       {func(r *nodev1.UsageReport) { r.Pods = slices.Repeat([]*nodev1.PodUsage{{}}, 300_000) }, "more than 2048 pods"},
		"too many containers": {func(r *nodev1.UsageReport) {
			r.Pods[0].Containers = slices.Repeat([]*nodev1.ContainerUsage{{}}, 300_000)
		}, "more than 4096 containers"},
		"too large": {func(r *nodev1.UsageReport) {
			for range 2000 {
				r.Pods = append(r.Pods, &nodev1.PodUsage{Name: strings.Repeat("x", 2000)})
			}
		}, "bytes is larger than"},
	} {
		t.Run(name, func(t *testing.T) {
			l := usage.NewLocal()
			r := report(1)
			c.change(r)
			if err := l.Put("w1", encode(t, r), all); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%v, want %q", err, c.want)
			}
			if u := usage.NewDirectory(usage.Config{Local: l}).Now(t.Context()).Node("w1"); u != nil {
				t.Errorf("it was kept: %v", u)
			}
		})
	}
}

// TestWhatIsNotCompleteIsLeftOut follows metrics-server.
func TestWhatIsNotCompleteIsLeftOut(t *testing.T) {
	for name, change := range map[string]func(*nodev1.PodUsage, *corev1.Pod){
		"a container without a rate":   func(u *nodev1.PodUsage, _ *corev1.Pod) { u.Containers[0].Compute.WindowMs = 0 },
		"a container is missing":       func(u *nodev1.PodUsage, _ *corev1.Pod) { u.Complete = false },
		"no container":                 func(u *nodev1.PodUsage, _ *corev1.Pod) { u.Containers = nil },
		"a pod that has ended":         func(_ *nodev1.PodUsage, p *corev1.Pod) { p.Status.Phase = corev1.PodSucceeded },
		"a pod of the name before":     func(u *nodev1.PodUsage, _ *corev1.Pod) { u.Uid = "uid-before" },
		"a pod that is not bound yet":  func(_ *nodev1.PodUsage, p *corev1.Pod) { p.Spec.NodeName = "" },
		"a pod of a node not reported": func(_ *nodev1.PodUsage, p *corev1.Pod) { p.Spec.NodeName = "w2" },
	} {
		t.Run(name, func(t *testing.T) {
			l, r, p := usage.NewLocal(), report(1), pod("w1")
			change(r.Pods[0], p)
			if err := l.Put("w1", encode(t, r), all); err != nil {
				t.Fatal(err)
			}
			if m := usage.NewDirectory(usage.Config{Local: l}).Now(t.Context()).PodMetrics(p); m != nil {
				t.Errorf("%v", m)
			}
		})
	}
	l, r, mirror := usage.NewLocal(), report(1), pod("w1")
	mirror.UID, mirror.Annotations = "of the mirror", map[string]string{corev1.MirrorPodAnnotationKey: "uid-a"}
	if err := l.Put("w1", encode(t, r), func(p *nodev1.PodUsage) bool { return usage.Owns(mirror, "w1", p) }); err != nil {
		t.Fatal(err)
	}
	if m := usage.NewDirectory(usage.Config{Local: l}).Now(t.Context()).PodMetrics(mirror); m == nil {
		t.Error("a static pod has no metrics")
	}
}
