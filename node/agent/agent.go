package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"

	"github.com/kontiki/kontiki/internal/timeline"
	"github.com/kontiki/kontiki/node/csi"
	"github.com/kontiki/kontiki/node/kubeletroot"
	"github.com/kontiki/kontiki/node/plugins"
	"github.com/kontiki/kontiki/node/pods"
	"github.com/kontiki/kontiki/node/pods/eviction"
	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/shutdown"
	"github.com/kontiki/kontiki/node/static"
	"github.com/kontiki/kontiki/node/stats"
	"github.com/kontiki/kontiki/node/volume"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// Config has the parameters of an Agent.
type Config struct {
	NodeName string
	NodeIP   netip.Addr
	// StateDir has everything that survives a restart: assignments, pods' volumes and files.
	StateDir string
	// Kubelet is the kubelet's folder, in which pods' volumes and the sockets of plugins are; nil for none: then pods' volumes are in StateDir, and
	// no plugins are looked for.
	Kubelet *kubeletroot.Root
	// LogDir is the directory of containers' logs, "" for /var/log/pods. Links to them, under the names that log collectors expect,
	// are in the directory "containers" beside it.
	LogDir string
	// AllowedUnsafeSysctls are names, and prefixes that end in "*", of sysctls that pods may set in addition to the safe ones.
	AllowedUnsafeSysctls []string
	// Eviction are the thresholds below which pods are evicted; none means that nothing is.
	Eviction []eviction.Threshold
	// ImageGC says when unused images are removed; zero means the default.
	ImageGC eviction.ImageGC
	// Pulls limits how many images are pulled concurrently; 0 means 5.
	Pulls int
	// NodeCredentials returns the node's own credentials for a repository; nil for none.
	NodeCredentials func(ctx context.Context, repository string) []runtime.Auth
	Runtime         runtime.Runtime
	Network         Network
	// ServiceConsumers are informed of the cluster's services whenever they change.
	ServiceConsumers []ServiceConsumer
	// Masters are host:port addresses to start with; later ones are sent by the masters, and read from disk.
	Masters []string
	// Dial opens a connection to one master. The agent closes it. To fail over within a second from a host that vanished, the
	// connection should have a short TCP user timeout.
	Dial func(ctx context.Context, address string) (*grpc.ClientConn, error)
	// Labels and Taints are added to the Node object, beside the usual labels.
	Labels map[string]string
	Taints []corev1.Taint
	// Port is the kubelet-compatible port in the Node object; 0 means 10250.
	Port int32
	// MaxPods is the number of pods that the node accepts; 0 means 110.
	MaxPods int
	// Capacity has resources that replace the machine's in the Node object; nil for none.
	Capacity corev1.ResourceList
	// Version is the kubelet version in the Node object, such as "v1.37.2+kontiki".
	Version string
	// NodePeriod is how often the node's own state is checked (memory, disk, images, the runtime's health); 0 means 10 s. Only
	// changes are reported.
	NodePeriod time.Duration
	// Hardware says what of the machine pods can get for themselves. It needs Kubelet.
	Hardware HardwareConfig
	// Guard stops the pods that use volumes for one node at a time when this worker has no lease; nil if there is none, as in a simulation.
	Guard Guard
	// Shutdown are the times that pods have to end before the machine shuts down, by priority; none means that shutdowns do not wait.
	Shutdown []shutdown.Period
	// SeccompDefault gives containers that name no seccomp profile the runtime's default one.
	SeccompDefault bool
	// SingleProcessOOMKill lets the kernel kill single processes of containers that are out of memory, instead of all of a container.
	SingleProcessOOMKill bool
	// Swap says who may use the node's swap; "" means NoSwap.
	Swap pods.SwapBehavior
	// StaticPods is the folder of the files of static pods, or a single file; "" if there are none.
	StaticPods string
	// Timeline keeps the steps of pods' starts; nil keeps nothing.
	Timeline *timeline.Recorder
	// Decoded is shared with other agents in this process, as for simulated nodes; nil for none.
	Decoded *Decoded
}

