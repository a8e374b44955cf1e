package agent

import (
	"cmp"
	"context"
	"fmt"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/cpuset"

	"github.com/kontiki/kontiki/node/cpus"
	"github.com/kontiki/kontiki/node/devices"
	"github.com/kontiki/kontiki/node/dra"
	"github.com/kontiki/kontiki/node/hardware"
	"github.com/kontiki/kontiki/node/memory"
	"github.com/kontiki/kontiki/node/numa"
	"github.com/kontiki/kontiki/node/plugins"
	"github.com/kontiki/kontiki/node/podresources"
	"github.com/kontiki/kontiki/node/pods"
	"github.com/kontiki/kontiki/node/podsapi"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// HardwareConfig says what of the machine pods can get for themselves. The names of policies and options are the kubelet's.
type HardwareConfig struct {
	// CPUPolicy is cpus.None or cpus.Static; "" means none.
	CPUPolicy  string
	CPUOptions map[string]string
	// ReservedCPUs are processors that no container gets as its own, as a set: "0-1". They are not allocatable.
	ReservedCPUs string
	// MemoryPolicy is memory.None or memory.Static; "" means None. ReservedMemory is what pods cannot have of each NUMA node, as
	// memory.ParseReserved reads it.
	MemoryPolicy, ReservedMemory string
	// TopologyPolicy is a policy of node/numa; "" means none. TopologyScope is a scope; "" means container.
	TopologyPolicy, TopologyScope string
	TopologyOptions               map[string]string
}

// settings are what a HardwareConfig says of a machine.
type settings struct {
	policy         *numa.Policy
	scope          string
	static         bool // processors
	options        cpus.Options
	reserved       cpuset.CPUSet
	staticMemory   bool
	reservedMemory memory.Reserved
}

// Check returns an error if an agent with this configuration would not start on this machine.
func (c HardwareConfig) Check() error {
	machine, err := readMachine()
	if err != nil {
		return err
	}
	_, err = c.settings(machine)
	return err
}

func readMachine() (*numa.Machine, error) {
	machine, err := numa.Read("/sys")
	if err != nil {
		return nil, fmt.Errorf("the machine's processors and memory cannot be read: %w", err)
	}
	return machine, nil
}

func (c HardwareConfig) settings(machine *numa.Machine) (s settings, err error) {
	s.scope = cmp.Or(c.TopologyScope, numa.ScopeContainer)
	if err := numa.CheckScope(s.scope); err != nil {
		return s, err
	}
	alignment, err := numa.ParseOptions(c.TopologyOptions)
	if err != nil {
		return s, err
	}
	if s.policy, err = numa.NewPolicy(cmp.Or(c.TopologyPolicy, numa.None), machine, alignment); err != nil {
		return s, err
	}
	if s.reserved, err = cpus.ParseReserved(c.ReservedCPUs); err != nil {
		return s, err
	}
	if !s.reserved.IsSubsetOf(machine.All()) {
		return s, fmt.Errorf("reserved CPUs %s: this machine has %s", s.reserved, machine.All())
	}
	if s.options, err = cpus.ParseOptions(c.CPUOptions); err != nil {
		return s, err
	}
	switch cmp.Or(c.CPUPolicy, cpus.None) {
	case cpus.None:
		if len(c.CPUOptions) > 0 {
			return s, fmt.Errorf("CPU manager policy options: the policy %s has none", cpus.None)
		}
	case cpus.Static:
		s.static = true
	default:
		return s, fmt.Errorf("unknown CPU manager policy %q: want %s or %s", c.CPUPolicy, cpus.None, cpus.Static)
	}
	if s.reservedMemory, err = memory.ParseReserved(c.ReservedMemory, machine); err != nil {
		return s, err
	}
	if total := s.reservedMemory.Total(); total > 0 && total < keepMemory {
		return s, fmt.Errorf("reserved memory: %d bytes on all NUMA nodes, want %d at least: so much is kept from pods anyway", total, keepMemory)
	}
	switch cmp.Or(c.MemoryPolicy, memory.None) {
	case memory.None:
	case memory.Static:
		s.staticMemory = true
	default:
		return s, fmt.Errorf("unknown memory manager policy %q: want %s or %s", c.MemoryPolicy, memory.None, memory.Static)
	}
	return s, nil
}

// machinery gives pods devices. Its fields are nil without a kubelet's folder.
type machinery struct {
	all     *hardware.Manager
	plugins *devices.Manager
	claims  *dra.Manager
	// processors is nil if all containers share the machine's.
	processors *cpus.Manager
	changed    chan struct{} // the node's resources
	sources    []podresources.Source
}

// newMachinery reads what the previous agent has given to pods.
func (a *Agent) newMachinery() error {
	root := a.c.Kubelet
	if root == nil {
		return nil
	}
	m := &a.machinery
	m.changed = make(chan struct{}, 1)
	connect := func(socket string, limit int, options ...grpc.DialOption) (*grpc.ClientConn, error) {
		return plugins.Connect(root, socket, limit, options...)
	}
	machine, err := readMachine()
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	settings, err := a.c.Hardware.settings(machine)
	if err != nil {
		return err
	}
	m.plugins, err = devices.New(devices.Config{Dir: root.DevicePlugins(), NUMANodes: machine.IDs(), Real: root.Real,
		Connect: func(socket string, limit int) (*grpc.ClientConn, error) { return connect(socket, limit) },
		Changed: func() {
			select {
			case m.changed <- struct{}{}:
			default:
			}
		}})
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	m.claims, err = dra.New(dra.Config{File: filepath.Join(a.c.StateDir, "claims.json"), BootID: firstLine("/proc/sys/kernel/random/boot_id"),
		Claim: a.store.resourceClaim, Connect: connect, RemoveSlices: a.removeSlices,
		Changed: func() { a.pods.Retry() }})
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	providers := []hardware.Provider{m.plugins}
	if err := a.newProcessors(machine, settings); err != nil {
		return err
	}
	if m.processors != nil {
		providers = append(providers, m.processors)
	}
	m.sources = []podresources.Source{m.plugins, m.claims}
	if m.processors != nil {
		m.sources = append(m.sources, m.processors)
	}
	storage, err := a.newMemory(machine, settings)
	if err != nil {
		return err
	}
	if storage != nil {
		providers = append(providers, storage)
		m.sources = append(m.sources, storage)
	}
	m.all = hardware.New(hardware.Config{Providers: providers, Claims: m.claims, Policy: settings.policy, Scope: settings.scope})
	a.plugins[dra.PluginType], a.plugins[devices.PluginType] = drivers{m.claims}, devicePlugins{m.plugins}
	a.node.devices = m.plugins.Resources
	return nil
}

// newProcessors makes what gives processors to containers, if the policy is to do that.
func (a *Agent) newProcessors(machine *numa.Machine, s settings) (err error) {
	a.node.reserved = s.reserved.Size()
	if !s.static {
		return nil
	}
	a.machinery.processors, err = cpus.New(cpus.Config{Machine: machine, Options: s.options, Reserved: s.reserved,
		File: filepath.Join(a.c.StateDir, "cpus.json"), Runtime: a.c.Runtime})
	return err
}

// newMemory makes what gives memory of NUMA nodes to containers, nil if the policy is not to do that.
func (a *Agent) newMemory(machine *numa.Machine, s settings) (*memory.Manager, error) {
	a.node.reservedMemory = s.reservedMemory.Total()
	if !s.staticMemory {
		return nil, nil
	}
	return memory.New(memory.Config{Machine: machine, Reserved: s.reservedMemory, File: filepath.Join(a.c.StateDir, "memory.json")})
}

// forPods returns what the pods' workers ask, nil if there is nothing.
func (m *machinery) forPods() pods.Hardware {
	if m.all == nil {
		return nil
	}
	return m.all
}

// runMachinery serves plugins and drivers, and reports what they have.
func (a *Agent) runMachinery(ctx context.Context, g *errgroup.Group) {
	m := &a.machinery
	if m.all == nil {
		return
	}
	g.Go(func() error { return m.plugins.Run(ctx) })
	g.Go(func() error {
		return podresources.Serve(ctx, podresources.Config{Dir: filepath.Join(a.c.Kubelet.Dir(), "pod-resources"), Pods: a.pods.Pods, Sources: m.sources})
	})
	g.Go(func() error {
		return podsapi.Serve(ctx, podsapi.Config{Dir: filepath.Join(a.c.Kubelet.Dir(), "pods-api"), Pods: a.pods.Pods, Changed: a.pods.Changed, Ready: a.store.assigned})
	})
	if m.processors != nil {
		g.Go(func() error { return m.processors.Run(ctx) })
	}
	g.Go(func() error { defer m.claims.Close(); return m.claims.Run(ctx) })
	g.Go(func() error {
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-m.changed:
			}
			a.lookAtNode(ctx)
			a.pods.Retry() // the health of their devices may have changed
		}
	})
}

