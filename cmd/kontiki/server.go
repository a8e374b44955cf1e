package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
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
	"github.com/kontiki/kontiki/api/measure"
	"github.com/kontiki/kontiki/api/nodes"
	"github.com/kontiki/kontiki/api/objects"
	"github.com/kontiki/kontiki/api/statemetrics"
	"github.com/kontiki/kontiki/api/timelines"
	"github.com/kontiki/kontiki/api/usage"
	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/backup"
	"github.com/kontiki/kontiki/cluster/backup/s3"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/cmd/kontiki/admin"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/certificates"
	"github.com/kontiki/kontiki/controller/horizontal"
	"github.com/kontiki/kontiki/controller/nodelifecycle"
	"github.com/kontiki/kontiki/controller/rbac"
	"github.com/kontiki/kontiki/internal/kv"
	"github.com/kontiki/kontiki/internal/linger"
	"github.com/kontiki/kontiki/internal/logline"
	"github.com/kontiki/kontiki/internal/newcomers"
	"github.com/kontiki/kontiki/internal/timeline"
	"github.com/kontiki/kontiki/internal/tracing"
	nodev1 "github.com/kontiki/kontiki/proto/kontiki/node/v1"
)

// shutdownTime is how long running requests may take when a master stops.
const shutdownTime = 2 * time.Second

type serverOptions struct {
	configFile, logLevel      string
	name, nodeIP, dataDir     string
	join                      []string
	token                     string
	port, apiPort, gossipPort int
	apiBind                   string
	tlsSANs                   []string
	serviceCIDR, podCIDR      string
	clusterDomain, clusterDNS string
	tolerationSeconds         int64
	confirmPeriod             time.Duration
	volumeLease               time.Duration
	evictions                 nodelifecycle.Evictions
	autoscaler                horizontal.Options
	advice                    adviceOptions
	deadMasters               time.Duration
	signingDuration           time.Duration
	backups                   backup.Schedule
	bucket                    s3.Config
	noAgent                   bool
	dashboard                 bool
	journalSize               int
	journalAge                time.Duration
	dutyNames                 []string
	duties                    dutyList // from dutyNames
	scheduling                schedulerConfig
	rebalance                 bool
	timings                   cluster.Timings
	gossip                    string
	api                       apiOptions
	authn                     authnOptions
	agent                     agentOptions
}

func serverCommand() *cobra.Command { return serverCommandTo(runServer) }

