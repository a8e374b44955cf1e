package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
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

// kubeletPort is the kubelet-compatible port.
const kubeletPort = 10250

// defaultAPIPort is the default of --api-port.
const defaultAPIPort = 6443

// agentOptions are the settings of a worker, also of one on a master's host.
type agentOptions struct {
	containerd, containerdNamespace  string
	cgroupParent                     string
	nodeLabels                       map[string]string
	maxPods                          int
	podLogs, kubeletRoot             string
	unsafeSysctls                    []string
	registries                       string
	parallelPulls                    int
	shareImages                      bool
	credentialConfig, credentialDir  string
	evictHard, evictSoft, evictGrace string
	imageGC                          eviction.ImageGC
	hardware                         agent.HardwareConfig
	staticPods                       string
	shutdown, shutdownCritical       time.Duration
	shutdownByPriority               map[string]string
	seccompDefault, singleOOMKill    bool
	swap                             string
	tracing                          tracingOptions
	runtimeHandlers                  map[string]string
	selinux                          bool
}

// validate checks numbers, by a kubelet's rules.
func (o *agentOptions) validate() error {
	gc := o.imageGC
	switch {
	case o.maxPods < 0:
		return fmt.Errorf("--max-pods: %d is negative", o.maxPods)
	case o.parallelPulls < 1:
		return fmt.Errorf("--max-parallel-image-pulls: want at least 1, not %d", o.parallelPulls)
	case gc.High < 0 || gc.High > 100:
		return fmt.Errorf("--image-gc-high-threshold: want 0 to 100, not %d", gc.High)
	case gc.Low < 0 || gc.Low >= gc.High:
		return fmt.Errorf("--image-gc-low-threshold: want less than --image-gc-high-threshold, %d, and not less than 0: not %d", gc.High, gc.Low)
	case gc.MinAge < 0:
		return fmt.Errorf("--minimum-image-ttl-duration: %v is negative", gc.MinAge)
	case gc.MaxAge < 0 || gc.MaxAge > 0 && gc.MaxAge < gc.MinAge:
		return fmt.Errorf("--image-maximum-gc-age: want 0, or at least --minimum-image-ttl-duration, %v: not %v", gc.MinAge, gc.MaxAge)
	}
	if _, err := containerd.ParseHandlers(o.runtimeHandlers); err != nil {
		return fmt.Errorf("--runtime-handlers: %w", err)
	}
	return o.hardware.Check()
}

