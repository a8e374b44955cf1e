package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/types"

	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/worker"
	"github.com/kontiki/kontiki/cmd/kontiki/early"
	"github.com/kontiki/kontiki/cmd/kontiki/process"
	"github.com/kontiki/kontiki/internal/timeline"
	"github.com/kontiki/kontiki/internal/tracing/otlp"
	"github.com/kontiki/kontiki/node/agent"
	"github.com/kontiki/kontiki/node/cpus"
	"github.com/kontiki/kontiki/node/credentials"
	"github.com/kontiki/kontiki/node/dns"
	"github.com/kontiki/kontiki/node/guard"
	"github.com/kontiki/kontiki/node/kubeletroot"
	"github.com/kontiki/kontiki/node/memory"
	"github.com/kontiki/kontiki/node/netapi"
	"github.com/kontiki/kontiki/node/network"
	"github.com/kontiki/kontiki/node/numa"
	"github.com/kontiki/kontiki/node/pods"
	"github.com/kontiki/kontiki/node/pods/eviction"
	"github.com/kontiki/kontiki/node/proxy"
	"github.com/kontiki/kontiki/node/runtime"
	"github.com/kontiki/kontiki/node/runtime/containerd"
	"github.com/kontiki/kontiki/node/selinux"
	"github.com/kontiki/kontiki/node/server"
	"github.com/kontiki/kontiki/node/share"
	"github.com/kontiki/kontiki/node/shutdown"
)

// KubeletPort is the kubelet-compatible port.
const KubeletPort = 10250

// DefaultAPIPort is the default of --api-port.
const DefaultAPIPort = 6443

// Options are the settings of a worker, also of one on a master's host.
type Options struct {
	Containerd, ContainerdNamespace  string
	CgroupParent                     string
	NodeLabels                       map[string]string
	MaxPods                          int
	PodLogs, KubeletRoot             string
	UnsafeSysctls                    []string
	Registries                       string
	ParallelPulls                    int
	ShareImages                      bool
	CredentialConfig, CredentialDir  string
	EvictHard, EvictSoft, EvictGrace string
	ImageGC                          eviction.ImageGC
	Hardware                         agent.HardwareConfig
	StaticPods                       string
	Shutdown, ShutdownCritical       time.Duration
	ShutdownByPriority               map[string]string
	SeccompDefault, SingleOOMKill    bool
	Swap                             string
	Tracing                          process.Tracing
	RuntimeHandlers                  map[string]string
	Selinux                          bool
}

// validate checks numbers, by a kubelet's rules.
func (o *Options) validate() error {
	gc := o.ImageGC
	switch {
	case o.MaxPods < 0:
		return fmt.Errorf("--max-pods: %d is negative", o.MaxPods)
	case o.ParallelPulls < 1:
		return fmt.Errorf("--max-parallel-image-pulls: want at least 1, not %d", o.ParallelPulls)
	case gc.High < 0 || gc.High > 100:
		return fmt.Errorf("--image-gc-high-threshold: want 0 to 100, not %d", gc.High)
	case gc.Low < 0 || gc.Low >= gc.High:
		return fmt.Errorf("--image-gc-low-threshold: want less than --image-gc-high-threshold, %d, and not less than 0: not %d", gc.High, gc.Low)
	case gc.MinAge < 0:
		return fmt.Errorf("--minimum-image-ttl-duration: %v is negative", gc.MinAge)
	case gc.MaxAge < 0 || gc.MaxAge > 0 && gc.MaxAge < gc.MinAge:
		return fmt.Errorf("--image-maximum-gc-age: want 0, or at least --minimum-image-ttl-duration, %v: not %v", gc.MinAge, gc.MaxAge)
	}
	if _, err := containerd.ParseHandlers(o.RuntimeHandlers); err != nil {
		return fmt.Errorf("--runtime-handlers: %w", err)
	}
	return o.Hardware.Check()
}

