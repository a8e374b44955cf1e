package server

import (
	"cmp"
	"context"
	"time"

	"golang.org/x/sync/errgroup"
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/allocate"
	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/extension/admission/typecheck"
	apiquota "github.com/kontiki/kontiki/api/quota"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/admissionpolicy"
	"github.com/kontiki/kontiki/controller/attachdetach"
	"github.com/kontiki/kontiki/controller/certificates"
	"github.com/kontiki/kontiki/controller/configrollout"
	"github.com/kontiki/kontiki/controller/cronjob"
	"github.com/kontiki/kontiki/controller/customresources"
	"github.com/kontiki/kontiki/controller/daemonset"
	"github.com/kontiki/kontiki/controller/deployment"
	"github.com/kontiki/kontiki/controller/devicetainteviction"
	"github.com/kontiki/kontiki/controller/disruption"
	"github.com/kontiki/kontiki/controller/endpoints"
	"github.com/kontiki/kontiki/controller/endpointslicemirroring"
	"github.com/kontiki/kontiki/controller/ephemeral"
	"github.com/kontiki/kontiki/controller/eventttl"
	"github.com/kontiki/kontiki/controller/expiry"
	"github.com/kontiki/kontiki/controller/fence"
	"github.com/kontiki/kontiki/controller/garbage"
	"github.com/kontiki/kontiki/controller/job"
	"github.com/kontiki/kontiki/controller/localpath"
	"github.com/kontiki/kontiki/controller/migration"
	"github.com/kontiki/kontiki/controller/nodelifecycle"
	"github.com/kontiki/kontiki/controller/persistentvolume"
	"github.com/kontiki/kontiki/controller/quota"
	"github.com/kontiki/kontiki/controller/rbac"
	"github.com/kontiki/kontiki/controller/replicaset"
	"github.com/kontiki/kontiki/controller/resourceclaim"
	"github.com/kontiki/kontiki/controller/serviceaccount"
	"github.com/kontiki/kontiki/controller/servicecidr"
	"github.com/kontiki/kontiki/controller/statefulset"
	"github.com/kontiki/kontiki/controller/storageprotection"
	"github.com/kontiki/kontiki/controller/tokens"
	"github.com/kontiki/kontiki/controller/trustbundle"
	"github.com/kontiki/kontiki/controller/ttlafterfinished"
	"github.com/kontiki/kontiki/controller/volumeexpand"
)

// controllerEntry is one entry of the table of controllers.
type controllerEntry struct {
	// name is the name in --duties: that of upstream's kube-controller-manager, where it has such a controller.
	name string
	// own controllers do what no other program can, so --duties does not switch them off: they use what only this process knows, or do
	// what kube-apiserver does itself.
	own bool
	// account is the service account in kube-system as which the controller acts, and the source of its events unless source is set.
	account, source string
	make            func(*client.Client, record.EventRecorder) []*controller.Controller
}

// one makes a table's function of that of a single controller.
func one(make func(*client.Client, record.EventRecorder) *controller.Controller) func(*client.Client, record.EventRecorder) []*controller.Controller {
	return func(c *client.Client, r record.EventRecorder) []*controller.Controller {
		return []*controller.Controller{make(c, r)}
	}
}

// silent makes a table's function of that of a single controller that records no events.
func silent(make func(*client.Client) *controller.Controller) func(*client.Client, record.EventRecorder) []*controller.Controller {
	return func(c *client.Client, _ record.EventRecorder) []*controller.Controller {
		return []*controller.Controller{make(c)}
	}
}

