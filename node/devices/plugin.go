package devices

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/netutil"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"k8s.io/kubernetes/pkg/apis/core"
	"k8s.io/kubernetes/pkg/apis/core/helper"

	"github.com/kontiki/kontiki/internal/beneath"
	"github.com/kontiki/kontiki/internal/contain"
)

// plugin is the connection to one plugin.
type plugin struct {
	resource, socket string
	api              pluginapi.DevicePluginClient
	options          *pluginapi.DevicePluginOptions
	cancel           context.CancelFunc
}

// socketName is the name of the socket at which plugins register.
const socketName = "kubelet.sock"

// serve removes the sockets of earlier agents and plugins, and serves the registration until ctx ends. That its socket is made anew tells
// plugins to register again.
func (m *Manager) serve(ctx context.Context) error {
	if err := removeSockets(m.c.Dir); err != nil {
		return fmt.Errorf("device plugins: %w", err)
	}
	listener, err := listen(m.c.Dir)
	if err != nil {
		return fmt.Errorf("device plugins: %w", err)
	}
	defer os.Remove(filepath.Join(m.c.Dir, socketName))
	server := grpc.NewServer(grpc.MaxRecvMsgSize(64<<10), grpc.MaxConcurrentStreams(16), grpc.ConnectionTimeout(connectionWindow),
		grpc.UnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (answer any, err error) {
			defer contain.Recover(&err)
			return handle(ctx, req)
		}))
	pluginapi.RegisterRegistrationServer(server, &registration{m: m})
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	m.mu.Lock()
	for name, r := range m.resources { // known to an earlier agent
		if len(r.plugins) == 0 && !r.expired {
			r.stopped = time.Now()
			m.expireLater(ctx, name, r.stopped)
		}
	}
	m.mu.Unlock()
	if err := server.Serve(netutil.LimitListener(listener, maxConnections)); err != nil && ctx.Err() == nil {
		return fmt.Errorf("device plugins: %w", err)
	}
	return ctx.Err()
}

// listen makes the socket of the registration. The folder's path may be longer than a socket's may be.
func listen(dir string) (net.Listener, error) {
	d, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(beneath.Path(d), socketName)})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false) // that path leads elsewhere by then
	return listener, nil
}

