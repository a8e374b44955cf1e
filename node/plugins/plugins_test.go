package plugins

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

	"google.golang.org/grpc"
	registration1 "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/kontiki/kontiki/node/kubeletroot"
	"github.com/kontiki/kontiki/test/await"
)

// vendor is a plugin.
type vendor struct {
	registration1.UnimplementedRegistrationServer
	info *registration1.PluginInfo

	mu       sync.Mutex
	statuses []*registration1.RegistrationStatus
}

func (v *vendor) GetInfo(context.Context, *registration1.InfoRequest) (*registration1.PluginInfo, error) {
	return v.info, nil
}

func (v *vendor) NotifyRegistrationStatus(_ context.Context, s *registration1.RegistrationStatus) (*registration1.RegistrationStatusResponse, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.statuses = append(v.statuses, s)
	return &registration1.RegistrationStatusResponse{}, nil
}

// told returns the last status that the plugin was told.
func (v *vendor) told() *registration1.RegistrationStatus {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.statuses) == 0 {
		return nil
	}
	return v.statuses[len(v.statuses)-1]
}

// serve serves at a socket until stop is called, which removes it.
func (v *vendor) serve(t *testing.T, socket string) (stop func()) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	registration1.RegisterRegistrationServer(s, v)
	go s.Serve(l)
	t.Cleanup(s.Stop)
	return s.Stop
}

// record is a handler that records its calls.
type record struct {
	mu     sync.Mutex
	calls  []string
	refuse func(p Plugin) error
}

func (r *record) Register(_ context.Context, p Plugin) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		if err := r.refuse(p); err != nil {
			r.calls = append(r.calls, "refuse "+p.Name)
			return err
		}
	}
	r.calls = append(r.calls, fmt.Sprintf("register %s %s %v", p.Name, p.Endpoint, p.Versions))
	return nil
}

func (r *record) Deregister(p Plugin) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, "deregister "+p.Name)
}

func (r *record) await(t *testing.T, want ...string) {
	t.Helper()
	await.That(t, fmt.Sprint(want), func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if !slices.Equal(r.calls, want) {
			return fmt.Errorf("calls: %q", r.calls)
		}
		return nil
	})
}

// watch runs a Watcher over a folder of its own until the test ends or stop is called.
func watch(t *testing.T, handlers map[string]Handler) (root *kubeletroot.Root, start func() (stop func())) {
	t.Helper()
	// Sockets' addresses are short, and the tests' folders are long.
	dir, err := os.MkdirTemp("", "plugins")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if root, err = kubeletroot.New(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(root.Registry(), 0o750); err != nil {
		t.Fatal(err)
	}
	return root, func() func() {
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			if err := NewWatcher(root, handlers).Run(ctx); !errors.Is(err, context.Canceled) {
				t.Errorf("Run: %v", err)
			}
		}()
		stop := sync.OnceFunc(func() { cancel(); <-done })
		t.Cleanup(stop)
		return stop
	}
}

func driver(name string) *vendor {
	return &vendor{info: &registration1.PluginInfo{Type: registration1.CSIPlugin, Name: name, Endpoint: "/var/lib/kubelet/plugins/" + name + "/csi.sock", SupportedVersions: []string{"1.0.0"}}}
}

func awaitTold(t *testing.T, v *vendor, registered bool, text string) {
	t.Helper()
	await.That(t, "the plugin is told", func() error {
		s := v.told()
		if s == nil || s.PluginRegistered != registered || !strings.Contains(s.Error, text) || registered && s.Error != "" {
			return fmt.Errorf("status: %v", s)
		}
		return nil
	})
}

