package dra

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	healthv1 "k8s.io/kubelet/pkg/apis/dra-health/v1"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	drav1beta1 "k8s.io/kubelet/pkg/apis/dra/v1beta1"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/kontiki/kontiki/test/await"
)

// program is a driver's program on the node.
type program struct {
	drav1.UnimplementedDRAPluginServer
	healthv1.UnimplementedDRAResourceHealthServer
	reports chan []*healthv1.DeviceHealth
	mu      sync.Mutex
	calls   []string
	fails   map[string]error // by call
	during  func()           // is called by NodeUnprepareResources
	empty   bool             // it returns no results
}

func (p *program) record(what string, claims []*drav1.Claim) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for _, c := range claims {
		names = append(names, c.Namespace+"/"+c.Name+"="+c.Uid)
	}
	slices.Sort(names)
	p.calls = append(p.calls, what+" "+strings.Join(names, " "))
	return p.fails[what]
}

func (p *program) NodePrepareResources(_ context.Context, r *drav1.NodePrepareResourcesRequest) (*drav1.NodePrepareResourcesResponse, error) {
	out := &drav1.NodePrepareResourcesResponse{Claims: map[string]*drav1.NodePrepareResourceResponse{}}
	err := p.record("prepare", r.Claims)
	for _, c := range r.Claims {
		if p.empty {
			break
		}
		if err != nil {
			out.Claims[c.Uid] = &drav1.NodePrepareResourceResponse{Error: err.Error()}
			continue
		}
		out.Claims[c.Uid] = &drav1.NodePrepareResourceResponse{Devices: []*drav1.Device{
			{RequestNames: []string{"one"}, PoolName: "node", DeviceName: "d1", CdiDeviceIds: []string{"example.com/dev=" + c.Name + "-1"}},
			{RequestNames: []string{"two/sub"}, PoolName: "node", DeviceName: "d2", CdiDeviceIds: []string{"example.com/dev=" + c.Name + "-2"}},
		}}
	}
	return out, nil
}

func (p *program) NodeUnprepareResources(_ context.Context, r *drav1.NodeUnprepareResourcesRequest) (*drav1.NodeUnprepareResourcesResponse, error) {
	out := &drav1.NodeUnprepareResourcesResponse{Claims: map[string]*drav1.NodeUnprepareResourceResponse{}}
	if err := p.record("unprepare", r.Claims); err != nil {
		return nil, err
	}
	if p.during != nil {
		p.during()
	}
	for _, c := range r.Claims {
		out.Claims[c.Uid] = &drav1.NodeUnprepareResourceResponse{}
	}
	return out, nil
}

func (p *program) NodeWatchResources(_ *healthv1.NodeWatchResourcesRequest, s grpc.ServerStreamingServer[healthv1.NodeWatchResourcesResponse]) error {
	for {
		select {
		case r := <-p.reports:
			if r == nil {
				return nil
			}
			if err := s.Send(&healthv1.NodeWatchResourcesResponse{Devices: r}); err != nil {
				return err
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

func (p *program) took() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	defer func() { p.calls = nil }()
	return p.calls
}

// node is a node with claims.
type node struct {
	t      *testing.T
	c      Config
	m      *Manager
	claims map[string]*resourcev1.ResourceClaim
	dir    string
}

const driverName = "driver.example.com"

func newNode(t *testing.T) *node {
	dir, err := os.MkdirTemp("", "dra")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &node{t: t, dir: dir, claims: map[string]*resourcev1.ResourceClaim{}}
	n.c = Config{File: filepath.Join(dir, "claims.json"), BootID: "boot-1",
		Claim: func(ns, name string) (*resourcev1.ResourceClaim, bool) {
			c := n.claims[ns+"/"+name]
			return c, c != nil
		},
		Connect: func(socket string, _ int, options ...grpc.DialOption) (*grpc.ClientConn, error) {
			return grpc.NewClient("unix:"+socket, append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
		}}
	n.restart()
	return n
}

// restart starts another manager, as an agent that starts does. No driver is registered with it.
func (n *node) restart() {
	n.t.Helper()
	var err error
	if n.m != nil {
		n.m.Close()
	}
	if n.m, err = New(n.c); err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(n.m.Close)
}

// driver starts and registers a driver.
func (n *node) driver(socket string, versions ...string) *program {
	n.t.Helper()
	p := &program{fails: map[string]error{}, reports: make(chan []*healthv1.DeviceHealth, 1)}
	path := filepath.Join(n.dir, socket)
	listener, err := net.Listen("unix", path)
	if err != nil {
		n.t.Fatal(err)
	}
	s := grpc.NewServer()
	drav1.RegisterDRAPluginServer(s, p)
	drav1beta1.RegisterDRAPluginServer(s, drav1beta1.V1ServerWrapper{DRAPluginServer: p})
	healthv1.RegisterDRAResourceHealthServer(s, p)
	go s.Serve(listener)
	n.t.Cleanup(s.Stop)
	if len(versions) == 0 {
		versions = []string{drav1.DRAPluginService, drav1beta1.DRAPluginService}
	}
	if err := n.m.Register(driverName, path, versions); err != nil {
		n.t.Fatal(err)
	}
	return p
}

// claim makes an allocated claim that is reserved for pods.
func (n *node) claim(name string, pods ...*corev1.Pod) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)}}
	c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{{Request: "one", Driver: driverName, Pool: "node", Device: "d1"}}}}
	for _, p := range pods {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p.Name, UID: p.UID})
	}
	n.claims["ns/"+name] = c
	return c
}

