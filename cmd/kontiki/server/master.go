package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/kontiki/kontiki/api/advice"
	"github.com/kontiki/kontiki/api/agents"
	"github.com/kontiki/kontiki/api/apiserver"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/journal"
	"github.com/kontiki/kontiki/api/keepalive"
	"github.com/kontiki/kontiki/api/nodes"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/statemetrics"
	"github.com/kontiki/kontiki/api/timelines"
	"github.com/kontiki/kontiki/api/usage"
	usagehistory "github.com/kontiki/kontiki/api/usage/history"
	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/backup"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/cmd/kontiki/agent"
	"github.com/kontiki/kontiki/cmd/kontiki/process"
	"github.com/kontiki/kontiki/cmd/kontiki/server/clusterapi"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/rbac"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/linger"
	"github.com/kontiki/kontiki/internal/logline"
	"github.com/kontiki/kontiki/internal/newcomers"
	"github.com/kontiki/kontiki/internal/timeline"
	"github.com/kontiki/kontiki/internal/tracing"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// master is a running master: consensus, the API on it, the workers' sessions, and the leader's duties.
type master struct {
	cluster        *cluster.Cluster
	api            *apiserver.API
	options        *serverOptions
	ranges         ranges
	authentication *authentication
	log            *slog.Logger
	agents         agents.Credentials
	apiConns       apiConns
	keyring        keyring
	usingKeys      sync.Mutex // held while the present keys are passed on
	// sessions are the workers' sessions with this master, census those with all masters.
	sessions *nodes.Server
	census   *nodes.Census
	// reader reads the present state.
	reader *client.Client
	// usage is what the workers of all masters use.
	usage *usage.Directory
	// used is what they used in the last day.
	used *usagehistory.Keeper
	// timeline has what this master does to start pods, timelines what all hosts do.
	timeline  *timeline.Recorder
	timelines *timelines.Gatherer
	// advice is what requests would fit the workloads.
	advice *advice.Keeper
	// journal is this master's journal of changes; nil if it keeps none.
	journal *journal.Journal
}

