package devices

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	podresourcesv1 "k8s.io/kubelet/pkg/apis/podresources/v1"

	"github.com/kontiki/kontiki/node/numa"
	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/test/await"
)

const gpu = "example.com/gpu"

// vendor is a device plugin.
type vendor struct {
	pluginapi.UnimplementedDevicePluginServer
	options *pluginapi.DevicePluginOptions
	prefer  func(*pluginapi.ContainerPreferredAllocationRequest) []string
	answer  func(ids []string) *pluginapi.ContainerAllocateResponse
	changes chan []*pluginapi.Device
	stop    func()

	mu      sync.Mutex
	starts  []string
	asked   int
	refuses error
}

func (v *vendor) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	if v.options == nil {
		return &pluginapi.DevicePluginOptions{}, nil
	}
	return v.options, nil
}

func (v *vendor) ListAndWatch(_ *pluginapi.Empty, s grpc.ServerStreamingServer[pluginapi.ListAndWatchResponse]) error {
	for {
		select {
		case list := <-v.changes:
			if err := s.Send(&pluginapi.ListAndWatchResponse{Devices: list}); err != nil {
				return err
			}
		case <-s.Context().Done():
			return nil
		}
	}
}

func (v *vendor) GetPreferredAllocation(_ context.Context, r *pluginapi.PreferredAllocationRequest) (*pluginapi.PreferredAllocationResponse, error) {
	return &pluginapi.PreferredAllocationResponse{ContainerResponses: []*pluginapi.ContainerPreferredAllocationResponse{{DeviceIDs: v.prefer(r.ContainerRequests[0])}}}, nil
}

func (v *vendor) Allocate(_ context.Context, r *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.refuses != nil {
		return nil, v.refuses
	}
	v.asked++
	ids := r.ContainerRequests[0].DevicesIds
	answer := &pluginapi.ContainerAllocateResponse{Envs: map[string]string{"DEVICES": strings.Join(ids, ",")}}
	if v.answer != nil {
		answer = v.answer(ids)
	}
	return &pluginapi.AllocateResponse{ContainerResponses: []*pluginapi.ContainerAllocateResponse{answer}}, nil
}

func (v *vendor) PreStartContainer(_ context.Context, r *pluginapi.PreStartContainerRequest) (*pluginapi.PreStartContainerResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.starts = append(v.starts, strings.Join(r.DevicesIds, ","))
	return &pluginapi.PreStartContainerResponse{}, nil
}

// healthy returns devices that are healthy.
func healthy(ids ...string) []*pluginapi.Device {
	var out []*pluginapi.Device
	for _, id := range ids {
		out = append(out, &pluginapi.Device{ID: id, Health: pluginapi.Healthy})
	}
	return out
}

// node is a folder and the manager that has it now.
type node struct {
	t    *testing.T
	m    *Manager
	stop func()
	c    Config
}

func newNode(t *testing.T) *node {
	dir, err := os.MkdirTemp("", "dp") // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	n := &node{t: t, c: Config{Dir: dir, NUMANodes: []int{0, 1}, Connect: func(socket string, limit int) (*grpc.ClientConn, error) {
		return grpc.NewClient("unix:"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(limit)))
	}}}
	n.start()
	t.Cleanup(func() { n.stop() })
	return n
}

// start starts a manager, as an agent that starts does.
func (n *node) start() {
	n.t.Helper()
	var err error
	if n.m, err = New(n.c); err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- n.m.Run(ctx) }()
	n.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			n.t.Error(err)
		}
	})
	await.That(n.t, "the registration's socket", func() error {
		_, err := os.Lstat(filepath.Join(n.c.Dir, socketName))
		return err
	})
}