// Flags adds the flags that set the options.
func (o *Options) Flags(f *pflag.FlagSet) {
	f.StringVar(&o.Containerd, "containerd", "/run/containerd/containerd.sock", "containerd's socket")
	f.StringVar(&o.ContainerdNamespace, "containerd-namespace", "kontiki", "the containerd namespace of this worker's containers")
	f.StringVar(&o.CgroupParent, "cgroup-parent", "kontiki", "the parent of the pods' cgroups")
	f.StringToStringVar(&o.NodeLabels, "node-labels", nil, "labels to give the node")
	f.IntVar(&o.MaxPods, "max-pods", 110, "how many pods may run on this node")
	f.StringVar(&o.PodLogs, "pod-logs-dir", "/var/log/pods", "the directory of containers' logs; links to them are in the directory containers beside it")
	f.StringVar(&o.KubeletRoot, "kubelet-root", kubeletroot.Default, "the directory of pods' volumes and of vendors' plugins, which pods see as "+kubeletroot.Default)
	f.StringVar(&o.Registries, "registry-config-dir", "/etc/containerd/certs.d", "the directory that has, for each registry, a directory with its hosts.toml: mirrors, certificates, plain HTTP")
	f.StringVar(&o.CredentialConfig, "image-credential-provider-config", "", "the configuration of the programs that have credentials for registries (CredentialProviderConfig)")
	f.StringVar(&o.CredentialDir, "image-credential-provider-bin-dir", "", "the directory of these programs")
	f.BoolVar(&o.ShareImages, "share-images", true, "fetch images from other workers before the registry, and send them images")
	f.IntVar(&o.ParallelPulls, "max-parallel-image-pulls", 5, "how many images are pulled at the same time")
	f.StringVar(&o.EvictHard, "eviction-hard", eviction.Default, "thresholds below which pods are evicted at once, such as memory.available<100Mi")
	f.StringVar(&o.EvictSoft, "eviction-soft", "", "thresholds below which pods are evicted after a period of grace")
	f.StringVar(&o.EvictGrace, "eviction-soft-grace-period", "", "those periods, such as memory.available=1m30s")
	f.IntVar(&o.ImageGC.High, "image-gc-high-threshold", eviction.DefaultImageGC.High, "the percentage of disk usage above which unused images are removed; 100 for never")
	f.IntVar(&o.ImageGC.Low, "image-gc-low-threshold", eviction.DefaultImageGC.Low, "the percentage at which that ends")
	f.DurationVar(&o.ImageGC.MinAge, "minimum-image-ttl-duration", eviction.DefaultImageGC.MinAge, "how long an unused image is kept at least")
	f.DurationVar(&o.ImageGC.MaxAge, "image-maximum-gc-age", 0, "how long an unused image is kept at most; 0 for ever")
	h := &o.Hardware
	f.StringVar(&h.CPUPolicy, "cpu-manager-policy", cpus.None, "none, or static: containers of Guaranteed pods that request whole processors get some of their own")
	f.StringToStringVar(&h.CPUOptions, "cpu-manager-policy-options", nil, "options of that policy: full-pcpus-only, strict-cpu-reservation and prefer-align-cpus-by-uncorecache, each =true or =false")
	f.StringVar(&h.ReservedCPUs, "reserved-cpus", "", "processors, such as 0-1, that are not allocatable and that no container gets as its own")
	f.StringVar(&h.MemoryPolicy, "memory-manager-policy", memory.None, "None, or Static: containers of Guaranteed pods get memory of NUMA nodes")
	f.StringVar(&h.ReservedMemory, "reserved-memory", "", "what pods cannot have of each NUMA node, such as 0:memory=1Gi,hugepages-2Mi=4Mi;1:memory=1Gi")
	f.StringVar(&h.TopologyPolicy, "topology-manager-policy", numa.None, "how processors and devices of a pod are aligned on NUMA nodes: none, best-effort, restricted or single-numa-node")
	f.StringVar(&h.TopologyScope, "topology-manager-scope", numa.ScopeContainer, "what is aligned: container or pod")
	f.StringToStringVar(&h.TopologyOptions, "topology-manager-policy-options", nil, "options of that policy: prefer-closest-numa-nodes=true, max-allowable-numa-nodes=N")
	f.StringVar(&o.StaticPods, "pod-manifest-path", "", "the directory with a file, in YAML or JSON, for each static pod of the node, or a single such file")
	f.BoolVar(&o.SeccompDefault, "seccomp-default", false, "give containers that name no seccomp profile the default one, RuntimeDefault, instead of none")
	f.BoolVar(&o.SingleOOMKill, "single-process-oom-kill", false, "let the kernel kill single processes of a container that is out of memory, instead of all of them")
	f.StringVar(&o.Swap, "memory-swap-behavior", string(pods.NoSwap), "NoSwap, or LimitedSwap: containers of Burstable pods may use a part of the node's swap (cgroup v2)")
	f.DurationVar(&o.Shutdown, "shutdown-grace-period", 0, "how long a shutdown of the machine, by systemd, waits for pods to end; 0 for not at all")
	f.DurationVar(&o.ShutdownCritical, "shutdown-grace-period-critical-pods", 0, "the part of that, at its end, that critical pods have")
	f.StringToStringVar(&o.ShutdownByPriority, "shutdown-grace-period-by-pod-priority", nil, "instead of both, how long pods have to end from each priority on, lowest first: 0=60s,100000=20s,2000000000=10s")
	o.Tracing.Flags(f)
	f.BoolVar(&o.Selinux, "selinux", false, "give containers and the files of their volumes SELinux labels; the host's kernel must have SELinux, and its policy labels for containers (the package container-selinux)")
	f.StringToStringVar(&o.RuntimeHandlers, "runtime-handlers", nil, "what RuntimeClasses can name besides runc, as NAME=TYPE or NAME=TYPE:PATH: the type of a containerd shim, such as runsc=io.containerd.runsc.v1, and its configuration or, for io.containerd.runc.v2, the program in runc's place, such as crun=io.containerd.runc.v2:/usr/bin/crun")
	f.StringSliceVar(&o.UnsafeSysctls, "allowed-unsafe-sysctls", nil, "sysctls, or prefixes that end in *, that pods may set in addition to the safe ones")
}