func newMaster(c *cluster.Cluster, o *serverOptions, r ranges, a *authentication, tracer *tracing.Tracer, log *slog.Logger) (*master, error) {
	identity := c.Identity()
	plugins, err := o.api.kmsConfigs()
	if err != nil {
		return nil, err
	}
	keys, err := newKeyring(plugins, log)
	if err != nil {
		return nil, err
	}
	m := &master{cluster: c, options: o, keyring: keys, ranges: r, authentication: a, log: log, agents: &clusterAgents{cluster: c}, timeline: timeline.New(tracer)}
	admits, err := o.api.admission()
	if err != nil {
		return nil, err
	}
	reports := usage.NewLocal()
	m.usage = usage.NewDirectory(usage.Config{Local: reports, Own: c.Address(), Masters: c.MasterAddresses, Connect: c.Master, Log: log})
	m.used = usagehistory.New(usagehistory.Config{
		Usage: m.usage, Client: func() *client.Client { return m.reader }, Own: c.Address(), Masters: c.MasterAddresses, Connect: c.Master, Log: log.With("part", "usage"),
	})
	if m.journal, err = o.openJournal(log); err != nil {
		return nil, err
	}
	administration, pprof := &clusterapi.API{Cluster: c, Flags: o.given, Log: log}, profiles(o.api.profiling)
	extra := administration.Paths()
	maps.Copy(extra, map[string]http.Handler{
		"/metrics": metricsHandler(), "/metrics/state": statemetrics.Handler(func() client.View { return m.reader.View() }),
		profilePath: pprof, profilePath + "/": pprof,
	})
	m.api, err = apiserver.New(apiserver.Config{
		Store: c, SealKeys: identity.SecretKeys, SealWith: identity.CurrentSecretKey, ServiceAccountKey: identity.ServiceAccountKey,
		FrontProxy: (&frontProxy{authority: func() *pki.Authority { return c.Identity().CA.FrontProxy() }}).Certificate, Roots: c.ClientRoots, Admit: c.Admits, Admission: admits,
		ServiceRange: r.service, PodRange: r.pod, TolerationSeconds: &o.tolerationSeconds, ForbidPrivileged: !o.api.allowPrivileged, BootstrapTokens: o.api.bootstrapTokens,
		Tokens: a.tokens, Anonymous: a.anonymous,
		Agents: m.agents, Cluster: administration.Service(), Usage: m.usage, UsageHistory: m.used, Journal: m.journal, Metrics: apiMetrics,
		Tracer: tracer, Timeline: m.timeline, Timelines: func(ctx context.Context, pod *corev1.Pod) any { return m.timelines.Of(ctx, pod) },
		Advice: func(namespace string) any { return m.advice.Advise(namespace) },
		Audit:  o.api.auditor, Limits: o.api.limits, RequestTimeout: o.api.requestTimeout,
		Ready: m.ready, Version: process.VersionInfo(), Log: log,
		Checks: []apiserver.Check{{Name: "poststarthook/rbac/bootstrap-roles", New: func(o *objects.Service) func(context.Context) error {
			return rbac.Ready(client.New(o, "system:apiserver", "kube-apiserver"))
		}}, {Name: "kms-providers", New: func(*objects.Service) func(context.Context) error { return keys.Ready }}},
		Extra: extra,
	})
	if err != nil {
		return nil, err
	}
	m.reader = client.New(m.api.Objects, "system:apiserver", "kube-apiserver")
	m.advice = advice.New(advice.Config{Usage: m.usage, Client: m.reader, Period: o.advice.period, Log: log.With("part", "advice")})
	m.timelines = timelines.New(timelines.Config{
		Local: m.timeline, Name: c.Name(), Own: c.Address(), Masters: c.MasterAddresses, Connect: c.Master, Agents: agents.New(m.api.Objects, m.agents),
	})
	m.sessions = nodes.New(nodes.Config{
		Client: client.New(m.api.Objects, "system:kontiki:nodes", "kubelet"), Tokens: m.api.Tokens,
		Fence: func(ctx context.Context, name string) (*client.Client, error) {
			service, err := m.api.Objects.Fence(ctx, name)
			if err != nil {
				return nil, err
			}
			return client.New(service, "system:kontiki:nodes", "kubelet"), nil
		},
		Callers: nodes.Callers{Authorizer: m.api.Authorizer, Authenticate: func(ctx context.Context, token string) (user.Info, error) {
			who, _, err := m.api.Authenticator.Token(ctx, token, nil)
			return who, err
		}, Worker: m.workerOf},
		Caller: func(ctx context.Context) (string, bool) {
			peer, ok := mtls.PeerFromContext(ctx)
			return peer.Name, ok && peer.Role == mtls.RoleWorker
		},
		Masters: c.MasterAddresses, Detached: c.Detached, History: history, ClusterDomain: o.clusterDomain, ClusterDNS: []netip.Addr{r.dns},
		ServiceRange: r.service, PodRange: r.pod, Lease: o.volumeLease, Usage: reports, Timeline: m.timeline, Log: log,
	})
	c.RegisterNode(func(s grpc.ServiceRegistrar) { nodev1.RegisterNodeServiceServer(s, m.sessions) })
	c.RegisterMasters(m.sessions.RegisterSessions)
	c.RegisterMasters(reports.Register)
	c.RegisterMasters(m.used.Register)
	c.RegisterMasters(m.timelines.Register)
	m.census = nodes.NewCensus(nodes.CensusConfig{Masters: c.MasterAddresses, Connect: c.Master, Log: log})
	if err := m.useKeys(); err != nil {
		return nil, err
	}
	c.SetKnownWorkers(m.knownWorkers)
	c.SetKeyring(clusterKeyring{keys, m.api.Sealer})
	m.addDuties()
	return m, nil
}

// history identifies the history of a view: it changes when the state is not simply the continuation of what it was.
func history(v kv.View) string {
	epoch, _, err := backup.EpochOf(v)
	if err != nil || epoch.Number == 0 {
		return ""
	}
	return fmt.Sprintf("%s-%d", epoch.Lineage, epoch.Number)
}

// ready returns why this master cannot serve, or nil.
func (m *master) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if _, err := m.cluster.Consistent(ctx); err != nil {
		return fmt.Errorf("no quorum of masters: %w", err)
	}
	return nil
}

func (m *master) run(ctx context.Context) error {
	group, running := errgroup.WithContext(ctx)
	group.Go(func() error { return m.cluster.Run(running) })
	group.Go(func() error { return m.serveAPI(running) })
	group.Go(func() error { return m.followIdentity(running) })
	group.Go(func() error { return m.followKeyring(running) })
	group.Go(func() error { return m.keyring.Run(running) })
	defer m.keyring.Close()
	defer context.AfterFunc(ctx, func() { process.TellSystemd(m.log, daemon.SdNotifyStopping) })()
	group.Go(func() error { return m.census.Run(running) })
	group.Go(func() error { return m.followFlow(running) })
	if m.journal != nil {
		group.Go(func() error {
			return controller.Keep(running, "journal", m.log.With("part", "journal"), func(ctx context.Context) error { return m.journal.Run(ctx, m.api.Objects) })
		})
	}
	group.Go(func() error {
		return controller.Keep(running, "custom resources", m.log.With("part", "api"), m.api.Run)
	})
	group.Go(func() error {
		return controller.Keep(running, "authentication", m.log.With("part", "api"), m.authentication.run)
	})
	group.Go(func() error { return m.sessions.Run(running) })
	group.Go(func() error { return m.advice.Run(running) })
	group.Go(func() error { return m.used.Run(running) })
	group.Go(func() error { return m.sessions.Balance(running, m.cluster.Address(), m.census.Fewest) })
	group.Go(func() error {
		select {
		case <-m.cluster.Ready():
		case <-running.Done():
			return nil
		}
		if err := m.writeKubeconfig(); err != nil {
			return err
		}
		process.TellSystemd(m.log, daemon.SdNotifyReady)
		group.Go(func() error {
			c := client.New(m.api.Objects, "system:apiserver", "kube-apiserver")
			rbac.Ensure(running, c, rbac.Patience, m.log.With("part", "rbac")) // it ends when it has done so, or with the context
			return nil
		})
		if m.options.noAgent {
			return nil
		}
		return m.runAgent(running)
	})
	return process.UnlessStopped(ctx, group.Wait())
}