// register passes a request to kubelet.sock.
func (n *node) register(r *pluginapi.RegisterRequest) error {
	conn, err := grpc.NewClient("unix:"+filepath.Join(n.c.Dir, socketName), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = pluginapi.NewRegistrationClient(conn).Register(n.t.Context(), r, grpc.WaitForReady(true)) // the socket may not accept yet
	return err
}

// plugin starts a plugin with devices.
func (n *node) plugin(v *vendor, endpoint string, devices ...*pluginapi.Device) *vendor {
	n.t.Helper()
	listener, err := net.Listen("unix", filepath.Join(n.c.Dir, endpoint))
	if err != nil {
		n.t.Fatal(err)
	}
	v.changes = make(chan []*pluginapi.Device, 1)
	server := grpc.NewServer()
	pluginapi.RegisterDevicePluginServer(server, v)
	go server.Serve(listener)
	v.stop = sync.OnceFunc(server.Stop)
	n.t.Cleanup(v.stop)
	if err := n.register(&pluginapi.RegisterRequest{Version: pluginapi.Version, Endpoint: endpoint, ResourceName: gpu}); err != nil {
		n.t.Fatal(err)
	}
	v.changes <- devices
	up := 0
	for _, d := range devices {
		if d.Health == pluginapi.Healthy {
			up++
		}
	}
	n.has(len(devices), up)
	return v
}

// has waits until the node has that many devices.
func (n *node) has(all, up int) {
	n.t.Helper()
	await.That(n.t, fmt.Sprintf("%d devices, %d allocatable", all, up), func() error {
		capacity, allocatable := n.m.Resources()
		have, can := capacity[gpu], allocatable[gpu]
		if _, ok := capacity[gpu]; !ok || have.Value() != int64(all) || can.Value() != int64(up) {
			return fmt.Errorf("capacity %v, allocatable %v", capacity, allocatable)
		}
		return nil
	})
}

func limits(n int) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Limits: corev1.ResourceList{gpu: *resource.NewQuantity(int64(n), resource.DecimalSI)}}
}

func pod(uid string, containers ...int) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), Name: uid}}
	for i, n := range containers {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: fmt.Sprint("c", i), Resources: limits(n)})
	}
	return p
}

// allocate allocates for each container of a pod.
func (n *node) allocate(p *corev1.Pod) error {
	all := append(slices.Clone(p.Spec.InitContainers), p.Spec.Containers...)
	for i := range all {
		if err := n.m.Allocate(n.t.Context(), p, &all[i], numa.Hint{}); err != nil {
			return err
		}
	}
	return nil
}

// devices returns what a container has, by the answer of the plugin.
func (n *node) devices(p *corev1.Pod, container string) []string {
	n.t.Helper()
	e, err := n.m.Container(n.t.Context(), p, container)
	if err != nil {
		n.t.Fatal(err)
	}
	for _, kv := range e.Env {
		if kv.Name == "DEVICES" {
			return strings.Split(kv.Value, ",")
		}
	}
	return nil
}

func TestNoDeviceIsGivenTwiceAndAReleasedOneAgain(t *testing.T) {
	n := newNode(t)
	n.plugin(&vendor{}, "v.sock", healthy("a", "b", "c")...)
	first, second, third := pod("p1", 1, 1), pod("p2", 1), pod("p3", 1)
	if err := errors.Join(n.allocate(first), n.allocate(second)); err != nil {
		t.Fatal(err)
	}
	given := slices.Concat(n.devices(first, "c0"), n.devices(first, "c1"), n.devices(second, "c0"))
	if slices.Sort(given); !slices.Equal(given, []string{"a", "b", "c"}) {
		t.Errorf("given: %v", given)
	}
	if err := n.allocate(third); err == nil || err.Error() != "requested number of devices unavailable for example.com/gpu. Requested: 1, Available: 0" {
		t.Errorf("a fourth device: %v", err)
	}
	if n.m.Pods(); slices.Contains(n.m.Pods(), "p3") {
		t.Error("the pod that got nothing is remembered")
	}
	freed := n.devices(first, "c1")
	if err := n.m.Release("p1"); err != nil {
		t.Fatal(err)
	}
	if err := n.allocate(third); err != nil {
		t.Fatal(err)
	}
	if got := n.devices(third, "c0"); slices.Equal(got, n.devices(second, "c0")) {
		t.Errorf("third pod has %v, which the second one has (freed: %v)", got, freed)
	}
}