func pod(name string, claims ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)}}
	all := corev1.Container{Name: "all"}
	for _, c := range claims {
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: "my-" + c, ResourceClaimName: &c})
		all.Resources.Claims = append(all.Resources.Claims, corev1.ResourceClaim{Name: "my-" + c})
	}
	one := corev1.Container{Name: "one", Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "my-" + claims[0], Request: "two"}}}}
	p.Spec.Containers = []corev1.Container{all, one, {Name: "none"}}
	return p
}

func (n *node) cdi(p *corev1.Pod, container string) string {
	n.t.Helper()
	e, err := n.m.Container(p, container)
	if err != nil {
		n.t.Fatal(err)
	}
	return strings.Join(e.CDIDevices, " ")
}

func same(t *testing.T, what string, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

func TestAClaimIsPreparedOnceForAllItsPodsAndUnpreparedAfterTheLast(t *testing.T) {
	for _, version := range []string{drav1.DRAPluginService, drav1beta1.DRAPluginService} {
		t.Run(version, func(t *testing.T) {
			n := newNode(t)
			d := n.driver("d.sock", version)
			a, b := pod("a", "c1", "c2"), pod("b", "c1")
			n.claim("c1", a, b)
			n.claim("c2", a)
			for range 2 {
				if err := errors.Join(n.m.Prepare(t.Context(), a), n.m.Prepare(t.Context(), b)); err != nil {
					t.Fatal(err)
				}
			}
			same(t, "calls", d.took(), []string{"prepare ns/c1=uid-c1 ns/c2=uid-c2"})
			for container, want := range map[string]string{"all": "example.com/dev=c1-1 example.com/dev=c1-2 example.com/dev=c2-1 example.com/dev=c2-2", "one": "example.com/dev=c1-2", "none": ""} {
				if got := n.cdi(a, container); got != want {
					t.Errorf("container %s: %q, want %q", container, got, want)
				}
			}
			var described podresourcesv1.ContainerResources
			n.m.Describe(a, "one", &described)
			if d := described.DynamicResources; len(d) != 1 || d[0].ClaimName != "c1" || len(d[0].ClaimResources) != 1 || d[0].ClaimResources[0].DeviceName != "d2" ||
				d[0].ClaimResources[0].CdiDevices[0].Name != "example.com/dev=c1-2" {
				t.Errorf("described: %v", d)
			}
			if err := n.m.Unprepare(t.Context(), a.UID); err != nil {
				t.Fatal(err)
			}
			same(t, "calls after the first pod", d.took(), []string{"unprepare ns/c2=uid-c2"})
			if err := errors.Join(n.m.Unprepare(t.Context(), b.UID), n.m.Unprepare(t.Context(), b.UID)); err != nil {
				t.Fatal(err)
			}
			same(t, "calls after the last pod", d.took(), []string{"unprepare ns/c1=uid-c1"})
			if left := n.m.Pods(); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestPreparedClaimsOutliveTheAgentAndNotTheMachinesRun(t *testing.T) {
	n := newNode(t)
	n.driver("d.sock")
	p := pod("a", "c1")
	n.claim("c1", p)
	if err := n.m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	n.restart()
	if err := n.m.Prepare(t.Context(), p); err != nil {
		t.Errorf("a claim that is prepared, without its driver: %v", err)
	}
	if got := n.cdi(p, "one"); got != "example.com/dev=c1-2" {
		t.Errorf("devices: %q", got)
	}
	if err := n.m.Unprepare(t.Context(), p.UID); err == nil || !strings.Contains(err.Error(), "DRA driver driver.example.com is not registered") {
		t.Errorf("unprepared without the driver: %v", err)
	}
	if err := n.m.Prepare(t.Context(), pod("a", "c1")); err == nil {
		t.Error("a claim was prepared while it is being unprepared")
	}
	d := n.driver("d2.sock")
	if err := n.m.Unprepare(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	if err := n.m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	d.took()
	n.c.BootID = "boot-2"
	n.restart()
	if _, err := n.m.Container(p, "one"); err == nil {
		t.Error("a container got devices that were prepared before the machine was started")
	}
	d = n.driver("d3.sock")
	if err := n.m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	same(t, "calls after the machine's restart", d.took(), []string{"prepare ns/c1=uid-c1"})
}

// TestAnAgentIsKilledWhileAClaimIsUnprepared: the next one has it prepared again before another pod uses it.
func TestAnAgentIsKilledWhileAClaimIsUnprepared(t *testing.T) {
	n := newNode(t)
	d := n.driver("d.sock", drav1.DRAPluginService)
	a, b := pod("a", "c1"), pod("b", "c1")
	n.claim("c1", a, b)
	if err := n.m.Prepare(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	var then []byte // what the agent that was killed has left
	d.during = func() {
		var err error
		if then, err = os.ReadFile(n.c.File); err != nil {
			t.Error(err)
		}
	}
	if err := n.m.Unprepare(t.Context(), a.UID); err != nil {
		t.Fatal(err)
	}
	d.during = nil
	if err := os.WriteFile(n.c.File, then, 0o600); err != nil {
		t.Fatal(err)
	}
	n.restart()
	d = n.driver("d2.sock", drav1.DRAPluginService)
	if err := n.m.Prepare(t.Context(), b); err == nil {
		t.Error("a claim that may be unprepared is taken for prepared")
	}
	if err := errors.Join(n.m.Unprepare(t.Context(), a.UID), n.m.Prepare(t.Context(), b)); err != nil {
		t.Fatal(err)
	}
	same(t, "calls", d.took(), []string{"unprepare ns/c1=uid-c1", "prepare ns/c1=uid-c1"})
}

func TestWhatIsNotPrepared(t *testing.T) {
	n := newNode(t)
	p := pod("a", "c1")
	awaits := func(err error, text string) {
		t.Helper()
		var e interface{ Awaited() bool }
		if err == nil || !strings.Contains(err.Error(), text) || !errors.As(err, &e) {
			t.Errorf("%v, want a wait for %q", err, text)
		}
	}
	awaits(n.m.Prepare(t.Context(), p), "ResourceClaim c1 is not known to the node")
	c := n.claim("c1")
	awaits(n.m.Prepare(t.Context(), p), "not allowed to use ResourceClaim c1")
	allocation := c.Status.Allocation
	c.Status.Allocation = nil
	awaits(n.m.Prepare(t.Context(), p), "not allocated")
	c.Status.Allocation = allocation
	n.claim("c1", p)
	if err := n.m.Prepare(t.Context(), p); err == nil || err.Error() != "DRA driver driver.example.com is not registered" {
		t.Errorf("without the driver: %v", err)
	}
	if len(n.m.Pods()) > 0 {
		t.Error("a pod without any call to a driver must be unprepared")
	}
	template := pod("b", "c1")
	template.Spec.ResourceClaims[0] = corev1.PodResourceClaim{Name: "my-c1", ResourceClaimTemplateName: new("t")}
	awaits(n.m.Prepare(t.Context(), template), "ResourceClaim not created yet")
	template.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "my-c1", ResourceClaimName: new("c1")}}
	if err := n.m.Prepare(t.Context(), template); err == nil || !strings.Contains(err.Error(), "was not created for") {
		t.Errorf("a claim of another pod: %v", err)
	}
}

func TestAFailedPreparationIsRepeatedAndUndone(t *testing.T) {
	n := newNode(t)
	d := n.driver("d.sock")
	p := pod("a", "c1")
	n.claim("c1", p)
	d.fails["prepare"] = errors.New("no such device")
	if err := n.m.Prepare(t.Context(), p); err == nil || err.Error() != "NodePrepareResources failed for ResourceClaim c1: no such device" {
		t.Errorf("%v", err)
	}
	if _, err := n.m.Container(p, "all"); err == nil {
		t.Error("a container got devices that are not prepared")
	}
	n.restart() // the agent dies: the claim is known to be half prepared
	d2 := n.driver("d2.sock")
	if err := n.m.Unprepare(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	same(t, "calls", d2.took(), []string{"unprepare ns/c1=uid-c1"})
	d2.empty = true
	if err := n.m.Prepare(t.Context(), p); err == nil || !strings.Contains(err.Error(), "skipped ResourceClaim c1") {
		t.Errorf("a driver without an answer: %v", err)
	}
	d2.empty = false
	if err := n.m.Prepare(t.Context(), p); err != nil {
		t.Error(err)
	}
	recreated := n.claim("c1", p)
	recreated.UID = "another"
	if err := n.m.Prepare(t.Context(), p); err == nil || !strings.Contains(err.Error(), "old ResourceClaim with same name c1 and different UID") {
		t.Errorf("a claim that was made again: %v", err)
	}
}

func TestExtendedResourcesThatAreDevices(t *testing.T) {
	n := newNode(t)
	n.driver("d.sock")
	p := pod("a", "c1")
	p.Spec.ResourceClaims, p.Spec.Containers = nil, []corev1.Container{{Name: "one"}, {Name: "none"}}
	p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"example.com/gpu": resource.MustParse("1")}
	p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "c1",
		RequestMappings: []corev1.ContainerExtendedResourceRequest{{ContainerName: "one", ResourceName: "example.com/gpu", RequestName: "one"}}}
	c := n.claim("c1", p)
	c.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID, Controller: new(true)}}
	if err := n.m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if one, none := n.cdi(p, "one"), n.cdi(p, "none"); one != "example.com/dev=c1-1" || none != "" {
		t.Errorf("containers: %q, %q", one, none)
	}
}

func TestTheHealthOfClaimedDevices(t *testing.T) {
	n := newNode(t)
	d := n.driver("d.sock", drav1.DRAPluginService, healthv1.DRAResourceHealthService)
	p := pod("a", "c1")
	n.claim("c1", p)
	if err := n.m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	says := func(container, want string) {
		t.Helper()
		await.That(t, want, func() error {
			var got []string
			for _, s := range n.m.Health(p, container) {
				for _, r := range s.Resources {
					text := fmt.Sprintf("%s %s is %s", s.Name, r.ResourceID, r.Health)
					if r.Message != nil {
						text += ": " + *r.Message
					}
					got = append(got, text)
				}
			}
			if strings.Join(got, ", ") != want {
				return fmt.Errorf("%q", got)
			}
			return nil
		})
	}
	says("one", "claim:my-c1/two example.com/dev=c1-2 is Unknown")
	report := func(name string, status healthv1.HealthStatus, message string, timeout int64) *healthv1.DeviceHealth {
		return &healthv1.DeviceHealth{Device: &healthv1.DeviceIdentifier{PoolName: "node", DeviceName: name}, Health: status, Message: message, HealthCheckTimeoutSeconds: timeout}
	}
	d.reports <- []*healthv1.DeviceHealth{report("d1", healthv1.HealthStatus_HEALTHY, "", 600), report("d2", healthv1.HealthStatus_UNHEALTHY, "too hot", 600)}
	says("one", "claim:my-c1/two example.com/dev=c1-2 is Unhealthy: too hot")
	says("all", "claim:my-c1 example.com/dev=c1-1 is Healthy, claim:my-c1 example.com/dev=c1-2 is Unhealthy: too hot")
	says("none", "")
	d.reports <- []*healthv1.DeviceHealth{report("d2", healthv1.HealthStatus_HEALTHY, strings.Repeat("x", 2000), 600)}
	says("one", "claim:my-c1/two example.com/dev=c1-2 is Healthy: "+strings.Repeat("x", 1021)+"...")
	d.reports <- []*healthv1.DeviceHealth{report("d2", healthv1.HealthStatus_HEALTHY, strings.Repeat("é", 1000), 600)} // no half characters
	says("one", "claim:my-c1/two example.com/dev=c1-2 is Healthy: "+strings.Repeat("é", 510)+"...")
	d.reports <- nil // the driver ends its reports
	says("one", "claim:my-c1/two example.com/dev=c1-2 is Unknown")
}

func TestDevicesThatNeedNoCall(t *testing.T) {
	n := newNode(t)
	p := pod("a", "c1")
	c := n.claim("c1", p)
	c.Status.Allocation.Devices.Results[0].SkipNodeOperations = []resourcev1.SkipNodeOperation{resourcev1.SkipNodeOperationAll}
	if err := errors.Join(n.m.Prepare(t.Context(), p), n.m.Unprepare(t.Context(), p.UID)); err != nil {
		t.Errorf("without the driver: %v", err)
	}
	c.Status.Allocation.Devices.Results = append(c.Status.Allocation.Devices.Results, resourcev1.DeviceRequestAllocationResult{Driver: driverName})
	if err := n.m.Prepare(t.Context(), p); err == nil {
		t.Error("one device of the driver needs the call")
	}
}

func TestRegistration(t *testing.T) {
	n := newNode(t)
	if err := n.m.Register(driverName, "/x", []string{"v1alpha9.DRAPlugin"}); err == nil {
		t.Error("an unknown version was registered")
	}
	old := n.driver("old.sock")
	if err := n.m.Register("other.example.com", filepath.Join(n.dir, "old.sock"), []string{drav1.DRAPluginService}); err == nil {
		t.Error("another driver took over a socket")
	}
	replaced := n.driver("new.sock")
	n.m.Deregister(driverName, filepath.Join(n.dir, "old.sock"))
	p := pod("a", "c1")
	n.claim("c1", p)
	if err := n.m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if len(old.took()) != 0 || len(replaced.took()) != 1 {
		t.Error("the program that was replaced was called")
	}
}

func TestSlicesOfADriverThatHasGoneAreRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var removed []string
		fail := true
		start := time.Now()
		m, err := New(Config{File: filepath.Join(t.TempDir(), "claims.json"),
			Connect: func(_ string, _ int, options ...grpc.DialOption) (*grpc.ClientConn, error) {
				return grpc.NewClient("passthrough:///x", append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
			},
			RemoveSlices: func(_ context.Context, driver string, keep []string) error {
				mu.Lock()
				defer mu.Unlock()
				if fail {
					fail = false
					return errors.New("no master")
				}
				removed = append(removed, fmt.Sprintf("%q keep %q after %s", driver, keep, time.Since(start)))
				return nil
			}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- m.Run(ctx) }()
		v1 := []string{drav1.DRAPluginService}
		check := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		check(m.Register("stays", "/s", v1))
		check(m.Register("goes", "/g", v1))
		time.Sleep(40 * time.Second) // of virtual time, like those below: until after the first grace period
		m.Deregister("goes", "/g")
		m.Deregister("stays", "/s")
		time.Sleep(10 * time.Second)
		check(m.Register("stays", "/s2", v1)) // it was only restarted
		time.Sleep(time.Minute)
		mu.Lock()
		defer mu.Unlock()
		same(t, "removed", removed, []string{`"" keep ["goes" "stays"] after 31s`, `"goes" keep ["stays"] after 1m10s`})
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		m.Close()
	})
}