// Agent is one node's worker.
type Agent struct {
	c       Config
	store   *store
	pods    *pods.Manager
	volumes *volume.Manager
	out     *reporter
	csi     *csi.Drivers // nil without a kubelet's folder
	node    *nodeStatus
	fence   *fence
	// plugins has the handler of each type of plugin that registers in the kubelet's folder.
	plugins   map[string]plugins.Handler
	machinery machinery
	static    *static.Pods
	metrics   *podMetrics
	stats     *stats.Sampler
	usage     *stats.Reporter // used by the present session
	// shutdown ends the pods when the machine shuts down; nil if it does not wait for them.
	shutdown *shutdown.Manager

	looking sync.Mutex // held while the node's state is checked
	mu      sync.Mutex
	conn    nodev1.NodeServiceClient // the client of the present session, nil if there is none
	welcome *nodev1.Welcome
	changed chan struct{}
}

// New creates an agent and reads what the previous process left on disk; nothing runs before Run.
func New(c Config) (*Agent, error) {
	if c.LogDir == "" {
		c.LogDir = "/var/log/pods"
	}
	if c.Port == 0 {
		c.Port = 10250
	}
	if c.MaxPods == 0 {
		c.MaxPods = 110
	}
	if c.NodePeriod == 0 {
		c.NodePeriod = 10 * time.Second
	}
	if c.NodeName == "" || c.Runtime == nil || c.Network == nil || c.Dial == nil || c.StateDir == "" {
		return nil, errors.New("agent: NodeName, StateDir, Runtime, Network and Dial are required")
	}
	if err := pods.CheckSysctlPatterns(c.AllowedUnsafeSysctls); err != nil {
		return nil, err
	}
	if err := errors.Join(os.MkdirAll(c.StateDir, 0o700), os.Chmod(c.StateDir, 0o700)); err != nil {
		return nil, err
	}
	podDir := filepath.Join(c.StateDir, "pods")
	if c.Kubelet != nil {
		if err := c.Kubelet.Prepare(podDir); err != nil {
			return nil, err
		}
		podDir = c.Kubelet.Pods()
	}
	a := &Agent{c: c, metrics: newPodMetrics(), out: newReporter(c.NodeName), changed: make(chan struct{}, 1), plugins: map[string]plugins.Handler{}}
	var err error
	if a.store, a.welcome, err = openStore(filepath.Join(c.StateDir, "assignments"), c.NodeName, c.Decoded); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	a.node = newNodeStatus(c)
	a.fence = newFence(c.Guard, a.needsLease)
	if err := a.newMachinery(); err != nil {
		return nil, err
	}
	a.volumes = volume.New(volume.Config{RootDir: podDir, DeviceRoot: filepath.Join(c.StateDir, "pods-devices"), Kubelet: c.Kubelet, CSI: a.csiDrivers(), Objects: a.store, Token: a.createToken, Certify: a.certifyPod,
		Node: a.node.current, Labels: a.labels, NodeName: c.NodeName, FolderRoot: c.folderRoot(), ReportVolume: a.reportVolume,
		ClusterNode: a.clusterNode, InUseChanged: a.inUseChanged, ReportExpansion: a.reportExpansion, Event: func(pod *corev1.Pod, kind, reason, message string) {
			sink{a}.Event(pods.Event{Pod: pod, Type: kind, Reason: reason, Message: message})
		}})
	a.static = static.New(static.Config{Path: c.StaticPods, Node: c.NodeName, StateDir: filepath.Join(c.StateDir, "static"),
		Mirrors: mirrors{a}, Owner: a.clusterNode, Report: a.reportMirror})
	if len(c.Shutdown) > 0 {
		a.shutdown = shutdown.New(shutdown.Config{Periods: c.Shutdown, Connect: shutdown.SystemLogind, Pods: endings{a}, Changed: a.shutdownChanged})
		a.node.shutdown = a.shutdown.Now
	}
	users, noUsers := a.openUsers(podDir)
	a.pods = pods.New(pods.Config{
		NodeName: c.NodeName, NodeIP: c.NodeIP, Runtime: c.Runtime, Network: c.Network, Volumes: a.volumes, Objects: a.store, Sink: sink{a}, Static: a.static.Owns, Users: users, NoUsers: noUsers, Closed: a.closed,
		SeccompDefault: c.SeccompDefault, SingleProcessOOMKill: c.SingleProcessOOMKill, Swap: c.Swap, SwapTotal: int64(memInfo()["SwapTotal"]),
		Hold: a.fence.holds, DNS: a.dns, Node: a.node.current, ClusterNode: a.clusterNode, AllowedUnsafeSysctls: c.AllowedUnsafeSysctls,
		RootDir: podDir, Seccomp: c.hostFolder("/var/lib/kubelet/seccomp"), LogDir: c.LogDir, LogLinkDir: filepath.Join(filepath.Dir(c.LogDir), "containers"),
		PullDir: filepath.Join(c.StateDir, "images"), Pulls: c.Pulls, NodeCredentials: c.NodeCredentials,
		Rooms: a.rooms(), Eviction: c.Eviction, ImageGC: c.ImageGC, Hardware: a.machinery.forPods(), Timeline: c.Timeline,
	})
	a.stats = stats.New(c.Runtime, a.pods)
	a.usage = stats.NewReporter(a.stats, c.StateDir)
	a.node.pressure, a.node.inUse = a.pods.Pressure, a.volumes.InUse
	a.node.useChanged()
	a.volumes.OnExpiry(a.pods.RefreshVolumes)
	a.fence.lapsed, a.fence.granted = a.pods.Enforce, a.pods.Retry
	return a, nil
}