// controllers returns the table of controllers. m is nil if only the names are needed.
func (m *master) controllers(hints *workerHints) []controllerEntry {
	return []controllerEntry{
		{name: "deployment-controller", account: "deployment-controller", make: one(deployment.New)},
		{name: "replicaset-controller", account: "replicaset-controller", make: one(replicaset.NewReplicaSets)},
		{name: "replicationcontroller-controller", account: "replication-controller", make: one(replicaset.NewReplicationControllers)},
		{name: "daemonset-controller", account: "daemon-set-controller", make: one(daemonset.New)},
		{name: "statefulset-controller", account: "statefulset-controller", make: one(statefulset.New)},
		{name: "disruption-controller", account: "disruption-controller", make: disruption.New},
		{name: "horizontal-pod-autoscaler-controller", account: "horizontal-pod-autoscaler", make: m.autoscale},
		{name: "endpointslice-controller", account: "endpointslice-controller", make: silent(endpoints.New)},
		{name: "endpointslice-mirroring-controller", account: "endpointslicemirroring-controller", make: one(endpointslicemirroring.New)},
		{name: "clusterrole-aggregation-controller", account: "clusterrole-aggregation-controller", make: silent(rbac.NewAggregation)},
		{name: "garbage-collector-controller", account: "generic-garbage-collector", make: one(garbage.New)},
		{name: "namespace-controller", account: "namespace-controller", make: silent(m.endNamespaces)},
		{name: "serviceaccount-controller", account: "service-account-controller",
			make: silent(func(c *client.Client) *controller.Controller { return serviceaccount.New(c, m.bundle) })},
		{name: "certificatesigningrequest-approving-controller", account: "certificate-controller", make: silent(certificates.NewApprover)},
		{name: "validatingadmissionpolicy-status-controller", account: "validatingadmissionpolicy-status-controller", make: silent(func(c *client.Client) *controller.Controller {
			return admissionpolicy.New(c, func(policy *admissionregistrationv1.ValidatingAdmissionPolicy) []admissionregistrationv1.ExpressionWarning {
				return typecheck.Check(m.api.Catalog.Table(), policy)
			})
		})},
		{name: "kube-apiserver-serving-clustertrustbundle-publisher-controller", account: "kube-apiserver-serving-clustertrustbundle-publisher",
			make: silent(func(c *client.Client) *controller.Controller { return trustbundle.New(c, m.bundle) })},
		{name: "job-controller", account: "job-controller", make: func(c *client.Client, r record.EventRecorder) []*controller.Controller {
			return job.New(job.Config{Client: c, Recorder: r})
		}},
		{name: "cronjob-controller", account: "cronjob-controller", make: one(func(c *client.Client, r record.EventRecorder) *controller.Controller {
			return cronjob.New(cronjob.Config{Client: c, Recorder: r})
		})},
		{name: "ttl-after-finished-controller", account: "ttl-after-finished-controller", make: silent(func(c *client.Client) *controller.Controller {
			return ttlafterfinished.New(c, nil)
		})},
		{name: "token-cleaner-controller", account: "token-cleaner", make: m.cleanTokens},
		{name: "persistentvolume-binder-controller", account: "persistent-volume-binder", source: "persistentvolume-controller", make: one(persistentvolume.New)},
		{name: "persistentvolume-attach-detach-controller", account: "attachdetach-controller", make: one(func(c *client.Client, r record.EventRecorder) *controller.Controller {
			return attachdetach.New(attachdetach.Config{Client: c, Recorder: r})
		})},
		{name: "persistentvolume-expander-controller", account: "expand-controller", source: "volume_expand", make: one(volumeexpand.New)},
		{name: "ephemeral-volume-controller", account: "ephemeral-volume-controller", make: one(ephemeral.New)},
		{name: "resourceclaim-controller", account: "resource-claim-controller", make: resourceclaim.New},
		{name: "device-taint-eviction-controller", account: "device-taint-eviction-controller", make: func(c *client.Client, r record.EventRecorder) []*controller.Controller {
			return devicetainteviction.New(devicetainteviction.Config{Client: c, Recorder: r})
		}},
		{name: "persistentvolumeclaim-protection-controller", account: "pvc-protection-controller", make: silent(storageprotection.NewClaims)},
		{name: "persistentvolume-protection-controller", account: "pv-protection-controller", make: silent(storageprotection.NewVolumes)},
		{name: "volumeattributesclass-protection-controller", account: "volumeattributesclass-protection-controller", make: silent(storageprotection.NewClasses)},
		{name: "storage-version-migrator-controller", account: "storage-version-migrator-controller", make: silent(migration.New)},
		{name: "serviceaccount-token-controller", account: "tokens-controller", make: silent(func(c *client.Client) *controller.Controller {
			return tokens.New(c, m.api.Tokens, m.bundle)
		})},

		// Only workers of this cluster make and remove these volumes.
		{name: "local-path-controller", own: true, account: "local-path-provisioner", make: one(localpath.New)},
		{name: "nfs-provisioner-controller", own: true, account: "nfs-provisioner", make: one(localpath.NewNFS)},

		// No other program has the CA of the API's clients.
		{name: "certificatesigningrequest-signing-controller", own: true, account: "certificate-controller", make: silent(func(c *client.Client) *controller.Controller {
			return certificates.NewSigner(c, clientsCA{m.cluster}, m.options.signingDuration)
		})},

		// No other program knows of these annotations.
		{name: "advice-controller", own: true, account: "advice-controller", make: m.applyAdvice},
		{name: "config-rollout-controller", own: true, account: "config-rollout-controller", make: configrollout.New},

		// The health of nodes is known from gossip and sessions, and the counters of quotas and the ranges of service addresses are a part
		// of admission here.
		{name: "node-lifecycle-controller", own: true, account: "node-controller", make: func(c *client.Client, r record.EventRecorder) []*controller.Controller {
			config := m.options.nodeLifecycle()
			config.Client, config.Recorder, config.Hints, config.Probe = c, r, hints, m.probeAgent
			return nodelifecycle.New(config)
		}},
		// Leases are between masters and workers.
		{name: "volume-fencing-controller", own: true, account: "node-controller", make: one(func(c *client.Client, r record.EventRecorder) *controller.Controller {
			return fence.New(fence.Config{Client: c, Recorder: r})
		})},
		{name: "event-ttl-controller", own: true, account: "event-ttl-controller", make: silent(func(c *client.Client) *controller.Controller {
			return eventttl.New(eventttl.Config{Client: c})
		})},
		{name: "service-cidr-controller", own: true, account: "service-cidrs-controller", make: silent(func(c *client.Client) *controller.Controller {
			return servicecidr.New(servicecidr.Config{Client: c, Range: m.ranges.service, Address: allocate.IPAddress})
		})},
		// The names and objects of definitions are a part of the API server itself, with upstream too.
		{name: "customresourcedefinition-controller", own: true, account: "customresourcedefinition-controller", make: silent(customresources.New)},
		{name: "resourcequota-controller", own: true, account: "resourcequota-controller", make: silent(func(c *client.Client) *controller.Controller {
			return quota.New(quota.Config{Client: c, Counters: apiquota.NewCounters(m.api.Objects), StuckAt: apiquota.StuckAt})
		})},
	}
}