func TestAllocationsOutliveTheAgentAndAreNotAskedForAgain(t *testing.T) {
	n := newNode(t)
	v := n.plugin(&vendor{}, "v.sock", healthy("a", "b")...)
	p := pod("p1", 1)
	if err := n.allocate(p); err != nil {
		t.Fatal(err)
	}
	had := n.devices(p, "c0")
	n.stop()
	v.stop()
	n.start()
	n.has(0, 0) // until the plugin registers again
	if got := n.devices(p, "c0"); !slices.Equal(got, had) {
		t.Errorf("after a restart: %v, before: %v", got, had)
	}
	if !n.m.Manages(gpu) {
		t.Error("the resource of a plugin that has not come back yet is not managed")
	}
	if err := n.allocate(pod("p2", 1)); err == nil || !strings.Contains(err.Error(), "no healthy devices present") {
		t.Errorf("without the plugin: %v", err)
	}
	again := n.plugin(&vendor{}, "v2.sock", healthy("a", "b")...)
	other := pod("p2", 1)
	if err := errors.Join(n.allocate(p), n.allocate(other)); err != nil {
		t.Fatal(err)
	}
	if again.asked != 1 {
		t.Errorf("the plugin was asked %d times, want only for the new pod", again.asked)
	}
	if got := n.devices(other, "c0"); slices.Equal(got, had) {
		t.Errorf("two pods have %v", got)
	}
	if err := n.allocate(pod("p1", 2)); err == nil || !strings.Contains(err.Error(), "changed request") {
		t.Errorf("another number of devices: %v", err)
	}
}

func TestDevicesThatAreNotHealthyAreCapacityOnly(t *testing.T) {
	n := newNode(t)
	v := n.plugin(&vendor{}, "v.sock", healthy("a", "b")...)
	p := pod("p1", 1)
	if err := n.allocate(p); err != nil {
		t.Fatal(err)
	}
	had := n.devices(p, "c0")[0]
	list := healthy("a", "b")
	for _, d := range list {
		if d.ID == had {
			d.Health = pluginapi.Unhealthy
		}
	}
	v.changes <- list
	n.has(2, 1)
	want := []corev1.ResourceStatus{{Name: gpu, Resources: []corev1.ResourceHealth{{ResourceID: corev1.ResourceID(had), Health: corev1.ResourceHealthStatusUnhealthy}}}}
	if got := n.m.Health(p, "c0"); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("health: %v, want %v", got, want)
	}
	v.changes <- healthy("a")
	n.has(1, 1)
}

func TestThePluginsEndMakesTheCapacityZeroAfterAGracePeriod(t *testing.T) {
	n := newNode(t)
	v := n.plugin(&vendor{}, "v.sock", healthy("a", "b")...)
	v.stop()
	n.has(2, 0)
	n.stop()
	n.c.Grace = time.Millisecond
	n.start()
	v = n.plugin(&vendor{}, "v1.sock", healthy("a", "b")...)
	v.stop()
	n.has(0, 0)
	await.That(t, "the end of the grace period", func() error {
		if n.m.Manages(gpu) {
			return errors.New("still managed")
		}
		return nil
	})
	n.plugin(&vendor{}, "v2.sock", healthy("a")...) // it comes back
}

// TestAPluginThatComesAndGoesLeavesNothingWaiting: at most one goroutine waits for the end of a resource's grace period.
func TestAPluginThatComesAndGoesLeavesNothingWaiting(t *testing.T) {
	n := newNode(t)
	for i := range 5 {
		v := n.plugin(&vendor{}, fmt.Sprintf("v%d.sock", i), healthy("a")...)
		v.stop()
		n.has(1, 0)
	}
	await.That(t, "one that waits", func() error {
		stacks := make([]byte, 4<<20)
		waiting := 0
		for stack := range strings.SplitSeq(string(stacks[:goruntime.Stack(stacks, true)]), "\n\n") {
			if strings.Contains(stack, "devices.(*Manager).expireLater.func1(") {
				waiting++
			}
		}
		if waiting != 1 {
			return fmt.Errorf("%d wait", waiting)
		}
		return nil
	})
}

