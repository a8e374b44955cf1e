package devices

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

const (
	// Limits for what plugins send. Device IDs have at most 63 characters by the protocol; real ones are longer sometimes.
	maxResources = 100
	maxPlugins   = 400
	maxDevices   = 10000
	maxIDLength  = 1024
	maxMessage   = 4 << 20
	// maxConnections limits the connections to kubelet.sock.
	maxConnections = 64
	// Times of calls to plugins.
	optionsTimeout   = 10 * time.Second
	preferTimeout    = 10 * time.Second
	allocateTimeout  = time.Minute
	preStartTimeout  = pluginapi.KubeletPreStartContainerRPCTimeoutInSecs * time.Second
	connectionWindow = 10 * time.Second
)

// Config has what a Manager needs.
type Config struct {
	// Dir is the folder device-plugins, an absolute path.
	Dir string
	// Changed is called when Resources may return something else; nil for nothing. It must not block.
	Changed func()
	// NUMANodes are the machine's.
	NUMANodes []int
	// Grace is how long the devices of a resource without a plugin are counted as capacity; 0 means 5 minutes, as with the kubelet.
	Grace time.Duration
	// Connect returns a connection to a plugin's socket, which is connected when it is first used. Its messages have at most limit bytes.
	Connect func(socket string, limit int) (*grpc.ClientConn, error)
	// Real returns where a path on the host leads that a plugin names; nil if it is the path itself.
	Real func(path string) string
}

// Manager knows the plugins, their devices and whose these are. Its methods are safe for concurrent use.
type Manager struct {
	c Config

	mu        sync.Mutex
	ctx       context.Context // of Run, nil before and after
	wg        sync.WaitGroup
	resources map[string]*extended
	pods      map[types.UID]podDevices
	saving    sync.Mutex // held while the checkpoint is written, so that the newest is written last
}

// extended is one extended resource.
type extended struct {
	// plugins that are connected; the last is the one that is asked.
	plugins []*plugin
	devices map[string]*pluginapi.Device
	// stopped is when the last plugin ended; zero while there is one.
	stopped time.Time
	// keep ends waiting for the end of the grace period; nil if nothing waits.
	keep context.CancelFunc
	// expired means that the grace period is over: the resource is reported as zero.
	expired bool
	// preStart is whether the newest plugin wants PreStartContainer calls.
	preStart bool
}

// podDevices are the allocations of a pod, by container and resource.
type podDevices map[string]map[string]*allocation

// allocation is what a container has of one resource.
type allocation struct {
	devices []string // sorted
	nodes   map[string][]int
	// answer is nil while the plugin has not answered yet.
	answer *pluginapi.ContainerAllocateResponse
}

// New returns a manager that knows what the previous one has allocated. Errors: the folder cannot be made, or the checkpoint cannot be read;
// without it, devices could be given away twice.
func New(c Config) (*Manager, error) {
	if c.Grace == 0 {
		c.Grace = 5 * time.Minute
	}
	m := &Manager{c: c, resources: map[string]*extended{}, pods: map[types.UID]podDevices{}}
	if !filepath.IsAbs(c.Dir) {
		return nil, errors.New("devices: the folder must be an absolute path")
	}
	if err := os.MkdirAll(c.Dir, 0o750); err != nil {
		return nil, err
	}
	if err := m.load(); err != nil {
		return nil, err
	}
	return m, nil
}

// Run serves plugins until ctx ends. Plugins that were connected to a previous agent see its socket vanish, and register again.
func (m *Manager) Run(ctx context.Context) error {
	m.mu.Lock()
	m.ctx = ctx
	m.mu.Unlock()
	defer func() {
		m.mu.Lock()
		m.ctx = nil // no plugin is connected any more
		m.mu.Unlock()
		m.wg.Wait()
	}()
	return m.serve(ctx)
}

// Manages says whether a resource is offered by a plugin, or was.
func (m *Manager) Manages(name corev1.ResourceName) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.managesLocked(string(name))
}

func (m *Manager) managesLocked(name string) bool {
	if r := m.resources[name]; r != nil && !r.expired {
		return true
	}
	for _, containers := range m.pods {
		for _, resources := range containers {
			if resources[name] != nil {
				return true
			}
		}
	}
	return false
}

// Resources returns what the node has of each resource, and how much of it pods can get: devices that are not healthy are not allocatable.
// Resources whose plugin has been gone for the grace period are zero.
func (m *Manager) Resources() (capacity, allocatable corev1.ResourceList) {
	m.mu.Lock()
	defer m.mu.Unlock()
	capacity, allocatable = corev1.ResourceList{}, corev1.ResourceList{}
	for name, r := range m.resources {
		all, healthy := len(r.devices), len(r.healthy())
		if r.expired {
			all, healthy = 0, 0
		}
		capacity[corev1.ResourceName(name)] = *resource.NewQuantity(int64(all), resource.DecimalSI)
		allocatable[corev1.ResourceName(name)] = *resource.NewQuantity(int64(healthy), resource.DecimalSI)
	}
	return capacity, allocatable
}

// healthy returns the devices that can be given away.
func (r *extended) healthy() map[string]bool {
	out := map[string]bool{}
	if len(r.plugins) == 0 {
		return out
	}
	for id, d := range r.devices {
		if d.Health == pluginapi.Healthy {
			out[id] = true
		}
	}
	return out
}

// Pods returns the pods that have devices.
func (m *Manager) Pods() []types.UID {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.pods))
}

// Release frees the devices of a pod of which nothing is running any more. A pod that has none is not an error.
func (m *Manager) Release(uid types.UID) error {
	m.mu.Lock()
	_, has := m.pods[uid]
	delete(m.pods, uid)
	m.mu.Unlock()
	if !has {
		return nil
	}
	return m.save()
}

// expire ends the grace period of a resource if no plugin has come back.
func (m *Manager) expire(name string, stopped time.Time) {
	m.mu.Lock()
	r := m.resources[name]
	over := r != nil && len(r.plugins) == 0 && r.stopped.Equal(stopped)
	if over {
		r.expired, r.devices = true, nil
	}
	m.mu.Unlock()
	if !over {
		return
	}
	slog.Info("a resource has had no device plugin for the grace period", "resource", name, "grace", m.c.Grace)
	if err := m.save(); err != nil {
		slog.Warn("allocations of devices cannot be stored", "err", err)
	}
	m.changed()
}

func (m *Manager) changed() {
	if m.c.Changed != nil {
		m.c.Changed()
	}
}