// cleanTokens removes bootstrap tokens that have expired.
func (m *master) cleanTokens(c *client.Client, _ record.EventRecorder) []*controller.Controller {
	return expiry.New(c, func(s *corev1.Secret) (time.Time, bool) {
		at, limited, err := auth.BootstrapTokenExpiry(s)
		return at, limited && err == nil
	}, nil)
}

// nodeLifecycle returns the options for the node controllers.
func (o *serverOptions) nodeLifecycle() nodelifecycle.Config {
	return nodelifecycle.Config{ConfirmPeriod: o.confirmPeriod, SessionGrace: o.sessionGrace, Evictions: &o.evictions}
}

// control runs the controllers, each as the user and with the event source that it has in Kubernetes.
func (m *master) control(ctx context.Context) error {
	service, err := m.api.Objects.Fence(ctx, "controllers")
	if err != nil {
		return err
	}
	events := m.cluster.MemberEvents()
	defer events.Close()
	hints := newWorkerHints(m.cluster.Members, m.cluster.WorkersGossip, events, m.census)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return hints.Run(ctx) })
	for _, entry := range m.controllers(hints) {
		if !entry.own && !m.options.duties.has(entry.name) {
			continue
		}
		c := client.New(service, "system:serviceaccount:kube-system:"+entry.account, "kube-controller-manager")
		group.Go(func() error {
			return m.recording(ctx, c, cmp.Or(entry.source, entry.account), func(recorder record.EventRecorder) error {
				return controller.RunAll(ctx, c, m.log.With("part", "controllers"), entry.make(c, recorder)...)
			})
		})
	}
	return group.Wait()
}
