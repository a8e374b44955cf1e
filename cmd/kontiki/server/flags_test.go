package server

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/admission"
	"github.com/kontiki/kontiki/cluster"
	"github.com/kontiki/kontiki/controller/nodelifecycle"
)

// wired are the options that a master's parts get.
type wired struct {
	*serverOptions
	ranges  ranges
	cluster cluster.Config
	nodes   nodelifecycle.Config
}

// parsed runs the command with arguments, up to where a master would start.
func parsed(t *testing.T, args ...string) (w wired) {
	t.Helper()
	cmd := serverCommandTo(func(_ context.Context, o *serverOptions) error {
		w.serverOptions = o
		return nil
	})
	cmd.SetArgs(args)
	cmd.SetOut(io.Discard)
	err := cmd.Execute()
	if err == nil {
		err = w.checkFailures()
	}
	if err == nil {
		w.ranges, err = w.serverOptions.ranges()
	}
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	w.cluster, w.nodes = w.clusterConfig(w.ranges, slog.New(slog.DiscardHandler)), w.nodeLifecycle()
	return w
}

func (w wired) admits(t *testing.T) admission.Config {
	t.Helper()
	w.api.admissionConfig = ""
	c, err := w.api.admission()
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestTheAdmissionConfigurationIsRead, and the files that it names.
func TestTheAdmissionConfigurationIsRead(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"admission.yaml": "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\nplugins: [{name: PodSecurity, path: pods.yaml}]\n",
		"pods.yaml":      "apiVersion: pod-security.admission.config.k8s.io/v1\nkind: PodSecurityConfiguration\ndefaults: {enforce: nonsense}\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := parsed(t, "--admission-control-config-file="+filepath.Join(dir, "admission.yaml")).api.admission()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := admission.Steps(c); err == nil || !strings.Contains(err.Error(), "PodSecurity: ") || !strings.Contains(err.Error(), "must be one of") {
		t.Errorf("a wrong configuration in a file that is named by another one: %v", err)
	}
	if _, err := parsed(t, "--admission-control-config-file="+filepath.Join(dir, "missing")).api.admission(); err == nil {
		t.Error("a file that does not exist was read")
	}
}

