package podresources

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/kontiki/kontiki/test/await"
)

// source gives each container a device of its name.
type source struct{}

func (source) Describe(pod *corev1.Pod, container string, to *api.ContainerResources) {
	to.Devices = append(to.Devices, &api.ContainerDevices{ResourceName: "example.com/x", DeviceIds: []string{pod.Name + "-" + container}})
}

func (source) Allocatable(to *api.AllocatableResourcesResponse) { to.CpuIds = []int64{1, 2} }

func TestServe(t *testing.T) {
	top, err := os.MkdirTemp("", "pr")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(top) })
	dir := filepath.Join(top, strings.Repeat("a-long-name/", 10), "pod-resources")
	always := corev1.ContainerRestartPolicyAlways
	running := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "first"}, {Name: "side", RestartPolicy: &always}}, Containers: []corev1.Container{{Name: "c"}}}}
	ended := running.DeepCopy()
	ended.Name, ended.Status.Phase = "ended", corev1.PodSucceeded
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Serve(ctx, Config{Dir: dir, Pods: func() []*corev1.Pod { return []*corev1.Pod{running, ended} }, Sources: []Source{source{}, source{}}, limit: 1e-9, burst: 10})
	}()
	path := filepath.Join(dir, socketName)
	await.That(t, "the socket", func() error { _, err := os.Lstat(path); return err })
	link := filepath.Join(top, "d")
	if err := os.Symlink(dir, link); err != nil { // the path of a socket is short
		t.Fatal(err)
	}
	conn, err := grpc.NewClient("unix:"+filepath.Join(link, socketName), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := api.NewPodResourcesListerClient(conn)
	list, err := c.List(t.Context(), &api.ListPodResourcesRequest{}, grpc.WaitForReady(true))
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range list.PodResources {
		for _, k := range p.Containers {
			got = append(got, fmt.Sprint(p.Name, "/", k.Name, " ", len(k.Devices), " ", k.Devices[0].DeviceIds))
		}
	}
	if want := "p/side 2 [p-side], p/c 2 [p-c]"; strings.Join(got, ", ") != want {
		t.Errorf("%q, want %q", strings.Join(got, ", "), want)
	}
	one, err := c.Get(t.Context(), &api.GetPodResourcesRequest{PodNamespace: "ns", PodName: "p"})
	if err != nil || len(one.PodResources.Containers) != 2 {
		t.Errorf("Get: %v %v", one, err)
	}
	if _, err := c.Get(t.Context(), &api.GetPodResourcesRequest{PodNamespace: "ns", PodName: "ended"}); err == nil {
		t.Error("a pod that has ended")
	}
	if all, err := c.GetAllocatableResources(t.Context(), &api.AllocatableResourcesRequest{}); err != nil || len(all.CpuIds) != 2 {
		t.Errorf("GetAllocatableResources: %v %v", all, err)
	}
	refused := 0
	for range 10 {
		if _, err := c.GetAllocatableResources(t.Context(), &api.AllocatableResourcesRequest{}); status.Code(err) == codes.ResourceExhausted {
			refused++
		}
	}
	if refused == 0 {
		t.Error("no request was refused")
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("the socket stays: %v", err)
	}
}