// serverCommandTo returns the command, with the function to run with its options.
func serverCommandTo(run func(context.Context, *serverOptions) error) *cobra.Command {
	var o serverOptions
	cmd := &cobra.Command{
		Use:   "server [--join HOST:6444 --token TOKEN]",
		Short: "Run a master (and, unless --no-agent, a worker on the same host)",
		Long:  "Run a master. The first one starts a new cluster; further ones join it with a token for masters.\nFlags can also be set, by the same names, in " + defaultConfig + ".",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := loadConfig(cmd, o.configFile); err != nil {
				return err
			}
			return run(cmd.Context(), &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.configFile, "config", defaultConfig, "configuration file")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.name, "name", "", "this master's name, unique in the cluster (default: the host's name)")
	f.StringVar(&o.nodeIP, "node-ip", "", "the address at which other hosts reach this one (default: the first one)")
	f.StringVar(&o.dataDir, "data-dir", admin.DefaultServerDir, "the directory of this master's data")
	f.StringSliceVar(&o.join, "join", nil, "HOST:PORT of masters of the cluster to join")
	f.StringVar(&o.token, "token", "", "a join token for masters")
	f.IntVar(&o.port, "port", mtls.DefaultPort, "the port for masters and workers")
	f.IntVar(&o.apiPort, "api-port", defaultAPIPort, "the port of the API")
	f.StringVar(&o.apiBind, "api-bind", "0.0.0.0", "the address on which the API listens")
	f.IntVar(&o.gossipPort, "gossip-port", cluster.DefaultGossipPort, "the gossip port")
	f.StringSliceVar(&o.tlsSANs, "tls-san", nil, "additional names and addresses at which clients reach the API")
	f.StringVar(&o.serviceCIDR, "service-cidr", "10.96.0.0/16", "the range of service addresses; the same on all masters")
	f.StringVar(&o.podCIDR, "pod-cidr", "10.244.0.0/16", "the range of pod addresses, of which each node gets a /24; the same on all masters")
	f.StringVar(&o.clusterDNS, "cluster-dns", "", "the address of the cluster's DNS service (default: the tenth of the service range)")
	f.StringVar(&o.clusterDomain, "cluster-domain", "cluster.local", "the DNS domain of the cluster")
	f.Int64Var(&o.tolerationSeconds, "default-toleration-seconds", 300, "how long pods stay on a node that is not ready or not reachable, unless they have tolerations for it; the same on all masters")
	o.evictions = nodelifecycle.DefaultEvictions
	autoscalerFlags(f, &o.autoscaler)
	o.advice.flags(f)
	f.DurationVar(&o.volumeLease, "volume-lease", 10*time.Second, "how long after its last contact with the masters a worker stops the pods that use volumes for one node at a time, so that these can be used elsewhere; 0 for never")
	f.DurationVar(&o.confirmPeriod, "node-confirm-period", 5*time.Second, "how long a worker without a session must fail to answer probes before its node counts as lost")
	f.Float64Var(&o.evictions.Rate, "node-eviction-rate", o.evictions.Rate, "how many failed nodes of a healthy zone are emptied per second")
	f.Float64Var(&o.evictions.SecondaryRate, "secondary-node-eviction-rate", o.evictions.SecondaryRate, "the same for an unhealthy zone; 0 if it is not larger than --large-cluster-size-threshold")
	f.Float64Var(&o.evictions.UnhealthyZone, "unhealthy-zone-threshold", o.evictions.UnhealthyZone, "the fraction of a zone's nodes, and at least three of them, that must be not ready for the zone to be unhealthy")
	f.IntVar(&o.evictions.LargeCluster, "large-cluster-size-threshold", o.evictions.LargeCluster, "the largest number of nodes of a small zone; nothing is evicted from a small unhealthy zone")
	f.StringVar(&o.gossip, "gossip", "all", "which hosts gossip: all, or masters, which is better with more than 2,000 workers; the same on all masters")
	f.DurationVar(&o.timings.Certificate, "certificate-lifetime", pki.DefaultTTL, "the lifetime of certificates that this master issues; they are renewed at two thirds of it")
	f.DurationVar(&o.signingDuration, "cluster-signing-duration", certificates.DefaultDuration, "how long certificates are valid that are signed for CertificateSigningRequests, unless they request a shorter time, at least 10 minutes; the same on all masters")
	f.DurationVar(&o.deadMasters, "remove-dead-masters-after", time.Hour, "how long a master may be dead before it is removed, if three or more others vote; 0 means never")
	f.StringVar(&o.backups.Dir, "snapshot-dir", "", "the directory of the snapshots that this master takes by itself (default: snapshots in the data directory)")
	f.DurationVar(&o.backups.Interval, "snapshot-interval", 12*time.Hour, "how often this master takes a snapshot by itself; 0 means never")
	f.IntVar(&o.backups.Keep, "snapshot-retention", 5, "how many of its own snapshots this master keeps")
	d := cluster.DefaultTimings
	f.StringVar(&o.bucket.Bucket, "backup-s3", "", "s3://BUCKET/PREFIX, to which the leader copies the snapshots that it takes by itself; as many are kept there")
	f.StringVar(&o.bucket.Endpoint, "backup-s3-endpoint", "", "the URL of the service that has the bucket (default https://s3.amazonaws.com)")
	f.StringVar(&o.bucket.Region, "backup-s3-region", "", "the bucket's region (default: the service is asked)")
	f.StringVar(&o.bucket.Credentials, "backup-s3-credentials", "", "a file with aws_access_key_id and aws_secret_access_key (default: the environment, ~/.aws/credentials, or the machine's role)")
	f.Uint64Var(&o.timings.SnapshotThreshold, "raft-snapshot-threshold", d.SnapshotThreshold, "after how many log entries raft takes a snapshot and truncates the log")
	f.DurationVar(&o.timings.SnapshotInterval, "raft-snapshot-interval", d.SnapshotInterval, "how often raft checks whether a snapshot is due, to twice that")
	f.Uint64Var(&o.timings.TrailingLogs, "raft-trailing-logs", d.TrailingLogs, "how many log entries are kept after a snapshot, for masters that lag slightly; one that lags further is sent the snapshot")
	f.StringSliceVar(&o.dutyNames, "duties", []string{"*"}, "which duties the leader carries out: * for all, NAME or -NAME to switch one on or off, none for no duty that upstream's kube-scheduler or kube-controller-manager can carry out; the same on all masters")
	f.StringVar(&o.scheduling.file, "scheduler-config", "", "a file with a KubeSchedulerConfiguration (kubescheduler.config.k8s.io/v1): profiles, plugins, weights; the same on all masters")
	f.BoolVar(&o.rebalance, "rebalance", false, "move pods to other nodes, within their disruption budgets, when their constraints are violated or nodes are loaded unevenly; the same on all masters")
	f.IntVar(&o.journalSize, "journal-size", journal.DefaultBytes>>20, "how many megabytes of this master's disk the journal of changes and events may take; 0 keeps none")
	f.DurationVar(&o.journalAge, "journal-age", journal.DefaultAge, "for how long the journal is kept")
	f.BoolVar(&o.dashboard, "dashboard", true, "serve the dashboard at /ui on the API port")
	f.BoolVar(&o.noAgent, "no-agent", false, "run no worker on this host")
	o.api.flags(f)
	o.authn.flags(f)
	o.agent.flags(f)
	return cmd
}