// Pods returns the manager of the pods that run here, for the node's server.
func (a *Agent) Pods() *pods.Manager { return a.pods }

// Stats returns what measures the node's pods, for the node's server.
func (a *Agent) Stats() *stats.Sampler { return a.stats }

// VolumeUsage returns how full the volumes of a pod are, for the node's server.
func (a *Agent) VolumeUsage(ctx context.Context, uid string) []volume.Usage {
	return a.volumes.Usage(ctx, uid)
}

// Node returns the Node object as the agent last reported it.
func (a *Agent) Node() *corev1.Node { return a.node.current() }

// clusterNode returns the Node object as the cluster has it, nil if that is not known.
func (a *Agent) clusterNode() *corev1.Node { return a.store.clusterNode() }

// hostFolder returns where a folder of the host is that pods and documentation name.
func (c *Config) hostFolder(path string) string {
	if c.Kubelet == nil {
		return path
	}
	return c.Kubelet.Real(path)
}

// folderRoot returns the folder with the folders of the node's volumes.
func (c *Config) folderRoot() string {
	dir, err := filepath.Abs(c.StateDir)
	if err != nil {
		return ""
	}
	return filepath.Join(dir, "local-path")
}

// labels returns the node's labels in the cluster, or its own if those are not known.
func (a *Agent) labels() map[string]string {
	if n := a.store.clusterNode(); n != nil {
		return n.Labels
	}
	return a.node.current().Labels
}

// Run runs the agent until ctx ends. Containers keep running after that.
func (a *Agent) Run(ctx context.Context) error {
	defer a.store.close()
	if err := a.node.look(ctx); err != nil {
		slog.Warn("runtime is not ready", "err", err)
	}
	a.out.nodeChanged()
	a.fence.adopt(ctx, a.welcome)
	for _, p := range a.store.allPods() {
		a.assign(p)
	}
	a.static.Start(a.pods)
	a.kick()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return a.pods.Run(ctx) })
	g.Go(func() error { return a.volumes.Run(ctx) })
	g.Go(func() error { return a.volumes.RunFolders(ctx) })
	g.Go(func() error { return a.static.Run(ctx) })
	if a.shutdown != nil {
		g.Go(func() error { return a.shutdown.Run(ctx) })
	}
	g.Go(func() error { return a.sessions(ctx) })
	if a.c.Kubelet != nil {
		g.Go(func() error { return a.csi.Run(ctx) })
		g.Go(func() error { return plugins.NewWatcher(a.c.Kubelet, a.plugins).Run(ctx) })
	}
	a.runMachinery(ctx, g)
	g.Go(func() error { return a.follow(ctx) })
	g.Go(func() error { return a.watchNode(ctx) })
	g.Go(func() error { return a.fence.run(ctx, a.knownPods) })
	err := g.Wait()
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// assign passes a pod to its worker, if it is for this node and not only shows one of the node's static pods.
func (a *Agent) assign(p *corev1.Pod) {
	if p.Spec.NodeName == a.c.NodeName && !static.IsMirror(p) {
		a.pods.Update(p)
	}
}

// apply applies an assignment: to memory, to disk, to the workers.
func (a *Agent) apply(m *nodev1.Assignment) error {
	change, err := a.store.apply(m)
	if err != nil {
		return err
	}
	for _, uid := range change.gone {
		a.pods.Remove(uid)
	}
	for _, p := range change.pods {
		a.assign(p)
	}
	switch {
	case change.every:
		a.pods.Refresh(nil)
	case len(change.objects) > 0:
		a.pods.Refresh(change.objects)
	}
	if change.cluster {
		a.kick()
	}
	if change.volumes {
		a.volumes.PokeFolders()
	}
	if m.From == 0 || change.mirrors {
		a.static.MirrorsChanged()
	}
	if change.own {
		a.volumes.NodeChanged()
	}
	if m.From == 0 {
		a.pods.Sweep()
		a.pods.Reconcile()
	}
	return nil
}