func (o *agentOptions) flags(f *pflag.FlagSet) {
	f.StringVar(&o.containerd, "containerd", "/run/containerd/containerd.sock", "containerd's socket")
	f.StringVar(&o.containerdNamespace, "containerd-namespace", "kontiki", "the containerd namespace of this worker's containers")
	f.StringVar(&o.cgroupParent, "cgroup-parent", "kontiki", "the parent of the pods' cgroups")
	f.StringToStringVar(&o.nodeLabels, "node-labels", nil, "labels to give the node")
	f.IntVar(&o.maxPods, "max-pods", 110, "how many pods may run on this node")
	f.StringVar(&o.podLogs, "pod-logs-dir", "/var/log/pods", "the directory of containers' logs; links to them are in the directory containers beside it")
	f.StringVar(&o.kubeletRoot, "kubelet-root", kubeletroot.Default, "the directory of pods' volumes and of vendors' plugins, which pods see as "+kubeletroot.Default)
	f.StringVar(&o.registries, "registry-config-dir", "/etc/containerd/certs.d", "the directory that has, for each registry, a directory with its hosts.toml: mirrors, certificates, plain HTTP")
	f.StringVar(&o.credentialConfig, "image-credential-provider-config", "", "the configuration of the programs that have credentials for registries (CredentialProviderConfig)")
	f.StringVar(&o.credentialDir, "image-credential-provider-bin-dir", "", "the directory of these programs")
	f.BoolVar(&o.shareImages, "share-images", true, "fetch images from other workers before the registry, and send them images")
	f.IntVar(&o.parallelPulls, "max-parallel-image-pulls", 5, "how many images are pulled at the same time")
	f.StringVar(&o.evictHard, "eviction-hard", eviction.Default, "thresholds below which pods are evicted at once, such as memory.available<100Mi")
	f.StringVar(&o.evictSoft, "eviction-soft", "", "thresholds below which pods are evicted after a period of grace")
	f.StringVar(&o.evictGrace, "eviction-soft-grace-period", "", "those periods, such as memory.available=1m30s")
	f.IntVar(&o.imageGC.High, "image-gc-high-threshold", eviction.DefaultImageGC.High, "the percentage of disk usage above which unused images are removed; 100 for never")
	f.IntVar(&o.imageGC.Low, "image-gc-low-threshold", eviction.DefaultImageGC.Low, "the percentage at which that ends")
	f.DurationVar(&o.imageGC.MinAge, "minimum-image-ttl-duration", eviction.DefaultImageGC.MinAge, "how long an unused image is kept at least")
	f.DurationVar(&o.imageGC.MaxAge, "image-maximum-gc-age", 0, "how long an unused image is kept at most; 0 for ever")
	h := &o.hardware
	f.StringVar(&h.CPUPolicy, "cpu-manager-policy", cpus.None, "none, or static: containers of Guaranteed pods that request whole processors get some of their own")
	f.StringToStringVar(&h.CPUOptions, "cpu-manager-policy-options", nil, "options of that policy: full-pcpus-only, strict-cpu-reservation and prefer-align-cpus-by-uncorecache, each =true or =false")
	f.StringVar(&h.ReservedCPUs, "reserved-cpus", "", "processors, such as 0-1, that are not allocatable and that no container gets as its own")
	f.StringVar(&h.MemoryPolicy, "memory-manager-policy", memory.None, "None, or Static: containers of Guaranteed pods get memory of NUMA nodes")
	f.StringVar(&h.ReservedMemory, "reserved-memory", "", "what pods cannot have of each NUMA node, such as 0:memory=1Gi,hugepages-2Mi=4Mi;1:memory=1Gi")
	f.StringVar(&h.TopologyPolicy, "topology-manager-policy", numa.None, "how processors and devices of a pod are aligned on NUMA nodes: none, best-effort, restricted or single-numa-node")
	f.StringVar(&h.TopologyScope, "topology-manager-scope", numa.ScopeContainer, "what is aligned: container or pod")
	f.StringToStringVar(&h.TopologyOptions, "topology-manager-policy-options", nil, "options of that policy: prefer-closest-numa-nodes=true, max-allowable-numa-nodes=N")
	f.StringVar(&o.staticPods, "pod-manifest-path", "", "the directory with a file, in YAML or JSON, for each static pod of the node, or a single such file")
	f.BoolVar(&o.seccompDefault, "seccomp-default", false, "give containers that name no seccomp profile the default one, RuntimeDefault, instead of none")
	f.BoolVar(&o.singleOOMKill, "single-process-oom-kill", false, "let the kernel kill single processes of a container that is out of memory, instead of all of them")
	f.StringVar(&o.swap, "memory-swap-behavior", string(pods.NoSwap), "NoSwap, or LimitedSwap: containers of Burstable pods may use a part of the node's swap (cgroup v2)")
	f.DurationVar(&o.shutdown, "shutdown-grace-period", 0, "how long a shutdown of the machine, by systemd, waits for pods to end; 0 for not at all")
	f.DurationVar(&o.shutdownCritical, "shutdown-grace-period-critical-pods", 0, "the part of that, at its end, that critical pods have")
	f.StringToStringVar(&o.shutdownByPriority, "shutdown-grace-period-by-pod-priority", nil, "instead of both, how long pods have to end from each priority on, lowest first: 0=60s,100000=20s,2000000000=10s")
	o.tracing.flags(f)
	f.BoolVar(&o.selinux, "selinux", false, "give containers and the files of their volumes SELinux labels; the host's kernel must have SELinux, and its policy labels for containers (the package container-selinux)")
	f.StringToStringVar(&o.runtimeHandlers, "runtime-handlers", nil, "what RuntimeClasses can name besides runc, as NAME=TYPE or NAME=TYPE:PATH: the type of a containerd shim, such as runsc=io.containerd.runsc.v1, and its configuration or, for io.containerd.runc.v2, the program in runc's place, such as crun=io.containerd.runc.v2:/usr/bin/crun")
	f.StringSliceVar(&o.unsafeSysctls, "allowed-unsafe-sysctls", nil, "sysctls, or prefixes that end in *, that pods may set in addition to the safe ones")
}

// agentPlace says where an agent runs and which masters it joins.
type agentPlace struct {
	name, nodeIP, dataDir string
	join                  []string
	token                 string
	gossipPort            int
	// masterPorts are the ports of a master on the same host; the ports of others are those of join, or the defaults.
	masterPorts []int
}