// ranges are the cluster's validated address ranges.
type ranges struct {
	service, pod netip.Prefix
	dns          netip.Addr
}

func (o *serverOptions) ranges() (r ranges, err error) {
	if r.service, err = parseRange("--service-cidr", o.serviceCIDR, 12, 28); err != nil {
		return r, err
	}
	if r.pod, err = parseRange("--pod-cidr", o.podCIDR, 8, 24); err != nil {
		return r, err
	}
	if r.service.Overlaps(r.pod) {
		return r, fmt.Errorf("--service-cidr %s and --pod-cidr %s overlap", r.service, r.pod)
	}
	if o.clusterDNS == "" {
		r.dns = r.service.Masked().Addr()
		for range 10 {
			r.dns = r.dns.Next()
		}
		return r, nil
	}
	if r.dns, err = netip.ParseAddr(o.clusterDNS); err != nil || !r.service.Contains(r.dns) {
		return r, fmt.Errorf("--cluster-dns: %q is not an address in the service range %s", o.clusterDNS, r.service)
	}
	return r, nil
}

// checkFailures validates the settings about failing nodes.
func (o *serverOptions) checkFailures() error {
	switch {
	case o.tolerationSeconds < 0:
		return fmt.Errorf("--default-toleration-seconds: %d is negative", o.tolerationSeconds)
	case o.volumeLease != 0 && (o.volumeLease < 5*time.Second || o.volumeLease > time.Hour):
		return fmt.Errorf("--volume-lease: %s is not 0 (no fencing) and not between 5 seconds, which an election may take, and an hour", o.volumeLease)
	case o.confirmPeriod < time.Second:
		return fmt.Errorf("--node-confirm-period: %s is shorter than a second, in which a healthy agent may start again", o.confirmPeriod)
	case o.evictions.Rate < 0 || o.evictions.SecondaryRate < 0:
		return errors.New("--node-eviction-rate and --secondary-node-eviction-rate must not be negative")
	case o.evictions.UnhealthyZone <= 0 || o.evictions.UnhealthyZone > 1:
		return fmt.Errorf("--unhealthy-zone-threshold: %g must be above 0 and at most 1", o.evictions.UnhealthyZone)
	case o.evictions.LargeCluster < 0:
		return fmt.Errorf("--large-cluster-size-threshold: %d is negative", o.evictions.LargeCluster)
	}
	return nil
}

// settings returns the flags that must be the same on all masters.
func (o *serverOptions) settings(r ranges) cluster.Settings {
	plugins, _ := o.api.kmsConfigs() // which has been checked
	settings := cluster.Settings{
		Fixed: map[string]string{
			"service-cidr": r.service.String(), "pod-cidr": r.pod.String(), "cluster-dns": r.dns.String(), "cluster-domain": o.clusterDomain,
		},
		Shared: map[string]string{
			"enable-admission-plugins":     strings.Join(o.api.enableAdmission, ","),
			"disable-admission-plugins":    strings.Join(o.api.disableAdmission, ","),
			"default-toleration-seconds":   fmt.Sprint(o.tolerationSeconds),
			"node-confirm-period":          o.confirmPeriod.String(),
			"volume-lease":                 o.volumeLease.String(),
			"node-eviction-rate":           fmt.Sprint(o.evictions.Rate),
			"secondary-node-eviction-rate": fmt.Sprint(o.evictions.SecondaryRate),
			"unhealthy-zone-threshold":     fmt.Sprint(o.evictions.UnhealthyZone),
			"large-cluster-size-threshold": fmt.Sprint(o.evictions.LargeCluster),
			"remove-dead-masters-after":    o.deadMasters.String(),
			"cluster-signing-duration":     o.signingDuration.String(),
			"gossip":                       o.gossip,
			"duties":                       strings.Join(o.dutyNames, ","),
			"scheduler-config":             o.scheduling.digest,
			"rebalance":                    fmt.Sprint(o.rebalance),
			"allow-privileged":             fmt.Sprint(o.api.allowPrivileged),
			"encryption-provider-config":   kmsNames(plugins),
		},
	}
	autoscalerSettings(o.autoscaler, settings.Shared)
	o.advice.settings(settings.Shared)
	return settings
}

