package server

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/kontiki/kontiki/api/journal"
	"github.com/kontiki/kontiki/api/measure"
	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/cluster/backup"
	"github.com/kontiki/kontiki/cluster/backup/s3"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/cmd/kontiki/admin"
	"github.com/kontiki/kontiki/cmd/kontiki/agent"
	"github.com/kontiki/kontiki/cmd/kontiki/process"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/certificates"
	"github.com/kontiki/kontiki/controller/horizontal"
	"github.com/kontiki/kontiki/controller/nodelifecycle"
	"github.com/kontiki/kontiki/internal/gcpace"
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
	sessionGrace              time.Duration
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
	dashboardOIDC             dashboardOptions
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
	agent                     agent.Options
	given                     map[string]string // all flags but the token, by name
}

// Command returns `kontiki server`.
func Command() *cobra.Command { return serverCommandTo(runServer) }

// serverCommandTo returns the command, with the function to run with its options.
func serverCommandTo(run func(context.Context, *serverOptions) error) *cobra.Command {
	var o serverOptions
	cmd := &cobra.Command{
		Use:   "server [--join HOST:6444 --token TOKEN]",
		Short: "Run a master (and, unless --no-agent, a worker on the same host)",
		Long:  "Run a master. The first one starts a new cluster; further ones join it with a token for masters.\nFlags can also be set, by the same names, in " + process.DefaultConfig + ".",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := process.LoadConfig(cmd, o.configFile); err != nil {
				return err
			}
			o.given = map[string]string{}
			cmd.Flags().VisitAll(func(f *pflag.Flag) {
				if f.Name != "token" && f.Name != "help" {
					o.given[f.Name] = f.Value.String()
				}
			})
			return run(cmd.Context(), &o)
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.configFile, "config", process.DefaultConfig, "configuration file")
	f.StringVar(&o.logLevel, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&o.name, "name", "", "this master's name, unique in the cluster (default: the host's name)")
	f.StringVar(&o.nodeIP, "node-ip", "", "the address at which other hosts reach this one (default: the first one)")
	f.StringVar(&o.dataDir, "data-dir", admin.DefaultServerDir, "the directory of this master's data")
	f.StringSliceVar(&o.join, "join", nil, "HOST:PORT of masters of the cluster to join")
	f.StringVar(&o.token, "token", "", "a join token for masters")
	f.IntVar(&o.port, "port", mtls.DefaultPort, "the port for masters and workers")
	f.IntVar(&o.apiPort, "api-port", agent.DefaultAPIPort, "the port of the API")
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
	f.DurationVar(&o.sessionGrace, "node-session-grace", time.Minute, "how long a worker may have no session although it answers probes before its node counts as lost")
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
	o.dashboardOIDC.flags(f)
	f.BoolVar(&o.noAgent, "no-agent", false, "run no worker on this host")
	o.api.flags(f)
	o.authn.flags(f)
	o.agent.Flags(f)
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
	case o.sessionGrace < 10*time.Second:
		return fmt.Errorf("--node-session-grace: %s is shorter than ten seconds, in which a worker may change masters", o.sessionGrace)
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
			"node-session-grace":           o.sessionGrace.String(),
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
		Version: process.GitVersion, FeatureLevel: featureLevel, Logger: log, Timings: o.timings, GossipMode: o.gossip,
		DeadAfter: o.deadMasters, Backups: o.backups, Settings: o.settings(r),
	}
}

func runServer(ctx context.Context, o *serverOptions) (err error) {
	log, err := process.NewLogger(o.logLevel)
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
	if o.name, err = process.HostName(o.name); err != nil {
		return err
	}
	if o.nodeIP, err = process.HostAddress(o.nodeIP); err != nil {
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
	spans, err := o.agent.Tracing.Open(ctx, "kontiki-master", o.name, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, process.CloseTracing(spans)) }() // when all requests have ended
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
	for _, metrics := range []prometheus.Collector{clients, process.NewBuildInfo(), controller.Metrics(), schedulerMetrics, apiMetrics, autoscalerMetrics} {
		if err := prometheus.Register(metrics); err != nil {
			return errors.Join(err, c.Close())
		}
	}
	m, err := newMaster(c, o, r, authentication, spans.Tracer(), log)
	if err != nil {
		return errors.Join(err, c.Close())
	}
	for _, metrics := range []prometheus.Collector{measure.Stored{View: c.View, Catalog: m.api.Catalog}, m.api.Conversions, m.api.Aggregated.Metrics()} {
		if err := prometheus.Register(metrics); err != nil {
			return errors.Join(err, c.Close())
		}
	}
	go gcpace.Run(ctx)
	return m.run(ctx)
}
