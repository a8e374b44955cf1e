package csi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	spec "github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kontiki/kontiki/node/kubeletroot"
	"github.com/kontiki/kontiki/node/plugins"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
	"github.com/kontiki/kontiki/test/await"
)

// vendor is the node service of a driver.
type vendor struct {
	spec.UnimplementedNodeServer
	mu    sync.Mutex
	info  *spec.NodeGetInfoResponse
	err   error
	usage []*spec.VolumeUsage
}

func (v *vendor) NodeGetInfo(context.Context, *spec.NodeGetInfoRequest) (*spec.NodeGetInfoResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.info, v.err
}

func (v *vendor) NodeGetVolumeStats(context.Context, *spec.NodeGetVolumeStatsRequest) (*spec.NodeGetVolumeStatsResponse, error) {
	return &spec.NodeGetVolumeStatsResponse{Usage: v.usage}, nil
}

// bed is a node with plugins and masters.
type bed struct {
	t       *testing.T
	root    *kubeletroot.Root
	drivers *Drivers

	mu      sync.Mutex
	reports []string
	refuse  error
	seconds int64
	changed int
}

func newBed(t *testing.T) *bed {
	t.Helper()
	dir, err := os.MkdirTemp("", "csi") // the address of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	b := &bed{t: t}
	if b.root, err = kubeletroot.New(dir); err != nil {
		t.Fatal(err)
	}
	b.drivers = New(Config{Root: b.root, Report: b.report, Changed: func() { b.mu.Lock(); defer b.mu.Unlock(); b.changed++ }})
	return b
}

func (b *bed) report(_ context.Context, r *nodev1.ReportDriverRequest) (*nodev1.ReportDriverResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refuse != nil {
		return nil, b.refuse
	}
	text := fmt.Sprint(r.Name, " ", r.NodeId, " ", r.MaxVolumes)
	if r.Gone {
		text = r.Name + " gone"
	}
	b.reports = append(b.reports, text)
	return &nodev1.ReportDriverResponse{UpdateSeconds: b.seconds}, nil
}

func (b *bed) told(want ...string) {
	b.t.Helper()
	await.That(b.t, fmt.Sprint(want), func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if got := strings.Join(b.reports, ", "); got != strings.Join(want, ", ") {
			return fmt.Errorf("the masters were told %s", got)
		}
		return nil
	})
}

// serve starts a driver and returns how it registers.
func (b *bed) serve(name, socket string, v *vendor) plugins.Plugin {
	b.t.Helper()
	path := filepath.Join(b.root.Plugins(), socket)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		b.t.Fatal(err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		b.t.Fatal(err)
	}
	s := grpc.NewServer()
	spec.RegisterNodeServer(s, v)
	go s.Serve(l)
	b.t.Cleanup(s.Stop)
	return plugins.Plugin{Name: name, Endpoint: b.root.Seen(path), Socket: "reg-" + socket, Versions: []string{"1.0.0"}}
}

func (b *bed) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := b.drivers.Run(ctx); !errors.Is(err, context.Canceled) {
			b.t.Errorf("Run: %v", err)
		}
	}()
	b.t.Cleanup(func() { cancel(); <-done })
}

func saying(id string) *vendor {
	return &vendor{info: &spec.NodeGetInfoResponse{NodeId: id, MaxVolumesPerNode: 3}}
}

func TestDriversComeAndGo(t *testing.T) {
	b := newBed(t)
	b.run()
	ctx := context.Background()
	first := b.serve("d.example.com", "1.sock", saying("one"))
	if err := b.drivers.Register(ctx, first); err != nil {
		t.Fatal(err)
	}
	b.told("d.example.com one 3")
	// The next version of its DaemonSet serves before the first has gone.
	second := b.serve("d.example.com", "2.sock", saying("two"))
	if err := b.drivers.Register(ctx, second); err != nil {
		t.Fatal(err)
	}
	b.told("d.example.com one 3", "d.example.com two 3")
	info := func() string {
		d, err := b.drivers.Driver("d.example.com")
		if err != nil {
			return err.Error()
		}
		i, err := d.Info(ctx)
		if err != nil {
			return err.Error()
		}
		return i.NodeID
	}
	if got := info(); got != "two" {
		t.Errorf("%s is used", got)
	}
	b.drivers.Deregister(second)
	if got := info(); got != "one" {
		t.Errorf("%s is used", got)
	}
	b.drivers.Deregister(first)
	b.drivers.Deregister(first)
	if got := info(); got != "driver name d.example.com not found in the list of registered CSI drivers" {
		t.Error(got)
	}
	b.told("d.example.com one 3", "d.example.com two 3", "d.example.com gone")
	if b.changed != 2 {
		t.Errorf("pods were told %d times", b.changed)
	}
}