func parseRange(flag, value string, shortest, longest int) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(value)
	if err != nil || !prefix.Addr().Is4() || prefix.Bits() < shortest || prefix.Bits() > longest {
		return prefix, fmt.Errorf("%s: %q must be an IPv4 range such as 10.96.0.0/16, of a length from /%d to /%d", flag, value, shortest, longest)
	}
	return prefix.Masked(), nil
}

// clusterConfig returns the options for package cluster.
func (o *serverOptions) clusterConfig(r ranges, log *slog.Logger) cluster.Config {
	at := func(port int) string { return net.JoinHostPort(o.nodeIP, strconv.Itoa(port)) }
	kubernetes := r.service.Masked().Addr().Next()
	return cluster.Config{
		Name: o.name, DataDir: o.dataDir,
		BindAddress: at(o.port), AdvertiseAddress: at(o.port), GossipBindAddress: at(o.gossipPort), GossipAdvertiseAddress: at(o.gossipPort),
		APIAddress: at(o.apiPort), Bootstrap: len(o.join) == 0, Join: o.join, Token: o.token,
		APIHosts: append([]string{"127.0.0.1", "localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
			"kubernetes.default.svc." + o.clusterDomain, kubernetes.String(), o.nodeIP}, o.tlsSANs...),
		Version: gitVersion, FeatureLevel: featureLevel, Logger: log, Timings: o.timings, GossipMode: o.gossip,
		DeadAfter: o.deadMasters, Backups: o.backups, Settings: o.settings(r),
	}
}