func TestAPluginThatRegistersAgainReplacesItself(t *testing.T) {
	n := newNode(t)
	old := n.plugin(&vendor{}, "v.sock", healthy("a")...)
	n.plugin(&vendor{}, "w.sock", healthy("a", "b")...) // an update of the vendor's DaemonSet
	old.stop()
	await.That(t, "the end of the old plugin", func() error {
		n.m.mu.Lock()
		defer n.m.mu.Unlock()
		if got := len(n.m.resources[gpu].plugins); got != 1 {
			return fmt.Errorf("%d plugins", got)
		}
		return nil
	})
	n.has(2, 2)
	if err := n.allocate(pod("p1", 2)); err != nil {
		t.Error(err)
	}
}

func TestAPluginThatIsFoundInTheFolderOfPlugins(t *testing.T) {
	n := newNode(t)
	socket := filepath.Join(n.c.Dir, "found.sock")
	v := &vendor{changes: make(chan []*pluginapi.Device, 1)}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	pluginapi.RegisterDevicePluginServer(server, v)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	if n.m.Register(t.Context(), gpu, socket, []string{"v1"}) == nil || n.m.Register(t.Context(), "cpu", socket, []string{pluginapi.Version}) == nil {
		t.Error("another version, or a native resource, was registered")
	}
	if err := n.m.Register(t.Context(), gpu, socket, []string{"v1", pluginapi.Version}); err != nil {
		t.Fatal(err)
	}
	v.changes <- healthy("a")
	n.has(1, 1)
	n.m.Deregister(gpu, socket)
	n.has(1, 0)
}

func TestInitContainersShareWithThoseThatRunLater(t *testing.T) {
	n := newNode(t)
	n.plugin(&vendor{}, "v.sock", healthy("a", "b", "c")...)
	always := corev1.ContainerRestartPolicyAlways
	p := pod("p1", 1)
	p.Spec.InitContainers = []corev1.Container{{Name: "i0", Resources: limits(2)}, {Name: "side", RestartPolicy: &always, Resources: limits(1)}, {Name: "i1", Resources: limits(1)}}
	if err := n.allocate(p); err != nil {
		t.Fatal(err)
	}
	i0, side, i1, c0 := n.devices(p, "i0"), n.devices(p, "side"), n.devices(p, "i1"), n.devices(p, "c0")
	if !slices.Contains(i0, side[0]) || !slices.Contains(i0, i1[0]) || !slices.Equal(i1, c0) || side[0] == c0[0] {
		t.Errorf("i0 %v, side %v, i1 %v, c0 %v: later ones share with i0, and none with the sidecar", i0, side, i1, c0)
	}
	if err := n.allocate(pod("p2", 1)); err != nil {
		t.Errorf("the third device: %v", err)
	}
}

func TestThePluginsPreferenceAndPreStart(t *testing.T) {
	n := newNode(t)
	v := n.plugin(&vendor{
		options: &pluginapi.DevicePluginOptions{PreStartRequired: true, GetPreferredAllocationAvailable: true},
		prefer: func(r *pluginapi.ContainerPreferredAllocationRequest) []string {
			slices.Sort(r.AvailableDeviceIDs)
			slices.Reverse(r.AvailableDeviceIDs)
			return append([]string{"unknown"}, r.AvailableDeviceIDs[:r.AllocationSize]...)
		}}, "v.sock", healthy("a", "b", "c")...)
	p := pod("p1", 2)
	if err := n.allocate(p); err != nil {
		t.Fatal(err)
	}
	if got := n.devices(p, "c0"); !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("devices %v, want the preferred ones", got)
	}
	if !slices.Equal(v.starts, []string{"b,c"}) {
		t.Errorf("PreStartContainer: %v", v.starts)
	}
	n.stop()
	v.stop()
	n.start()
	if _, err := n.m.Container(t.Context(), p, "c0"); err == nil || !strings.Contains(err.Error(), "is not connected") {
		t.Errorf("a start without the plugin: %v", err)
	}
}