// TestDriversWithoutMasters can be used, and the masters are told when a session begins.
func TestDriversWithoutMasters(t *testing.T) {
	b := newBed(t)
	b.refuse = errors.New("no session with a master")
	b.run()
	if err := b.drivers.Register(context.Background(), b.serve("d.example.com", "d.sock", saying("id"))); err != nil {
		t.Fatal(err)
	}
	if _, err := b.drivers.Driver("d.example.com"); err != nil {
		t.Error(err)
	}
	b.mu.Lock()
	b.refuse = nil
	b.mu.Unlock()
	b.drivers.Announce()
	b.told("d.example.com id 3")
	b.drivers.Announce() // the Node may be a new one
	b.told("d.example.com id 3", "d.example.com id 3")
}

// TestADriverIsAskedAgain how many volumes it can attach, if its CSIDriver says so.
func TestADriverIsAskedAgain(t *testing.T) {
	b := newBed(t)
	b.seconds = 60
	v := saying("id")
	if err := b.drivers.Register(context.Background(), b.serve("d.example.com", "d.sock", v)); err != nil {
		t.Fatal(err)
	}
	v.mu.Lock()
	v.info = &spec.NodeGetInfoResponse{NodeId: "id", MaxVolumesPerNode: 5}
	v.mu.Unlock()
	if next := b.drivers.round(context.Background()); next > time.Minute || next < 30*time.Second {
		t.Errorf("the next round is in %s", next)
	}
	b.told("d.example.com id 3")
	b.run()
	b.drivers.AskAgain("d.example.com")
	b.told("d.example.com id 3", "d.example.com id 5")
}

func TestDriversThatCannotBeUsed(t *testing.T) {
	b := newBed(t)
	good := saying("id")
	for name, c := range map[string]struct {
		plugin plugins.Plugin
		want   string
	}{
		"a name that is none":     {plugins.Plugin{Name: "../x", Endpoint: "/var/lib/kubelet/plugins/x", Versions: []string{"1.0.0"}}, "is not a DNS name"},
		"a long name":             {plugins.Plugin{Name: strings.Repeat("d", 64), Versions: []string{"1.0.0"}}, "of at most 63 bytes"},
		"no version":              {plugins.Plugin{Name: "d"}, "empty list for supported versions"},
		"another version":         {plugins.Plugin{Name: "d", Versions: []string{"2.0.0"}}, "None of the versions specified"},
		"a socket of the host":    {plugins.Plugin{Name: "d", Endpoint: "/run/containerd/containerd.sock", Versions: []string{"1.0.0"}}, "is not in the kubelet's folder"},
		"no answer":               {b.serve("d", "error.sock", &vendor{err: status.Error(codes.Internal, "broken")}), "broken"},
		"an answer without an ID": {b.serve("d", "empty.sock", &vendor{info: &spec.NodeGetInfoResponse{}}), "node_id is empty"},
		"a huge answer":           {b.serve("d", "huge.sock", saying(strings.Repeat("x", maxMessage))), "larger than max"},
	} {
		if err := b.drivers.Register(context.Background(), c.plugin); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	b.refuse = status.Error(codes.FailedPrecondition, "detected topology value collision")
	if err := b.drivers.Register(context.Background(), b.serve("d", "good.sock", good)); err == nil || !strings.Contains(err.Error(), "collision") {
		t.Errorf("what the masters refuse: %v", err)
	}
	if _, err := b.drivers.Driver("d"); err == nil {
		t.Error("one of them is used")
	}
	if b.changed != 0 {
		t.Error("pods were told")
	}
}

func TestHostileStatistics(t *testing.T) {
	b := newBed(t)
	v := saying("id")
	if err := b.drivers.Register(context.Background(), b.serve("d", "d.sock", v)); err != nil {
		t.Fatal(err)
	}
	d, err := b.drivers.Driver("d")
	if err != nil {
		t.Fatal(err)
	}
	for name, usage := range map[string][]*spec.VolumeUsage{
		"negative":   {{Unit: spec.VolumeUsage_BYTES, Used: -1}},
		"unknown":    {{Unit: 9}},
		"too many":   make([]*spec.VolumeUsage, maxUsages+1),
		"of no kind": {{}},
	} {
		v.usage = usage
		if u, err := d.Stats(context.Background(), "v", "", "/p"); err == nil {
			t.Errorf("%s: %+v", name, u)
		}
	}
}

// TestDriversThatComeAndGoWhileNoMasterIsThere: what the masters are to be told is bounded.
func TestDriversThatComeAndGoWhileNoMasterIsThere(t *testing.T) {
	b := newBed(t)
	b.refuse = status.Error(codes.Unavailable, "no master")
	plugin := b.serve("d", "d.sock", saying("n"))
	for i := range maxReports {
		plugin.Name = fmt.Sprint("driver-", i)
		if err := b.drivers.Register(t.Context(), plugin); err != nil {
			t.Fatal(err)
		}
		b.drivers.Deregister(plugin)
	}
	plugin.Name = "another"
	if err := b.drivers.Register(t.Context(), plugin); err == nil || !strings.Contains(err.Error(), "that is the limit") {
		t.Errorf("one more driver: %v", err)
	}
	plugin.Name = "driver-7"
	if err := b.drivers.Register(t.Context(), plugin); err != nil {
		t.Errorf("one that comes back: %v", err)
	}
}