func agentCommand() *cobra.Command {
	var o agentOptions
	var place agentPlace
	var configFile, level string
	cmd := &cobra.Command{
		Use:   "agent --join HOST:6444 --token TOKEN",
		Short: "Run a worker",
		Long:  "Run a worker. It needs the token only at its first start.\nFlags can also be set, by the same names, in " + defaultConfig + ".",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if err := loadConfig(cmd, configFile); err != nil {
				return err
			}
			log, err := newLogger(level)
			if err != nil {
				return err
			}
			if place.name, err = hostName(place.name); err != nil {
				return err
			}
			if place.nodeIP, err = hostAddress(place.nodeIP); err != nil {
				return err
			}
			defer context.AfterFunc(cmd.Context(), func() { tellSystemd(log, daemon.SdNotifyStopping) })()
			return runAgent(cmd.Context(), &o, place, log, func() { tellSystemd(log, daemon.SdNotifyReady) })
		},
	}
	f := cmd.Flags()
	f.StringVar(&configFile, "config", defaultConfig, "configuration file")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&place.name, "name", "", "the node's name (default: the host's name)")
	f.StringVar(&place.nodeIP, "node-ip", "", "the address at which other hosts reach this one (default: the first one)")
	f.StringVar(&place.dataDir, "data-dir", defaultAgentDir, "the directory of this worker's data")
	f.StringSliceVar(&place.join, "join", nil, "HOST:PORT of masters")
	f.StringVar(&place.token, "token", "", "a join token for workers")
	f.IntVar(&place.gossipPort, "gossip-port", cluster.DefaultGossipPort, "the gossip port")
	o.flags(f)
	return cmd
}

// runAgent runs the worker on a master's own host. It joins like any other, with a token that the master creates for its first
// join.
func (m *master) runAgent(ctx context.Context) error {
	place := agentPlace{
		name: m.cluster.Name(), nodeIP: m.options.nodeIP, dataDir: filepath.Join(filepath.Dir(m.options.dataDir), "agent"),
		join: []string{m.cluster.Address()}, gossipPort: m.options.gossipPort + 1,
		masterPorts: []int{m.options.port, m.options.apiPort, m.options.gossipPort},
	}
	if _, err := os.Stat(place.identityDir()); errors.Is(err, fs.ErrNotExist) {
		if place.token, err = m.cluster.CreateToken(ctx, mtls.RoleWorker, time.Hour, "the worker on "+m.cluster.Name()); err != nil {
			return err
		}
	}
	return runAgent(ctx, &m.options.agent, place, m.log, func() {})
}

// reserved returns the ports that the cluster's own traffic uses, as far as this worker knows them.
func (p agentPlace) reserved() netapi.Ports {
	ports := append([]int{kubeletPort, p.gossipPort, mtls.DefaultPort, defaultAPIPort, cluster.DefaultGossipPort, cluster.DefaultGossipPort + 1}, p.masterPorts...)
	for _, address := range p.join {
		if _, port, err := net.SplitHostPort(address); err == nil {
			if n, err := strconv.ParseUint(port, 10, 16); err == nil {
				ports = append(ports, int(n))
			}
		}
	}
	return netapi.PortsOf(ports...)
}

func (p agentPlace) identityDir() string { return filepath.Join(p.dataDir, "identity") }

// runAgent runs a worker until the context ends. It calls ready once the worker runs its pods and answers masters.
func runAgent(ctx context.Context, o *agentOptions, place agentPlace, log *slog.Logger, ready func()) error {
	if err := o.validate(); err != nil {
		return err
	}
	identity, err := worker.Join(ctx, worker.Config{
		Name: place.name, Dir: place.identityDir(), Join: place.join, Token: place.token,
		Addresses: []string{place.nodeIP}, Logger: log,
	})
	if err != nil {
		return err
	}
	log = log.With("node", place.name)
	gossipAddress := net.JoinHostPort(place.nodeIP, strconv.Itoa(place.gossipPort))
	w, err := newWorker(ctx, o, place, identity, log)
	if err != nil {
		return err
	}
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return identity.Run(running) })
	group.Go(func() error {
		return identity.RunGossip(running, gossip.Config{
			Name: place.name, Role: mtls.RoleWorker, Address: place.nodeIP, Version: gitVersion,
			BindAddress: gossipAddress, AdvertiseAddress: gossipAddress, Logger: log,
		})
	})
	group.Go(func() error { return w.run(running, ready) })
	return unlessStopped(ctx, group.Wait())
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