func TestDevicesNearTheHintComeFirst(t *testing.T) {
	n := newNode(t)
	at := func(id string, node int64) *pluginapi.Device {
		return &pluginapi.Device{ID: id, Health: pluginapi.Healthy, Topology: &pluginapi.TopologyInfo{Nodes: []*pluginapi.NUMANode{{ID: node}}}}
	}
	n.plugin(&vendor{}, "v.sock", at("a", 0), at("b", 1), at("c", 1))
	policy, err := numa.NewPolicy(numa.SingleNUMANode, &numa.Machine{Nodes: []numa.Node{{ID: 0}, {ID: 1}}}, numa.Options{})
	if err != nil {
		t.Fatal(err)
	}
	two := pod("p1", 2)
	hint, admit := policy.Merge([]numa.Hints{n.m.Hints(two, &two.Spec.Containers[0])})
	if !admit || hint.Nodes.String() != "10" {
		t.Fatalf("two devices: %v %v", hint, admit)
	}
	if err := n.m.Allocate(t.Context(), two, &two.Spec.Containers[0], hint); err != nil {
		t.Fatal(err)
	}
	if got := n.devices(two, "c0"); !slices.Equal(got, []string{"b", "c"}) {
		t.Errorf("devices %v", got)
	}
	var described podresourcesv1.ContainerResources
	var all podresourcesv1.AllocatableResourcesResponse
	n.m.Describe(two, "c0", &described)
	n.m.Allocatable(&all)
	if d := described.Devices; len(d) != 2 || d[0].ResourceName != gpu || d[0].DeviceIds[0] != "b" || d[0].Topology.Nodes[0].ID != 1 || len(all.Devices) != 3 {
		t.Errorf("described: %v, of %v", d, all.Devices)
	}
	more := pod("p2", 2)
	if hint, admit := policy.Merge([]numa.Hints{n.m.Hints(more, &more.Spec.Containers[0])}); admit {
		t.Errorf("two more devices: %v", hint)
	}
}

func TestAnAnswersEdits(t *testing.T) {
	n := newNode(t)
	n.m.c.Real = func(p string) string { return strings.Replace(p, "/var/lib/kubelet", "/real", 1) }
	n.plugin(&vendor{answer: func([]string) *pluginapi.ContainerAllocateResponse {
		return &pluginapi.ContainerAllocateResponse{
			Mounts:      []*pluginapi.Mount{{HostPath: "/var/lib/kubelet/x", ContainerPath: "/x", ReadOnly: true}},
			Devices:     []*pluginapi.DeviceSpec{{HostPath: "/dev/null", ContainerPath: "/dev/gpu", Permissions: "rw"}},
			Annotations: map[string]string{"k": "v"}, CdiDevices: []*pluginapi.CDIDevice{{Name: "example.com/gpu=0"}}}
	}}, "v.sock", healthy("a")...)
	p := pod("p1", 1)
	if err := n.allocate(p); err != nil {
		t.Fatal(err)
	}
	e, err := n.m.Container(t.Context(), p, "c0")
	if err != nil {
		t.Fatal(err)
	}
	if len(e.Mounts) != 1 || e.Mounts[0] != (runtime.Mount{HostPath: "/real/x", ContainerPath: "/x", ReadOnly: true}) {
		t.Errorf("mounts: %+v", e.Mounts)
	}
	if got := fmt.Sprintf("%v %v %v", e.Devices, e.Annotations, e.CDIDevices); got != "[{/dev/null /dev/gpu rw}] map[k:v] [example.com/gpu=0]" {
		t.Error(got)
	}
	if e, err := n.m.Container(t.Context(), p, "other"); err != nil || len(e.Env)+len(e.Mounts) > 0 {
		t.Errorf("a container without devices: %v %v", e, err)
	}
}