// followFlow configures priority and fairness by the cluster's objects, until the context ends.
func (m *master) followFlow(ctx context.Context) error {
	from := client.New(m.api.Objects, "system:apiserver", "kube-apiserver")
	return controller.Keep(ctx, "priority and fairness", m.log.With("part", "api"), func(ctx context.Context) error {
		return m.options.api.limits.Run(ctx, from)
	})
}

// runAgent runs the worker on a master's own host. It joins like any other, with a token that the master creates for its first
// join.
func (m *master) runAgent(ctx context.Context) error {
	place := agent.Place{
		Name: m.cluster.Name(), NodeIP: m.options.nodeIP, DataDir: filepath.Join(filepath.Dir(m.options.dataDir), "agent"),
		Join: []string{m.cluster.Address()}, GossipPort: m.options.gossipPort + 1,
		MasterPorts: []int{m.options.port, m.options.apiPort, m.options.gossipPort},
	}
	if _, err := os.Stat(place.IdentityDir()); errors.Is(err, fs.ErrNotExist) {
		if place.Token, err = m.cluster.CreateToken(ctx, mtls.RoleWorker, time.Hour, "the worker on "+m.cluster.Name()); err != nil {
			return err
		}
	}
	return agent.Run(ctx, &m.options.agent, place, m.log, func() {})
}

// The share of this process's file descriptors, in sixteenths, that connections to the API may take: those whose client has not
// authenticated yet, and all. The rest is for the other ports, the disk, and an agent in the same process.
const (
	apiNewcomers   = 4
	apiConnections = 10
)

// serveAPI serves HTTPS until the context ends.
func (m *master) serveAPI(ctx context.Context) error {
	listener, err := net.Listen("tcp", net.JoinHostPort(m.options.apiBind, strconv.Itoa(m.options.apiPort)))
	if err != nil {
		return fmt.Errorf("listen for the API: %w", err)
	}
	handler, err := m.withDashboard()
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	requests, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	server := &http.Server{
		Handler: handler,
		TLSConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert,
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return m.cluster.APICertificate() },
		},
		ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 3 * time.Minute, MaxHeaderBytes: 1 << 20,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: 1000,
			// Detect clients that vanished, and clients that do not read the responses to their requests.
			SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second, WriteByteTimeout: time.Minute,
		},
		BaseContext: func(net.Listener) context.Context { return requests },
		ConnContext: newcomers.ConnContext,
		ConnState:   m.apiConns.state,
		ErrorLog:    slog.NewLogLogger(m.log.With("part", "api").Handler(), slog.LevelDebug),
	}
	clients := logline.NewLimited(m.log)
	if err := keepalive.Enforce(server, keepalive.Policy{Refused: func(remote string) {
		clients.Info("closed a connection whose client pings too often", "part", "api", "remote", remote)
	}}); err != nil {
		return errors.Join(err, listener.Close())
	}
	stopped := context.AfterFunc(ctx, func() {
		bounded, cancel := context.WithTimeout(context.Background(), shutdownTime)
		defer cancel()
		time.AfterFunc(shutdownTime/2, end) // watches and streams end; short requests have had their time
		server.Shutdown(bounded)            // Close aborts what is still running then
		server.Close()
	})
	defer stopped()
	m.log.Info("serving the API", "address", listener.Addr().String())
	noise := logline.NewLimited(m.log)
	limited := newcomers.Limit(linger.Listener(listener, linger.Patience), newcomers.Share(apiNewcomers, apiConnections), func(remote net.Addr) {
		noise.Warn("closed a connection to the API: too many are open, or have not authenticated", "remote", remote.String())
	})
	if err := server.ServeTLS(limited, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the API: %w", err)
	}
	return nil
}