// TestEveryFlagReachesWhatItSets: each flag of a master is given, on the command line and in a configuration file, and compared
// with the option of the part that it sets.
func TestEveryFlagReachesWhatItSets(t *testing.T) {
	seen := map[string]bool{}
	maps := map[string]bool{"node-labels": true, "cpu-manager-policy-options": true, "topology-manager-policy-options": true, "shutdown-grace-period-by-pod-priority": true}
	for name, x := range map[string]struct {
		value string
		got   func(w wired) any
	}{
		"log-level":                             {"debug", func(w wired) any { return w.logLevel }},
		"name":                                  {"master-7", func(w wired) any { return w.cluster.Name }},
		"node-ip":                               {"10.1.2.3", func(w wired) any { return strings.TrimSuffix(w.cluster.AdvertiseAddress, ":6444") }},
		"data-dir":                              {"/srv/kontiki", func(w wired) any { return w.cluster.DataDir }},
		"join":                                  {"one:6444", func(w wired) any { return strings.Join(w.cluster.Join, " ") }},
		"token":                                 {"K10", func(w wired) any { return w.cluster.Token }},
		"port":                                  {"7444", func(w wired) any { return strings.TrimPrefix(w.cluster.BindAddress, ":") }},
		"api-port":                              {"7443", func(w wired) any { return fmt.Sprint(w.apiPort) + strings.TrimPrefix(w.cluster.APIAddress, ":7443") }},
		"api-bind":                              {"127.0.0.1", func(w wired) any { return w.apiBind }},
		"gossip-port":                           {"7947", func(w wired) any { return strings.TrimPrefix(w.cluster.GossipBindAddress, ":") }},
		"tls-san":                               {"api.example", func(w wired) any { return w.cluster.APIHosts[len(w.cluster.APIHosts)-1] }},
		"service-cidr":                          {"10.97.0.0/16", func(w wired) any { return w.ranges.service }},
		"pod-cidr":                              {"10.245.0.0/16", func(w wired) any { return w.ranges.pod }},
		"cluster-dns":                           {"10.96.0.53", func(w wired) any { return w.ranges.dns }},
		"cluster-domain":                        {"example.internal", func(w wired) any { return w.clusterDomain }},
		"default-toleration-seconds":            {"7", func(w wired) any { return w.tolerationSeconds }}, // TestTheDefaultTolerationIsThePods
		"volume-lease":                          {"23s", func(w wired) any { return w.volumeLease }},
		"node-confirm-period":                   {"11s", func(w wired) any { return w.nodes.ConfirmPeriod }},
		"node-session-grace":                    {"33s", func(w wired) any { return w.nodes.SessionGrace }},
		"node-eviction-rate":                    {"0.5", func(w wired) any { return w.nodes.Evictions.Rate }},
		"secondary-node-eviction-rate":          {"0.25", func(w wired) any { return w.nodes.Evictions.SecondaryRate }},
		"unhealthy-zone-threshold":              {"0.75", func(w wired) any { return w.nodes.Evictions.UnhealthyZone }},
		"large-cluster-size-threshold":          {"9", func(w wired) any { return w.nodes.Evictions.LargeCluster }},
		"horizontal-pod-autoscaler-sync-period": {"20s", func(w wired) any { return w.autoscaler.SyncPeriod }},
		"horizontal-pod-autoscaler-downscale-stabilization":   {"7m0s", func(w wired) any { return w.autoscaler.DownscaleStabilization }},
		"horizontal-pod-autoscaler-tolerance":                 {"0.2", func(w wired) any { return w.autoscaler.Tolerance }},
		"horizontal-pod-autoscaler-cpu-initialization-period": {"6m0s", func(w wired) any { return w.autoscaler.CPUInitializationPeriod }},
		"horizontal-pod-autoscaler-initial-readiness-delay":   {"31s", func(w wired) any { return w.autoscaler.InitialReadinessDelay }},
		"concurrent-horizontal-pod-autoscaler-syncs":          {"9", func(w wired) any { return w.autoscaler.Workers }},
		"gossip":                                {"masters", func(w wired) any { return w.cluster.GossipMode }},
		"duties":                                {"none", func(w wired) any { return strings.Join(w.dutyNames, ",") }},
		"rebalance":                             {"true", func(w wired) any { return w.rebalance }},
		"scheduler-config":                      {"/etc/scheduler.yaml", func(w wired) any { return w.scheduling.file }}, // TestSchedulerConfig
		"certificate-lifetime":                  {"3h0m0s", func(w wired) any { return w.cluster.Timings.Certificate }},
		"cluster-signing-duration":              {"11h0m0s", func(w wired) any { return w.signingDuration }},
		"advice-period":                         {"17s", func(w wired) any { return w.advice.period }},
		"advice-apply-after":                    {"2h0m0s", func(w wired) any { return w.advice.after }},
		"remove-dead-masters-after":             {"13m0s", func(w wired) any { return w.cluster.DeadAfter }},
		"snapshot-dir":                          {"/srv/snapshots", func(w wired) any { return w.cluster.Backups.Dir }},
		"snapshot-interval":                     {"17m0s", func(w wired) any { return w.cluster.Backups.Interval }},
		"journal-size":                          {"12", func(w wired) any { return fmt.Sprint(w.journalSize) }},
		"journal-age":                           {"3h0m0s", func(w wired) any { return w.journalAge }},
		"backup-s3":                             {"s3://backups/a", func(w wired) any { return w.bucket.Bucket }},
		"backup-s3-endpoint":                    {"https://192.0.2.9:9000", func(w wired) any { return w.bucket.Endpoint }},
		"backup-s3-region":                      {"eu-1", func(w wired) any { return w.bucket.Region }},
		"backup-s3-credentials":                 {"/etc/kontiki/s3", func(w wired) any { return w.bucket.Credentials }},
		"snapshot-retention":                    {"3", func(w wired) any { return w.cluster.Backups.Keep }},
		"raft-snapshot-threshold":               {"1234", func(w wired) any { return w.cluster.Timings.SnapshotThreshold }},
		"raft-snapshot-interval":                {"19s", func(w wired) any { return w.cluster.Timings.SnapshotInterval }},
		"raft-trailing-logs":                    {"567", func(w wired) any { return w.cluster.Timings.TrailingLogs }},
		"audit-policy-file":                     {"/etc/policy", func(w wired) any { return w.api.auditPolicy }},
		"audit-log-path":                        {"/var/log/audit", func(w wired) any { return w.api.auditPath }},
		"audit-log-maxage":                      {"5", func(w wired) any { return w.api.auditMaxAge }},
		"audit-log-maxbackup":                   {"6", func(w wired) any { return w.api.auditMaxBackups }},
		"audit-log-maxsize":                     {"8", func(w wired) any { return w.api.auditMaxSize }},
		"audit-log-format":                      {"yaml", func(w wired) any { return w.api.auditFormat }},
		"audit-log-mode":                        {"batch", func(w wired) any { return w.api.auditMode }},
		"max-requests-inflight":                 {"70", func(w wired) any { return w.api.maxInflight }},
		"max-mutating-requests-inflight":        {"30", func(w wired) any { return w.api.maxMutatingInflight }},
		"request-timeout":                       {"21s", func(w wired) any { return w.api.requestTimeout }},
		"runtime-handlers":                      {"crun=io.containerd.runc.v2:/usr/bin/crun", func(w wired) any { return "crun=" + w.agent.RuntimeHandlers["crun"] }},
		"selinux":                               {"true", func(w wired) any { return w.agent.Selinux }},
		"seccomp-default":                       {"true", func(w wired) any { return w.agent.SeccompDefault }},
		"single-process-oom-kill":               {"true", func(w wired) any { return w.agent.SingleOOMKill }},
		"memory-swap-behavior":                  {"LimitedSwap", func(w wired) any { return w.agent.Swap }},
		"shutdown-grace-period":                 {"1m0s", func(w wired) any { return w.agent.Shutdown }},
		"shutdown-grace-period-critical-pods":   {"20s", func(w wired) any { return w.agent.ShutdownCritical }},
		"shutdown-grace-period-by-pod-priority": {"0=60s", func(w wired) any { return "0=" + w.agent.ShutdownByPriority["0"] }},
		"pod-manifest-path":                     {"/etc/kubernetes/manifests", func(w wired) any { return w.agent.StaticPods }},
		"tracing-config-file":                   {"/etc/tracing", func(w wired) any { return w.agent.Tracing.File }}, // TestTheTracingConfigurationIsRead
		"pod-logs-dir":                          {"/srv/logs", func(w wired) any { return w.agent.PodLogs }},
		"kubelet-root":                          {"/srv/kubelet", func(w wired) any { return w.agent.KubeletRoot }},
		"cpu-manager-policy":                    {"static", func(w wired) any { return w.agent.Hardware.CPUPolicy }},
		"cpu-manager-policy-options":            {"full-pcpus-only=true", func(w wired) any { return "full-pcpus-only=" + w.agent.Hardware.CPUOptions["full-pcpus-only"] }},
		"reserved-cpus":                         {"0-1", func(w wired) any { return w.agent.Hardware.ReservedCPUs }},
		"memory-manager-policy":                 {"Static", func(w wired) any { return w.agent.Hardware.MemoryPolicy }},
		"reserved-memory":                       {"0:memory=1Gi", func(w wired) any { return w.agent.Hardware.ReservedMemory }},
		"topology-manager-policy":               {"restricted", func(w wired) any { return w.agent.Hardware.TopologyPolicy }},
		"topology-manager-scope":                {"pod", func(w wired) any { return w.agent.Hardware.TopologyScope }},
		"topology-manager-policy-options": {"max-allowable-numa-nodes=9", func(w wired) any {
			return "max-allowable-numa-nodes=" + w.agent.Hardware.TopologyOptions["max-allowable-numa-nodes"]
		}},
		"allowed-unsafe-sysctls":                   {"net.core.somaxconn", func(w wired) any { return strings.Join(w.agent.UnsafeSysctls, ",") }},
		"registry-config-dir":                      {"/srv/certs.d", func(w wired) any { return w.agent.Registries }},
		"image-credential-provider-config":         {"/etc/credentials", func(w wired) any { return w.agent.CredentialConfig }},
		"image-credential-provider-bin-dir":        {"/srv/credentials", func(w wired) any { return w.agent.CredentialDir }},
		"eviction-hard":                            {"pid.available<5%", func(w wired) any { return w.agent.EvictHard }},
		"eviction-soft":                            {"memory.available<1Gi", func(w wired) any { return w.agent.EvictSoft }},
		"eviction-soft-grace-period":               {"memory.available=1m", func(w wired) any { return w.agent.EvictGrace }},
		"image-gc-high-threshold":                  {"90", func(w wired) any { return w.agent.ImageGC.High }},
		"image-gc-low-threshold":                   {"70", func(w wired) any { return w.agent.ImageGC.Low }},
		"minimum-image-ttl-duration":               {"1h0m0s", func(w wired) any { return w.agent.ImageGC.MinAge }},
		"image-maximum-gc-age":                     {"48h0m0s", func(w wired) any { return w.agent.ImageGC.MaxAge }},
		"share-images":                             {"false", func(w wired) any { return w.agent.ShareImages }},
		"max-parallel-image-pulls":                 {"7", func(w wired) any { return w.agent.ParallelPulls }},
		"enable-admission-plugins":                 {"EventRateLimit,AlwaysPullImages", func(w wired) any { return strings.Join(w.admits(t).Enable, ",") }},
		"disable-admission-plugins":                {"Priority", func(w wired) any { return strings.Join(w.admits(t).Disable, ",") }},
		"admission-control-config-file":            {"/etc/admission", func(w wired) any { return w.api.admissionConfig }},   // TestTheAdmissionConfigurationIsRead
		"encryption-provider-config":               {"/etc/encryption", func(w wired) any { return w.api.encryptionConfig }}, // TestAKMSPluginHoldsTheKey
		"enable-bootstrap-token-auth":              {"true", func(w wired) any { return w.api.bootstrapTokens }},
		"authentication-config":                    {"/etc/authentication", func(w wired) any { return w.authn.configFile }}, // TestTheAuthenticationFlags
		"anonymous-auth":                           {"false", func(w wired) any { return w.authn.anonymous }},
		"oidc-issuer-url":                          {"https://issuer.example", func(w wired) any { return w.authn.oidc.issuerURL }},
		"oidc-client-id":                           {"kontiki", func(w wired) any { return w.authn.oidc.clientID }},
		"oidc-ca-file":                             {"/etc/ca", func(w wired) any { return w.authn.oidc.caFile }},
		"oidc-username-claim":                      {"email", func(w wired) any { return w.authn.oidc.usernameClaim }},
		"oidc-username-prefix":                     {"u:", func(w wired) any { return w.authn.oidc.usernamePrefix }},
		"oidc-groups-claim":                        {"groups", func(w wired) any { return w.authn.oidc.groupsClaim }},
		"oidc-groups-prefix":                       {"g:", func(w wired) any { return w.authn.oidc.groupsPrefix }},
		"oidc-signing-algs":                        {"ES256,RS512", func(w wired) any { return strings.Join(w.authn.oidc.signingAlgs, ",") }},
		"oidc-required-claim":                      {"hd=a,b", func(w wired) any { return "hd=" + w.authn.oidc.requiredClaims["hd"] }},
		"authentication-token-webhook-config-file": {"/etc/webhook", func(w wired) any { return w.authn.webhook.file }}, // TestTheAuthenticationFlags
		"authentication-token-webhook-version":     {"v1", func(w wired) any { return w.authn.webhook.version }},
		"authentication-token-webhook-cache-ttl":   {"7s", func(w wired) any { return w.authn.webhook.ttl }},
		"profiling":                                {"false", func(w wired) any { return w.api.profiling }},
		"allow-privileged":                         {"false", func(w wired) any { return w.api.allowPrivileged }},
		"no-agent":                                 {"true", func(w wired) any { return w.noAgent }},
		"dashboard":                                {"false", func(w wired) any { return w.dashboard }},
		"dashboard-oidc-client-id":                 {"ui", func(w wired) any { return w.dashboardOIDC.clientID }},
		"dashboard-oidc-issuer":                    {"https://issuer.example", func(w wired) any { return w.dashboardOIDC.issuer }},
		"dashboard-oidc-client-secret-file":        {"/etc/secret", func(w wired) any { return w.dashboardOIDC.secretFile }},
		"dashboard-oidc-ca-file":                   {"/etc/ca", func(w wired) any { return w.dashboardOIDC.caFile }}, // TestTheIssuerOfTheDashboard
		"dashboard-oidc-scopes":                    {"email,groups", func(w wired) any { return strings.Join(w.dashboardOIDC.scopes, ",") }},
		"containerd":                               {"/run/other.sock", func(w wired) any { return w.agent.Containerd }},
		"containerd-namespace":                     {"other", func(w wired) any { return w.agent.ContainerdNamespace }},
		"cgroup-parent":                            {"other", func(w wired) any { return w.agent.CgroupParent }},
		"node-labels":                              {"rack=7", func(w wired) any { return "rack=" + w.agent.NodeLabels["rack"] }},
		"max-pods":                                 {"77", func(w wired) any { return w.agent.MaxPods }},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.yaml")
			text := fmt.Sprintf("%s: %q\n", name, x.value)
			if key, value, ok := strings.Cut(x.value, "="); ok && maps[name] {
				text = fmt.Sprintf("%s: {%s: %q}\n", name, key, value)
			}
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			empty := filepath.Join(t.TempDir(), "empty.yaml")
			if err := os.WriteFile(empty, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if got := fmt.Sprint(x.got(parsed(t, "--config", empty))); got == x.value {
				t.Errorf("%s is the default: the test shows nothing", got)
			}
			for _, args := range [][]string{{"--config", empty, "--" + name + "=" + x.value}, {"--config", file}} {
				if got := fmt.Sprint(x.got(parsed(t, args...))); got != x.value {
					t.Errorf("%v: %s, want %s", args, got, x.value)
				}
			}
			seen[name] = true
		})
	}
	Command().Flags().VisitAll(func(f *pflag.Flag) {
		if !seen[f.Name] && f.Name != "config" {
			t.Errorf("--%s is given by no case of this test", f.Name)
		}
	})
}

// TestTheDefaultTolerationIsThePods: the setting of the cluster shortens how long new pods stay on a lost node.
func TestTheDefaultTolerationIsThePods(t *testing.T) {
	m := startMaster(t, func(o *serverOptions, _ *cluster.Config) {
		o.tolerationSeconds = parsed(t, "--default-toleration-seconds=7").tolerationSeconds
	})
	pod, err := m.admin.CoreV1().Pods("default").Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		found := false
		for _, toleration := range pod.Spec.Tolerations {
			if toleration.Key == key && toleration.Effect == corev1.TaintEffectNoExecute {
				found = toleration.TolerationSeconds != nil && *toleration.TolerationSeconds == 7
			}
		}
		if !found {
			t.Errorf("%s is not tolerated for 7 s: %+v", key, pod.Spec.Tolerations)
		}
	}
}