func TestWhatAPluginMayNotSay(t *testing.T) {
	n := newNode(t)
	v := n.plugin(&vendor{}, "v.sock", healthy("a")...)
	for what, answer := range map[string]*pluginapi.ContainerAllocateResponse{
		"a relative mount":      {Mounts: []*pluginapi.Mount{{HostPath: "etc", ContainerPath: "/x"}}},
		"a device without path": {Devices: []*pluginapi.DeviceSpec{{ContainerPath: "/dev/x"}}},
		"permissions":           {Devices: []*pluginapi.DeviceSpec{{HostPath: "/dev/null", ContainerPath: "/dev/x", Permissions: "rwx"}}},
		"a variable's name":     {Envs: map[string]string{"A=B": ""}},
		"too much":              {Devices: make([]*pluginapi.DeviceSpec, maxEdits+1)},
	} {
		for i := range answer.Devices {
			if answer.Devices[i] == nil {
				answer.Devices[i] = &pluginapi.DeviceSpec{HostPath: "/dev/null", ContainerPath: "/dev/x"}
			}
		}
		v.answer = func([]string) *pluginapi.ContainerAllocateResponse { return answer }
		if err := n.allocate(pod("p1", 1)); err == nil {
			t.Errorf("%s: allowed", what)
		}
		if len(n.m.Pods()) > 0 {
			t.Errorf("%s: a device stays allocated", what)
		}
	}
	os.WriteFile(filepath.Join(n.c.Dir, "file"), nil, 0o600)
	os.Symlink("v.sock", filepath.Join(n.c.Dir, "link"))
	for what, r := range map[string]*pluginapi.RegisterRequest{
		"version":                 {Version: "v1", Endpoint: "v.sock", ResourceName: gpu},
		"native resource":         {Version: pluginapi.Version, Endpoint: "v.sock", ResourceName: "cpu"},
		"reserved domain":         {Version: pluginapi.Version, Endpoint: "v.sock", ResourceName: "kubernetes.io/gpu"},
		"path":                    {Version: pluginapi.Version, Endpoint: "../v.sock", ResourceName: gpu},
		"its own socket":          {Version: pluginapi.Version, Endpoint: "kubelet.sock", ResourceName: gpu},
		"no socket":               {Version: pluginapi.Version, Endpoint: "none", ResourceName: gpu},
		"file":                    {Version: pluginapi.Version, Endpoint: "file", ResourceName: gpu},
		"link":                    {Version: pluginapi.Version, Endpoint: "link", ResourceName: gpu},
		"an empty name of socket": {Version: pluginapi.Version, ResourceName: gpu},
	} {
		if err := n.register(r); err == nil {
			t.Errorf("%s: registered", what)
		}
	}
	v.changes <- []*pluginapi.Device{{ID: strings.Repeat("x", maxIDLength+1)}}
	n.has(1, 0) // such a plugin is disconnected
}

func TestDevicesOfADamagedCheckpointAreNotGivenAgain(t *testing.T) {
	n := newNode(t)
	n.stop()
	if err := os.WriteFile(filepath.Join(n.c.Dir, checkpointFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(n.c); err == nil || !strings.Contains(err.Error(), checkpointFile) {
		t.Errorf("a damaged checkpoint: %v", err)
	}
}

func TestAFailureOfOneResourceFreesTheOther(t *testing.T) {
	n := newNode(t)
	v := n.plugin(&vendor{}, "v.sock", healthy("a")...)
	p := pod("p1", 1)
	p.Spec.Containers[0].Resources.Limits["example.com/zzz"] = resource.MustParse("1")
	n.m.mu.Lock()
	n.m.resources["example.com/zzz"] = &extended{}
	n.m.mu.Unlock()
	if err := n.allocate(p); err == nil || !strings.Contains(err.Error(), "no healthy devices present; cannot allocate unhealthy devices example.com/zzz") {
		t.Errorf("%v", err)
	}
	if v.asked != 1 || len(n.m.Pods()) != 0 {
		t.Errorf("asked %d times, pods %v", v.asked, n.m.Pods())
	}
	v.mu.Lock()
	v.refuses = errors.New("the device is on fire")
	v.mu.Unlock()
	if err := n.allocate(pod("p2", 1)); err == nil || !strings.Contains(err.Error(), "the device is on fire") {
		t.Errorf("%v", err)
	}
	if got := slices.Collect(maps.Keys(n.m.pods)); len(got) != 0 {
		t.Errorf("pods %v", got)
	}
}