func runServer(ctx context.Context, o *serverOptions) (err error) {
	log, err := newLogger(o.logLevel)
	if err != nil {
		return err
	}
	r, err := o.ranges()
	if err != nil {
		return err
	}
	if err := errors.Join(o.checkFailures(), checkAutoscaler(o.autoscaler), o.advice.check()); err != nil {
		return err
	}
	if o.signingDuration < certificates.MinDuration {
		return fmt.Errorf("--cluster-signing-duration %s must be at least %s", o.signingDuration, certificates.MinDuration)
	}
	if o.duties, err = parseDuties(o.dutyNames); err != nil {
		return err
	}
	if err := o.scheduling.read(); err != nil {
		return err
	}
	if o.name, err = hostName(o.name); err != nil {
		return err
	}
	if o.nodeIP, err = hostAddress(o.nodeIP); err != nil {
		return err
	}
	if err := o.api.open(log); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, o.api.auditor.Close()) }() // when all requests have ended
	if o.backups.Dir == "" {
		o.backups.Dir = filepath.Join(o.dataDir, "snapshots")
	}
	if o.backups.Keep < 1 || o.backups.Interval < 0 {
		return fmt.Errorf("--snapshot-retention must be at least 1, and --snapshot-interval not negative")
	}
	if o.bucket.Bucket != "" {
		remote, err := s3.New(o.bucket)
		if err != nil {
			return fmt.Errorf("--backup-s3: %w", err)
		}
		o.backups.Remote = remote
	} else if o.bucket != (s3.Config{}) {
		return errors.New("--backup-s3-endpoint, --backup-s3-region and --backup-s3-credentials need --backup-s3")
	}
	if o.timings.SnapshotInterval < time.Second || o.timings.SnapshotThreshold < 1 || o.timings.TrailingLogs < 1 {
		return fmt.Errorf("--raft-snapshot-interval must be at least 1s, --raft-snapshot-threshold and --raft-trailing-logs at least 1")
	}
	if o.journalSize < 0 || o.journalSize > 64<<10 || o.journalAge < time.Minute {
		return errors.New("--journal-size must be from 0 to 65536 (megabytes), --journal-age at least 1m")
	}
	spans, err := o.agent.tracing.open(ctx, "kontiki-master", o.name, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeTracing(spans)) }() // when all requests have ended
	if spans != nil {
		if err := prometheus.Register(spans); err != nil {
			return err
		}
	}
	authentication, err := o.authn.open(o.name, log)
	if err != nil {
		return err
	}
	if err := prometheus.Register(authentication.jwt.Metrics); err != nil {
		return err
	}
	c, err := cluster.Open(ctx, o.clusterConfig(r, log))
	if err != nil {
		return err
	}
	if err := prometheus.Register(c.Collector()); err != nil {
		return errors.Join(err, c.Close())
	}
	clients := newClientMetrics()
	clients.register()
	for _, metrics := range []prometheus.Collector{clients, newBuildInfo(), controller.Metrics(), schedulerMetrics, apiMetrics, autoscalerMetrics} {
		if err := prometheus.Register(metrics); err != nil {
			return errors.Join(err, c.Close())
		}
	}
	m, err := newMaster(c, o, r, authentication, spans.Tracer(), log)
	if err != nil {
		return errors.Join(err, c.Close())
	}
	if err := prometheus.Register(measure.Stored{View: c.View, Catalog: m.api.Catalog}); err != nil {
		return errors.Join(err, c.Close())
	}
	return m.run(ctx)
}

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
	if m.journal, err = o.openJournal(log); err != nil {
		return nil, err
	}
	clusterAPI, pprof := m.clusterAPI(), profiles()
	m.api, err = apiserver.New(apiserver.Config{
		Store: c, SealKeys: identity.SecretKeys, SealWith: identity.CurrentSecretKey, ServiceAccountKey: identity.ServiceAccountKey,
		FrontProxy: (&frontProxy{authority: func() *pki.Authority { return c.Identity().CA.FrontProxy() }}).Certificate, Roots: c.ClientRoots, Admit: c.Admits, Admission: admits,
		ServiceRange: r.service, PodRange: r.pod, TolerationSeconds: &o.tolerationSeconds, ForbidPrivileged: !o.api.allowPrivileged, BootstrapTokens: o.api.bootstrapTokens,
		Tokens: a.tokens, Anonymous: a.anonymous,
		Agents: m.agents, Cluster: &clusterRPC{cluster: c}, Usage: m.usage, Journal: m.journal, Metrics: apiMetrics,
		Tracer: tracer, Timeline: m.timeline, Timelines: func(ctx context.Context, pod *corev1.Pod) any { return m.timelines.Of(ctx, pod) },
		Advice: func(namespace string) any { return m.advice.Advise(namespace) },
		Audit:  o.api.auditor, Limits: o.api.limits, RequestTimeout: o.api.requestTimeout,
		Ready: m.ready, Version: versionInfo(), Log: log,
		Checks: []apiserver.Check{{Name: "poststarthook/rbac/bootstrap-roles", New: func(o *objects.Service) func(context.Context) error {
			return rbac.Ready(client.New(o, "system:apiserver", "kube-apiserver"))
		}}, {Name: "kms-providers", New: func(*objects.Service) func(context.Context) error { return keys.Ready }}},
		Extra: map[string]http.Handler{
			"/metrics": metricsHandler(), "/metrics/state": statemetrics.Handler(func() client.View { return m.reader.View() }), admin.ClusterPath: clusterAPI, admin.ClusterPath + "/": clusterAPI, admin.SnapshotPath: clusterAPI, admin.SnapshotPath + "/": clusterAPI,
			admin.CertsPath: http.HandlerFunc(m.serveCerts), admin.SecretsPath: http.HandlerFunc(m.serveSecrets),
			profilePath: pprof, profilePath + "/": pprof,
		},
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
	defer context.AfterFunc(ctx, func() { tellSystemd(m.log, daemon.SdNotifyStopping) })()
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
		tellSystemd(m.log, daemon.SdNotifyReady)
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
	return unlessStopped(ctx, group.Wait())
}

// followFlow configures priority and fairness by the cluster's objects, until the context ends.
func (m *master) followFlow(ctx context.Context) error {
	from := client.New(m.api.Objects, "system:apiserver", "kube-apiserver")
	return controller.Keep(ctx, "priority and fairness", m.log.With("part", "api"), func(ctx context.Context) error {
		return m.options.api.limits.Run(ctx, from)
	})
}

// unlessStopped returns err, or nil if err is only the cancellation of the context.
func unlessStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
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