func removeSockets(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range entries {
		if e.Type()&fs.ModeSocket != 0 {
			errs = append(errs, os.Remove(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(errs...)
}

// registration is the service of kubelet.sock.
type registration struct {
	pluginapi.UnimplementedRegistrationServer
	m *Manager
}

// Register connects to a plugin. It responds when the plugin has said its options.
func (r *registration) Register(ctx context.Context, req *pluginapi.RegisterRequest) (*pluginapi.Empty, error) {
	err := r.m.register(ctx, req)
	if err != nil {
		slog.Warn("a device plugin was not registered", "resource", clip(req.ResourceName), "endpoint", clip(req.Endpoint), "err", err)
		return nil, err
	}
	return &pluginapi.Empty{}, nil
}

func clip(s string) string { return s[:min(len(s), 200)] }

// check refuses a plugin of another version, or for a name that is no extended resource.
func check(name string, versions []string) error {
	if !slices.Contains(versions, pluginapi.Version) {
		return status.Errorf(codes.FailedPrecondition, "requested API version %.50q is not supported by kubelet. Supported version is %q", versions, pluginapi.SupportedVersions)
	}
	if len(name) > maxIDLength || !helper.IsExtendedResourceName(core.ResourceName(name)) {
		return status.Errorf(codes.InvalidArgument, "the ResourceName %.200q is invalid", name)
	}
	return nil
}

// PluginType is the type with which device plugins register in the kubelet's folder of plugins, instead of at kubelet.sock.
const PluginType = "DevicePlugin"

// Register takes a plugin into use that was found in the kubelet's folder of plugins, and serves these versions at a socket.
func (m *Manager) Register(ctx context.Context, name, socket string, versions []string) error {
	if err := check(name, versions); err != nil {
		return err
	}
	return m.connect(ctx, name, socket)
}

// Deregister ends the connection to such a plugin.
func (m *Manager) Deregister(name, socket string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.resources[name]; r != nil {
		for _, p := range r.plugins {
			if p.socket == socket {
				p.cancel()
			}
		}
	}
}

func (m *Manager) register(ctx context.Context, req *pluginapi.RegisterRequest) error {
	if err := check(req.ResourceName, []string{req.Version}); err != nil {
		return err
	}
	if req.Endpoint != filepath.Base(req.Endpoint) || strings.HasPrefix(req.Endpoint, ".") || req.Endpoint == "/" || req.Endpoint == socketName || req.Endpoint == checkpointFile {
		return status.Errorf(codes.InvalidArgument, "endpoint %.200q: want the name of a socket in %s", req.Endpoint, m.c.Dir)
	}
	socket := filepath.Join(m.c.Dir, req.Endpoint)
	if info, err := os.Lstat(socket); err != nil || info.Mode()&fs.ModeSocket == 0 {
		return status.Errorf(codes.FailedPrecondition, "endpoint %.200q: there is no such socket in %s", req.Endpoint, m.c.Dir)
	}
	return m.connect(ctx, req.ResourceName, socket)
}

// connect connects to a plugin and follows its devices until it ends. A plugin with the same socket is replaced.
func (m *Manager) connect(ctx context.Context, name, socket string) error {
	m.mu.Lock()
	running := m.ctx
	m.mu.Unlock()
	if running == nil {
		return status.Error(codes.Unavailable, "the agent is ending")
	}
	conn, err := m.c.Connect(socket, maxMessage)
	if err != nil {
		return err
	}
	p := &plugin{resource: name, socket: socket, api: pluginapi.NewDevicePluginClient(conn)}
	octx, cancel := context.WithTimeout(ctx, optionsTimeout)
	p.options, err = p.api.GetDevicePluginOptions(octx, &pluginapi.Empty{}, grpc.WaitForReady(true))
	cancel()
	if err != nil {
		conn.Close()
		return status.Errorf(codes.Unavailable, "failed to get device plugin options: %v", err)
	}
	pctx, cancel := context.WithCancel(running)
	p.cancel = cancel
	if err := m.add(p); err != nil {
		cancel()
		conn.Close()
		return err
	}
	slog.Info("a device plugin is connected", "resource", name, "socket", socket)
	started := m.spawn(func() {
		defer conn.Close()
		defer cancel()
		err := contain.Run(func() error { return m.follow(pctx, p) })
		m.remove(running, p)
		if running.Err() == nil {
			slog.Warn("a device plugin ended", "resource", name, "socket", socket, "err", err)
		}
	})
	if !started {
		cancel()
		conn.Close()
		return status.Error(codes.Unavailable, "the agent is ending")
	}
	return nil
}

// spawn runs f unless Run is about to return, which waits for it.
func (m *Manager) spawn(f func()) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ctx == nil || m.ctx.Err() != nil {
		return false
	}
	m.wg.Go(f)
	return true
}

// add makes a plugin the one that is asked for its resource.
func (m *Manager) add(p *plugin) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.resources[p.resource]
	if r == nil {
		if len(m.resources) >= maxResources {
			return status.Errorf(codes.ResourceExhausted, "there are %d resources of device plugins already", maxResources)
		}
		r = &extended{}
		m.resources[p.resource] = r
	}
	plugins := 0
	for _, r := range m.resources {
		plugins += len(r.plugins)
	}
	if plugins >= maxPlugins {
		return status.Errorf(codes.ResourceExhausted, "there are %d device plugins already", maxPlugins)
	}
	if len(r.plugins) == 0 {
		r.devices = nil // those of the plugin that ended count as healthy again only when this one says so
	}
	r.plugins = slices.DeleteFunc(r.plugins, func(old *plugin) bool {
		if old.socket == p.socket {
			old.cancel()
			return true
		}
		return false
	})
	r.plugins = append(r.plugins, p)
	r.stay()
	r.stopped, r.expired, r.preStart = time.Time{}, false, p.options.GetPreStartRequired()
	return nil
}

// remove forgets a plugin that ended.
func (m *Manager) remove(ctx context.Context, p *plugin) {
	m.mu.Lock()
	r := m.resources[p.resource]
	before := len(r.plugins)
	r.plugins = slices.DeleteFunc(r.plugins, func(o *plugin) bool { return o == p })
	last := before > 0 && len(r.plugins) == 0
	if n := len(r.plugins); n > 0 {
		r.preStart = r.plugins[n-1].options.GetPreStartRequired()
	}
	if last {
		r.stopped = time.Now()
		m.expireLater(ctx, p.resource, r.stopped)
	}
	m.mu.Unlock()
	if last {
		m.changed()
	}
}

// stay ends waiting for the end of the grace period. The caller holds mu.
func (r *extended) stay() {
	if r.keep != nil {
		r.keep()
		r.keep = nil
	}
}

// expireLater ends the grace period when it is over, unless a plugin comes back. The caller holds mu.
func (m *Manager) expireLater(ctx context.Context, name string, stopped time.Time) {
	ctx, keep := context.WithCancel(ctx)
	r := m.resources[name]
	r.stay()
	r.keep = keep
	m.wg.Go(func() {
		defer keep()
		select {
		case <-ctx.Done():
		case <-time.After(m.c.Grace):
			m.expire(name, stopped)
		}
	})
}

// follow takes over what a plugin says of its devices until it ends.
func (m *Manager) follow(ctx context.Context, p *plugin) error {
	stream, err := p.api.ListAndWatch(ctx, &pluginapi.Empty{})
	if err != nil {
		return err
	}
	for {
		list, err := stream.Recv()
		if err != nil {
			return err
		}
		if err := checkDevices(list.Devices); err != nil {
			return err
		}
		m.take(p, list.Devices)
	}
}

func checkDevices(list []*pluginapi.Device) error {
	if len(list) > maxDevices {
		return fmt.Errorf("it has %d devices, and at most %d are supported", len(list), maxDevices)
	}
	for _, d := range list {
		if d.GetID() == "" || len(d.ID) > maxIDLength {
			return fmt.Errorf("the ID of a device has %d characters: want 1 to %d", len(d.GetID()), maxIDLength)
		}
		for _, n := range d.GetTopology().GetNodes() {
			if n == nil || n.ID < 0 || n.ID > 63 {
				return fmt.Errorf("device %.200q is on the NUMA node %d", d.ID, n.GetID())
			}
		}
	}
	return nil
}

// take replaces the devices of a resource.
func (m *Manager) take(p *plugin, list []*pluginapi.Device) {
	m.mu.Lock()
	r := m.resources[p.resource]
	if !slices.Contains(r.plugins, p) { // it was replaced
		m.mu.Unlock()
		return
	}
	r.devices = make(map[string]*pluginapi.Device, len(list))
	for _, d := range list {
		r.devices[d.ID] = d
	}
	m.mu.Unlock()
	if err := m.save(); err != nil {
		slog.Warn("allocations of devices cannot be stored", "err", err)
	}
	m.changed()
}

// Health returns the devices of a container, by resource, and whether each is healthy, for the pod's status (KEP-4680).
func (m *Manager) Health(pod *corev1.Pod, container string) []corev1.ResourceStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []corev1.ResourceStatus
	for name, a := range m.pods[pod.UID][container] {
		s := corev1.ResourceStatus{Name: corev1.ResourceName(name)}
		for _, id := range a.devices {
			health := corev1.ResourceHealthStatusHealthy
			if r := m.resources[name]; r != nil {
				if d := r.devices[id]; d != nil && d.Health != pluginapi.Healthy {
					health = corev1.ResourceHealthStatusUnhealthy
				}
			}
			s.Resources = append(s.Resources, corev1.ResourceHealth{ResourceID: corev1.ResourceID(id), Health: health})
		}
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b corev1.ResourceStatus) int { return strings.Compare(string(a.Name), string(b.Name)) })
	return out
}