// drivers registers DRA drivers.
type drivers struct{ m *dra.Manager }

func (d drivers) Register(_ context.Context, p plugins.Plugin) error {
	return d.m.Register(p.Name, p.Endpoint, p.Versions)
}

func (d drivers) Deregister(p plugins.Plugin) { d.m.Deregister(p.Name, p.Endpoint) }

// devicePlugins registers device plugins that do not come to kubelet.sock.
type devicePlugins struct{ m *devices.Manager }

func (d devicePlugins) Register(ctx context.Context, p plugins.Plugin) error {
	return d.m.Register(ctx, p.Name, p.Endpoint, p.Versions)
}

func (d devicePlugins) Deregister(p plugins.Plugin) { d.m.Deregister(p.Name, p.Endpoint) }

// removeSlices asks the session's master to remove the ResourceSlices of a driver that has gone from this node.
func (a *Agent) removeSlices(ctx context.Context, driver string, keep []string) error {
	c, err := a.master()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	_, err = c.RemoveResourceSlices(ctx, &nodev1.RemoveResourceSlicesRequest{Driver: driver, Keep: keep})
	return err
}

// addDevices adds what device plugins offer to the node's resources.
func addDevices(s *corev1.NodeStatus, resources func() (capacity, allocatable corev1.ResourceList)) {
	if resources == nil {
		return
	}
	capacity, allocatable := resources()
	for name, q := range capacity {
		s.Capacity[name] = q
	}
	for name, q := range allocatable {
		s.Allocatable[name] = q
	}
}