// kick notes that services, nodes or the welcome changed. It never blocks.
func (a *Agent) kick() {
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// debounce is how long to wait for further changes before followers are informed. They are informed of everything each time, so in a large
// cluster that happens less often: the time between two is spacing for each node, and at most longestSpacing.
const debounce, spacing, longestSpacing = 5 * time.Millisecond, 100 * time.Microsecond, 500 * time.Millisecond

// follow informs the network and the consumers of services about changes.
func (a *Agent) follow(ctx context.Context) error {
	var last NetworkConfig
	configured := false
	seen := ^uint64(0)
	retry := time.NewTimer(0)
	retry.Stop()
	var informed time.Time
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-a.changed:
		case <-retry.C:
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(max(debounce, time.Until(informed.Add(min(time.Duration(len(last.Peers))*spacing, longestSpacing))))):
		}
		informed = time.Now()
		c := a.networkConfig()
		if !configured || !sameNetwork(c, last) {
			if err := a.c.Network.Configure(ctx, c); err != nil {
				slog.Warn("configure network", "err", err)
				retry.Reset(time.Second)
				configured = false
			} else {
				waited := !configured || c.PodCIDR != last.PodCIDR
				last, configured = c, true
				if waited { // not for each change of a peer
					a.pods.Retry()
				}
			}
		}
		if services, slices, known, generation := a.store.services(seen); known && generation != seen {
			if seen == ^uint64(0) {
				a.pods.Retry() // containers may be waiting for their services' variables
			}
			seen = generation
			for _, s := range a.c.ServiceConsumers {
				s.SetServices(services, slices)
			}
		}
	}
}

func sameNetwork(a, b NetworkConfig) bool {
	if a.NodeName != b.NodeName || a.Zone != b.Zone || a.NodeIP != b.NodeIP || a.PodCIDR != b.PodCIDR || a.ClusterCIDR != b.ClusterCIDR || a.ServiceCIDR != b.ServiceCIDR ||
		a.ClusterDNS != b.ClusterDNS || a.ClusterDomain != b.ClusterDomain || len(a.Peers) != len(b.Peers) {
		return false
	}
	return slices.Equal(a.Peers, b.Peers)
}

func (a *Agent) networkConfig() NetworkConfig {
	c := NetworkConfig{NodeName: a.c.NodeName, NodeIP: a.c.NodeIP}
	a.mu.Lock()
	if w := a.welcome; w != nil {
		c.ClusterCIDR, _ = netip.ParsePrefix(w.PodCidr)
		c.ServiceCIDR, _ = netip.ParsePrefix(w.ServiceCidr)
		c.ClusterDomain = w.ClusterDomain
		if len(w.ClusterDns) > 0 {
			c.ClusterDNS, _ = netip.ParseAddr(w.ClusterDns[0])
		}
	}
	a.mu.Unlock()
	if n := a.store.clusterNode(); n != nil {
		c.PodCIDR, _ = netip.ParsePrefix(n.Spec.PodCIDR)
		c.Zone = n.Labels[corev1.LabelTopologyZone]
	}
	c.Peers = a.store.allPeers()
	return c
}

func (a *Agent) dns() pods.DNS {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.welcome == nil {
		return pods.DNS{Domain: "cluster.local"}
	}
	return pods.DNS{Domain: a.welcome.ClusterDomain, Servers: a.welcome.ClusterDns}
}

// watchNode checks the node's own state periodically and reports changes.
func (a *Agent) watchNode(ctx context.Context) error {
	t := time.NewTicker(a.c.NodePeriod)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
		a.lookAtNode(ctx)
	}
}

// lookAtNode checks the node's own state and reports a change.
func (a *Agent) lookAtNode(ctx context.Context) {
	a.looking.Lock()
	defer a.looking.Unlock()
	before := a.node.current()
	if err := a.node.look(ctx); err != nil {
		slog.Warn("runtime is not ready", "err", err)
	}
	if a.node.current() != before {
		a.out.nodeChanged()
	}
}