func TestPluginsAreRegisteredAsTheirSocketsComeAndGo(t *testing.T) {
	calls := &record{}
	root, start := watch(t, map[string]Handler{registration1.CSIPlugin: calls})
	early := driver("early")
	early.serve(t, filepath.Join(root.Registry(), "early-reg.sock"))
	stop := start()
	registered := "register early /var/lib/kubelet/plugins/early/csi.sock [1.0.0]"
	calls.await(t, registered)
	awaitTold(t, early, true, "")

	// One in a folder that is made later, under a hidden name first, without an endpoint of its own.
	if err := os.Mkdir(filepath.Join(root.Registry(), "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	late := driver("late")
	late.info.Endpoint = ""
	gone := late.serve(t, filepath.Join(root.Registry(), "sub", ".late.sock"))
	if err := os.Rename(filepath.Join(root.Registry(), "sub", ".late.sock"), filepath.Join(root.Registry(), "sub", "late.sock")); err != nil {
		t.Fatal(err)
	}
	calls.await(t, registered, "register late /var/lib/kubelet/plugins_registry/sub/late.sock [1.0.0]")

	// It is replaced by another process, and goes then.
	gone()
	if err := os.Remove(filepath.Join(root.Registry(), "sub", "late.sock")); err != nil {
		t.Fatal(err)
	}
	again := driver("late")
	gone = again.serve(t, filepath.Join(root.Registry(), "sub", "late.sock"))
	second := "register late /var/lib/kubelet/plugins/late/csi.sock [1.0.0]"
	calls.await(t, registered, "register late /var/lib/kubelet/plugins_registry/sub/late.sock [1.0.0]", "deregister late", second)
	awaitTold(t, again, true, "")
	gone() // removes the socket
	calls.await(t, registered, "register late /var/lib/kubelet/plugins_registry/sub/late.sock [1.0.0]", "deregister late", second, "deregister late")

	// The agent stops: nothing is deregistered, and its next process registers again.
	stop()
	calls.mu.Lock()
	calls.calls = nil
	calls.mu.Unlock()
	start()
	calls.await(t, registered)
}

func TestARegistrationThatFailsIsToldAndTriedAgain(t *testing.T) {
	refused := false
	calls := &record{refuse: func(Plugin) error {
		if refused {
			return nil
		}
		refused = true
		return errors.New("not yet" + strings.Repeat("é", maxReason))
	}}
	root, start := watch(t, map[string]Handler{registration1.CSIPlugin: calls})
	start()
	v := driver("driver")
	v.serve(t, filepath.Join(root.Registry(), "driver.sock"))
	calls.await(t, "refuse driver", "register driver /var/lib/kubelet/plugins/driver/csi.sock [1.0.0]")
	awaitTold(t, v, true, "")
	if first := v.statuses[0]; first.PluginRegistered || !strings.HasPrefix(first.Error, "plugin registration failed with err: not yet") || len(first.Error) > maxReason {
		t.Errorf("the first status: %v", first)
	}
}

func TestAHandlerThatPanicsHarmsNobody(t *testing.T) {
	calls := &record{refuse: func(p Plugin) error {
		if p.Name == "bad" {
			panic("broken") // a handler with a bug
		}
		return nil
	}}
	root, start := watch(t, map[string]Handler{registration1.CSIPlugin: calls})
	start()
	bad := driver("bad")
	bad.serve(t, filepath.Join(root.Registry(), "bad.sock"))
	awaitTold(t, bad, false, "panic: broken")
	driver("good").serve(t, filepath.Join(root.Registry(), "good.sock"))
	calls.await(t, "register good /var/lib/kubelet/plugins/good/csi.sock [1.0.0]")
}

func TestHostilePluginsAreRefused(t *testing.T) {
	long := strings.Repeat("x", maxPath+1)
	versions := make([]string, maxVersions+1)
	for name, c := range map[string]struct {
		info *registration1.PluginInfo
		told string
	}{
		"no name":           {&registration1.PluginInfo{Type: registration1.CSIPlugin}, "name is empty"},
		"a long name":       {&registration1.PluginInfo{Type: registration1.CSIPlugin, Name: long}, "name has over 253 bytes"},
		"a long type":       {&registration1.PluginInfo{Type: long, Name: "x"}, "type has over 253 bytes"},
		"an unknown type":   {&registration1.PluginInfo{Type: "Toaster", Name: "x"}, "no handler registered for plugin type: Toaster"},
		"a long endpoint":   {&registration1.PluginInfo{Type: registration1.CSIPlugin, Name: "x", Endpoint: long}, "endpoint has over 1024 bytes"},
		"too many versions": {&registration1.PluginInfo{Type: registration1.CSIPlugin, Name: "x", SupportedVersions: versions}, "over 32 supported_versions"},
		"a long version":    {&registration1.PluginInfo{Type: registration1.CSIPlugin, Name: "x", SupportedVersions: []string{long}}, "a supported version has over"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			calls := &record{}
			root, start := watch(t, map[string]Handler{registration1.CSIPlugin: calls})
			start()
			v := &vendor{info: c.info}
			v.serve(t, filepath.Join(root.Registry(), "x.sock"))
			awaitTold(t, v, false, c.told)
			calls.await(t)
		})
	}
}

func TestWhatIsNoSocketIsIgnored(t *testing.T) {
	calls := &record{}
	root, start := watch(t, map[string]Handler{registration1.CSIPlugin: calls})
	outside := filepath.Join(root.Dir(), "elsewhere")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	linked := driver("linked")
	linked.serve(t, filepath.Join(outside, "linked.sock"))
	huge := driver("huge")
	huge.info.SupportedVersions = []string{strings.Repeat("x", maxMessage)}
	huge.serve(t, filepath.Join(root.Registry(), "huge.sock"))
	for _, err := range []error{
		os.Symlink(filepath.Join(outside, "linked.sock"), filepath.Join(root.Registry(), "link.sock")),
		os.Symlink(outside, filepath.Join(root.Registry(), "folder")),
		os.WriteFile(filepath.Join(root.Registry(), "file.sock"), nil, 0o644),
		os.MkdirAll(filepath.Join(root.Registry(), "1/2/3/4/5"), 0o755),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	driver("deep").serve(t, filepath.Join(root.Registry(), "1/2/3/4/5", "deep.sock"))
	start()
	driver("good").serve(t, filepath.Join(root.Registry(), "good.sock"))
	calls.await(t, "register good /var/lib/kubelet/plugins/good/csi.sock [1.0.0]")
	if s := linked.told(); s != nil {
		t.Errorf("a link was followed: %v", s)
	}
	if s := huge.told(); s != nil {
		t.Errorf("a huge message was taken: %v", s)
	}
}