// Place says where an agent runs and which masters it joins.
type Place struct {
	Name, NodeIP, DataDir string
	Join                  []string
	Token                 string
	GossipPort            int
	// masterPorts are the ports of a master on the same host; the ports of others are those of join, or the defaults.
	MasterPorts []int
}

// Command returns `kontiki agent`.
func Command() *cobra.Command {
	var o Options
	var place Place
	var configFile, level string
	cmd := &cobra.Command{
		Use:   "agent --join HOST:6444 --token TOKEN",
		Short: "Run a worker",
		Long:  "Run a worker. It needs the token only at its first start.\nFlags can also be set, by the same names, in " + process.DefaultConfig + ".",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := process.LoadConfig(cmd, configFile); err != nil {
				return err
			}
			log, err := process.NewLogger(level)
			if err != nil {
				return err
			}
			if place.Name, err = process.HostName(place.Name); err != nil {
				return err
			}
			if place.NodeIP, err = process.HostAddress(place.NodeIP); err != nil {
				return err
			}
			defer context.AfterFunc(cmd.Context(), func() { process.TellSystemd(log, daemon.SdNotifyStopping) })()
			return Run(cmd.Context(), &o, place, log, func() { process.TellSystemd(log, daemon.SdNotifyReady) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&configFile, "config", process.DefaultConfig, "configuration file")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&place.Name, "name", "", "the node's name (default: the host's name)")
	f.StringVar(&place.NodeIP, "node-ip", "", "the address at which other hosts reach this one (default: the first one)")
	f.StringVar(&place.DataDir, "data-dir", process.DefaultAgentDir, "the directory of this worker's data")
	f.StringSliceVar(&place.Join, "join", nil, "HOST:PORT of masters")
	f.StringVar(&place.Token, "token", "", "a join token for workers")
	f.IntVar(&place.GossipPort, "gossip-port", cluster.DefaultGossipPort, "the gossip port")
	o.Flags(f)
	return cmd
}

// reserved returns the ports that the cluster's own traffic uses, as far as this worker knows them.
func (p Place) reserved() netapi.Ports {
	ports := append([]int{KubeletPort, p.GossipPort, mtls.DefaultPort, DefaultAPIPort, cluster.DefaultGossipPort, cluster.DefaultGossipPort + 1}, p.MasterPorts...)
	for _, address := range p.Join {
		if _, port, err := net.SplitHostPort(address); err == nil {
			if n, err := strconv.ParseUint(port, 10, 16); err == nil {
				ports = append(ports, int(n))
			}
		}
	}
	return netapi.PortsOf(ports...)
}

func (p Place) IdentityDir() string { return filepath.Join(p.DataDir, "identity") }

// Run runs a worker until the context ends. It calls ready once the worker runs its pods and answers masters.
func Run(ctx context.Context, o *Options, place Place, log *slog.Logger, ready func()) error {
	if err := o.validate(); err != nil {
		return err
	}
	identity, err := worker.Join(ctx, worker.Config{
		Name: place.Name, Dir: place.IdentityDir(), Join: place.Join, Token: place.Token,
		Addresses: []string{place.NodeIP}, Logger: log,
	})
	if err != nil {
		return err
	}
	log = log.With("node", place.Name)
	gossipAddress := net.JoinHostPort(place.NodeIP, strconv.Itoa(place.GossipPort))
	w, err := newWorker(ctx, o, place, identity, log)
	if err != nil {
		return err
	}
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return identity.Run(running) })
	group.Go(func() error {
		return identity.RunGossip(running, gossip.Config{
			Name: place.Name, Role: mtls.RoleWorker, Address: place.NodeIP, Version: process.GitVersion,
			BindAddress: gossipAddress, AdvertiseAddress: gossipAddress, Logger: log,
		})
	})
	group.Go(func() error { return w.run(running, ready) })
	return process.UnlessStopped(ctx, group.Wait())
}