func newWorker(ctx context.Context, o *agentOptions, place agentPlace, identity *worker.Identity, log *slog.Logger) (_ *workerParts, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	thresholds, err := eviction.ParseThresholds(o.evictHard, o.evictSoft, o.evictGrace)
	if err != nil {
		return nil, err
	}
	kubelet, err := kubeletroot.New(o.kubeletRoot)
	if err != nil {
		return nil, err
	}
	swap, err := pods.ParseSwapBehavior(o.swap)
	if err != nil {
		return nil, err
	}
	periods, err := shutdown.Periods(o.shutdown, o.shutdownCritical, o.shutdownByPriority)
	if err != nil {
		return nil, err
	}
	registries, err := credentials.Load(o.credentialConfig, o.credentialDir)
	if err != nil {
		return nil, err
	}
	w := &workerParts{address: net.JoinHostPort(place.nodeIP, strconv.Itoa(kubeletPort))}
	defer func() {
		if err != nil {
			w.close()
		}
	}()
	var peers runtime.Peers
	if o.shareImages {
		w.share = w.newShare(place, identity, log)
		peers = w.share
	}
	if w.spans, err = o.tracing.open(ctx, "kontiki-worker", place.name, log); err != nil {
		return w, err
	}
	starts := timeline.New(w.spans.Tracer())
	calls, rules, questions := containerd.NewMetrics(), proxy.NewMetrics(), dns.NewMetrics()
	handlers, err := containerd.ParseHandlers(o.runtimeHandlers)
	if err != nil {
		return w, err // validated
	}
	var labels *selinux.Host
	if o.selinux {
		if labels, err = selinux.Open(); err != nil {
			return w, fmt.Errorf("--selinux: %w", err)
		}
	}
	w.runtime, err = containerd.New(ctx, containerd.Config{
		SELinux: labels, Peers: peers, Address: o.containerd, Namespace: o.containerdNamespace, StateDir: filepath.Join(place.dataDir, "run"),
		CgroupParent: o.cgroupParent, Logger: [2]string{self, early.LoggerCommand}, Metrics: calls,
		RegistryConfigDir: o.registries, Handlers: handlers,
	})
	if err != nil {
		return w, fmt.Errorf("containerd: %w", err)
	}
	if w.proxy, err = proxy.New(proxy.Options{Metrics: rules, NodeName: place.name, Reserved: place.reserved(), Log: log,
		Wake: func(ctx context.Context, service types.NamespacedName) error {
			return w.agent.WakeService(ctx, service)
		}}); err != nil {
		return w, err
	}
	w.dns = dns.NewLate(dns.Options{Metrics: questions, Assign: true, Log: log})
	w.network, err = network.New(network.Options{StateDir: filepath.Join(place.dataDir, "network"), Followers: []network.Follower{w.proxy, w.dns}, Reserved: place.reserved(), Log: log})
	if err != nil {
		return w, err
	}
	w.agent, err = agent.New(agent.Config{
		NodeName: place.name, NodeIP: netip.MustParseAddr(place.nodeIP), StateDir: filepath.Join(place.dataDir, "agent"),
		Kubelet: kubelet, Hardware: o.hardware, LogDir: o.podLogs, Pulls: o.parallelPulls, NodeCredentials: registries.Of, Eviction: thresholds, ImageGC: o.imageGC, AllowedUnsafeSysctls: o.unsafeSysctls, Runtime: w.runtime, Network: w.network, ServiceConsumers: []agent.ServiceConsumer{w.proxy, w.dns},
		Guard:   &guard.Guard{Command: []string{self, early.GuardCommand}, Socket: filepath.Join(place.dataDir, "guard.sock"), CgroupParent: o.cgroupParent},
		Masters: identity.Masters(), Dial: dialMaster(identity), Labels: o.nodeLabels, Port: kubeletPort, MaxPods: o.maxPods, Version: gitVersion,
		StaticPods: o.staticPods, Shutdown: periods, SeccompDefault: o.seccompDefault, SingleProcessOOMKill: o.singleOOMKill, Swap: swap, Timeline: starts,
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
		Dir:       place.dataDir, Configuration: w.agent.Configuration,
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(newBuildInfo(), calls, rules, questions, w.agent.PodMetrics())
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
	err := closeTracing(w.spans)
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