// workerParts are the components of a running worker.
type workerParts struct {
	runtime *containerd.Runtime
	network *network.Network
	proxy   *proxy.Proxy
	dns     *dns.Late
	agent   *agent.Agent
	spans   *otlp.Provider // nil without tracing
	server  *server.Server
	share   *share.Share // nil if images are not shared
	address string
}

func newWorker(ctx context.Context, o *Options, place Place, identity *worker.Identity, log *slog.Logger) (_ *workerParts, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	thresholds, err := eviction.ParseThresholds(o.EvictHard, o.EvictSoft, o.EvictGrace)
	if err != nil {
		return nil, err
	}
	kubelet, err := kubeletroot.New(o.KubeletRoot)
	if err != nil {
		return nil, err
	}
	swap, err := pods.ParseSwapBehavior(o.Swap)
	if err != nil {
		return nil, err
	}
	periods, err := shutdown.Periods(o.Shutdown, o.ShutdownCritical, o.ShutdownByPriority)
	if err != nil {
		return nil, err
	}
	registries, err := credentials.Load(o.CredentialConfig, o.CredentialDir)
	if err != nil {
		return nil, err
	}
	w := &workerParts{address: net.JoinHostPort(place.NodeIP, strconv.Itoa(KubeletPort))}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	var peers runtime.Peers
	if o.ShareImages {
		w.share = w.newShare(place, identity, log)
		peers = w.share
	}
	if w.spans, err = o.Tracing.Open(ctx, "kontiki-worker", place.Name, log); err != nil {
		return w, err
	}
	starts := timeline.New(w.spans.Tracer())
	calls, rules, questions := containerd.NewMetrics(), proxy.NewMetrics(), dns.NewMetrics()
	handlers, err := containerd.ParseHandlers(o.RuntimeHandlers)
	if err != nil {
		return w, err // validated
	}
	var labels *selinux.Host
	if o.Selinux {
		if labels, err = selinux.Open(); err != nil {
			return w, fmt.Errorf("--selinux: %w", err)
		}
	}
	w.runtime, err = containerd.New(ctx, containerd.Config{
		SELinux: labels, Peers: peers, Address: o.Containerd, Namespace: o.ContainerdNamespace, StateDir: filepath.Join(place.DataDir, "run"),
		CgroupParent: o.CgroupParent, Logger: [2]string{self, early.LoggerCommand}, Metrics: calls,
		RegistryConfigDir: o.Registries, Handlers: handlers,
	})
	if err != nil {
		return w, fmt.Errorf("containerd: %w", err)
	}
	if w.proxy, err = proxy.New(proxy.Options{Metrics: rules, NodeName: place.Name, Reserved: place.reserved(), Log: log,
		Wake: func(ctx context.Context, service types.NamespacedName) error {
			return w.agent.WakeService(ctx, service)
		}}); err != nil {
		return w, err
	}
	w.dns = dns.NewLate(dns.Options{Metrics: questions, Assign: true, Log: log})
	w.network, err = network.New(network.Options{StateDir: filepath.Join(place.DataDir, "network"), Followers: []network.Follower{w.proxy, w.dns}, Reserved: place.reserved(), Log: log})
	if err != nil {
		return w, err
	}
	w.agent, err = agent.New(agent.Config{
		NodeName: place.Name, NodeIP: netip.MustParseAddr(place.NodeIP), StateDir: filepath.Join(place.DataDir, "agent"),
		Kubelet: kubelet, Hardware: o.Hardware, LogDir: o.PodLogs, Pulls: o.ParallelPulls, NodeCredentials: registries.Of, Eviction: thresholds, ImageGC: o.ImageGC, AllowedUnsafeSysctls: o.UnsafeSysctls, Runtime: w.runtime, Network: w.network, ServiceConsumers: []agent.ServiceConsumer{w.proxy, w.dns},
		Guard:   &guard.Guard{Command: []string{self, early.GuardCommand}, Socket: filepath.Join(place.DataDir, "guard.sock"), CgroupParent: o.CgroupParent},
		Masters: identity.Masters(), Dial: dialMaster(identity), Labels: o.NodeLabels, Port: KubeletPort, MaxPods: o.MaxPods, Version: process.GitVersion,
		StaticPods: o.StaticPods, Shutdown: periods, SeccompDefault: o.SeccompDefault, SingleProcessOOMKill: o.SingleOOMKill, Swap: swap, Timeline: starts,
	})
	if err != nil {
		return w, err
	}
	config := server.Config{
		Pods: w.agent.Pods(), Runtime: w.runtime, Node: w.agent.Node, Stats: w.agent.Stats(),
		TLS:       identity.ServerTLS,
		Verify:    server.AllowMasters(),
		Authorize: w.agent.AuthorizeCaller,
		Probes:    w.agent.Pods().ProbeMetrics(),
		Timeline:  starts,
		Volumes:   w.agent.VolumeUsage,
		Dir:       place.DataDir, Configuration: w.agent.Configuration,
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(process.NewBuildInfo(), calls, rules, questions, w.agent.PodMetrics())
	if w.spans != nil {
		registry.MustRegister(w.spans)
	}
	if w.share != nil {
		config.Peers = w.share.Handler
		registry.MustRegister(w.share)
	}
	config.Metrics = registry
	w.server = server.New(config)
	return w, nil
}

func (w *workerParts) close() error {
	if w.network != nil {
		w.network.Close()
	}
	if w.proxy != nil {
		w.proxy.Close()
	}
	err := process.CloseTracing(w.spans)
	if w.runtime == nil {
		return err
	}
	return errors.Join(err, w.runtime.Close())
}

// run runs the worker until the context ends; containers keep running after that. It calls ready once masters can reach the worker.
func (w *workerParts) run(ctx context.Context, ready func()) error {
	listener, err := net.Listen("tcp", w.address)
	if err != nil {
		return errors.Join(fmt.Errorf("listen for masters: %w", err), w.close())
	}
	ready()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return w.agent.Run(ctx) })
	if w.share != nil {
		group.Go(func() error { return w.share.Run(ctx) })
	}
	group.Go(func() error { return w.proxy.Run(ctx) })
	group.Go(func() error { return w.dns.Run(ctx) })
	group.Go(func() error { return w.server.Serve(ctx, listener) })
	return errors.Join(group.Wait(), w.close())
}
