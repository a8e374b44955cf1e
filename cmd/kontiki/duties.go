package main

import (
	"context"
	"net/netip"
	"time"

	"github.com/kontiki/kontiki/api/auth"
	"github.com/kontiki/kontiki/controller/expiry"

	"github.com/kontiki/kontiki/api/allocate"
	"github.com/kontiki/kontiki/controller/servicecidr"

	"github.com/kontiki/kontiki/cluster/mtls"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
	apiquota "github.com/kontiki/kontiki/api/quota"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/bootstrap"
	"github.com/kontiki/kontiki/controller/deployment"
	"github.com/kontiki/kontiki/controller/endpoints"
	"github.com/kontiki/kontiki/controller/endpointslicemirroring"
	"github.com/kontiki/kontiki/controller/eventttl"
	"github.com/kontiki/kontiki/controller/flowcontrol"
	"github.com/kontiki/kontiki/controller/garbage"
	"github.com/kontiki/kontiki/controller/namespace"
	"github.com/kontiki/kontiki/controller/nodelifecycle"
	"github.com/kontiki/kontiki/controller/quota"
	"github.com/kontiki/kontiki/controller/rbac"
	"github.com/kontiki/kontiki/controller/replicaset"
	"github.com/kontiki/kontiki/controller/serviceaccount"
	"github.com/kontiki/kontiki/controller/storageprotection"
	"github.com/kontiki/kontiki/controller/tokens"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/scheduler"
)

// addDuties registers the leader's duties. A duty that fails or panics is restarted here: another leader would not do better, and
// handing over leadership would disturb all the others.
func (m *master) addDuties() {
	for name, run := range map[string]func(context.Context) error{"bootstrap": m.bootstrap, "scheduler": m.schedule, "controllers": m.control, "mark": m.mark} {
		m.cluster.AddDuty(name, func(ctx context.Context) error {
			return controller.Keep(ctx, name, m.log.With("part", "duties"), run)
		})
	}
}

// recording runs f with an event recorder, and returns when every event of f has been stored or the context has ended.
func (m *master) recording(ctx context.Context, c *client.Client, component string, f func(record.EventRecorder) error) error {
	broadcaster := record.NewBroadcaster(record.WithContext(ctx))
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(c.EventSink())
	return f(broadcaster.NewRecorder(registry.Scheme, corev1.EventSource{Component: component}))
}

func (m *master) bootstrap(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return m.followMembers(ctx, changed) })
	c, log := client.New(m.api.Objects, "system:apiserver", "kube-apiserver"), m.log.With("part", "controllers")
	group.Go(func() error {
		return controller.RunAll(ctx, c, log, rbac.NewDefaults(c, log), bootstrap.NewPriorityClasses(c))
	})
	group.Go(func() error {
		return contain.Run(func() error {
			return bootstrap.Run(ctx, bootstrap.Config{
				Client: c, ServiceAddress: m.api.KubernetesService,
				Masters: m.apiAddresses, Changed: changed, Log: log,
			})
		})
	})
	return group.Wait()
}

// followMembers signals whenever the state of a host in gossip changes, or a master joins or leaves.
func (m *master) followMembers(ctx context.Context, changed chan<- struct{}) error {
	signal := func() {
		select {
		case changed <- struct{}{}:
		default:
		}
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		for {
			masters := m.cluster.MastersChanged()
			signal()
			select {
			case <-masters:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	group.Go(func() error {
		events := m.cluster.MemberEvents()
		defer events.Close()
		for {
			if _, err := events.Next(ctx); err != nil {
				return err
			}
			signal()
		}
	})
	return group.Wait()
}

// apiAddresses returns the API addresses of the masters that are alive.
func (m *master) apiAddresses() []netip.AddrPort {
	var out []netip.AddrPort
	for _, member := range m.cluster.Members() {
		// Workers have the gossip key too, so check that a host that claims to be a master is one.
		if member.Role != mtls.RoleMaster || !m.cluster.IsMember(member.Name) || (member.State != gossip.Alive && member.State != gossip.Suspect) {
			continue
		}
		if address, err := netip.ParseAddrPort(member.APIAddress); err == nil {
			out = append(out, address)
		}
	}
	return out
}

func (m *master) schedule(ctx context.Context) error {
	c := client.New(m.api.Objects, "system:kube-scheduler", "kube-scheduler")
	return m.recording(ctx, c, corev1.DefaultSchedulerName, func(recorder record.EventRecorder) error {
		return scheduler.New(scheduler.Config{Client: c, Recorder: recorder, Log: m.log.With("part", "scheduler")}).Run(ctx)
	})
}

func (m *master) mark(ctx context.Context) error {
	return m.api.Objects.Mark(ctx, m.log.With("part", "duties"))
}

// nodeLifecycle returns the options for the node controllers.
func (o *serverOptions) nodeLifecycle() nodelifecycle.Config {
	return nodelifecycle.Config{ConfirmPeriod: o.confirmPeriod, Evictions: &o.evictions}
}

// control runs the controllers, each as the user and with the event source that it has in Kubernetes.
func (m *master) control(ctx context.Context) error {
	events := m.cluster.MemberEvents()
	defer events.Close()
	hints := newWorkerHints(m.cluster.Members, m.cluster.WorkersGossip, events, m.census)
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return hints.Run(ctx) })
	several := func(name string, make func(*client.Client, record.EventRecorder) []*controller.Controller) {
		c := client.New(m.api.Objects, "system:serviceaccount:kube-system:"+name, "kube-controller-manager")
		group.Go(func() error {
			return m.recording(ctx, c, name, func(recorder record.EventRecorder) error {
				return controller.RunAll(ctx, c, m.log.With("part", "controllers"), make(c, recorder)...)
			})
		})
	}
	run := func(name string, make func(*client.Client, record.EventRecorder) *controller.Controller) {
		several(name, func(c *client.Client, r record.EventRecorder) []*controller.Controller {
			return []*controller.Controller{make(c, r)}
		})
	}
	run("deployment-controller", deployment.New)
	run("replicaset-controller", replicaset.NewReplicaSets)
	run("replication-controller", replicaset.NewReplicationControllers)
	run("endpointslice-controller", func(c *client.Client, _ record.EventRecorder) *controller.Controller { return endpoints.New(c) })
	run("endpointslicemirroring-controller", endpointslicemirroring.New)
	run("clusterrole-aggregation-controller", func(c *client.Client, _ record.EventRecorder) *controller.Controller { return rbac.NewAggregation(c) })
	run("generic-garbage-collector", garbage.New)
	run("namespace-controller", func(c *client.Client, _ record.EventRecorder) *controller.Controller { return namespace.New(c) })
	several("node-controller", func(c *client.Client, recorder record.EventRecorder) []*controller.Controller {
		config := m.options.nodeLifecycle()
		config.Client, config.Recorder, config.Hints, config.Probe = c, recorder, hints, m.probeAgent
		return nodelifecycle.New(config)
	})
	run("event-ttl-controller", func(c *client.Client, _ record.EventRecorder) *controller.Controller {
		return eventttl.New(eventttl.Config{Client: c})
	})
	run("service-account-controller", func(c *client.Client, _ record.EventRecorder) *controller.Controller {
		return serviceaccount.New(c, m.bundle)
	})
	several("certificate-controller", func(c *client.Client, _ record.EventRecorder) []*controller.Controller {
		return expiry.New(c, func(s *corev1.Secret) (time.Time, bool) {
			at, limited, err := auth.BootstrapTokenExpiry(s)
			return at, limited && err == nil
		}, nil)
	})
	run("service-cidrs-controller", func(c *client.Client, _ record.EventRecorder) *controller.Controller {
		return servicecidr.New(servicecidr.Config{Client: c, Range: m.ranges.service, Address: allocate.IPAddress})
	})
	run("resourcequota-controller", func(c *client.Client, _ record.EventRecorder) *controller.Controller {
		return quota.New(quota.Config{Client: c, Counters: apiquota.NewCounters(m.api.Objects), StuckAt: apiquota.StuckAt})
	})
	group.Go(func() error {
		producer := client.New(m.api.Objects, "system:apiserver", flowcontrol.Producer)
		consumer := client.New(m.api.Objects, "system:apiserver", flowcontrol.Consumer)
		return controller.RunAll(ctx, producer, m.log.With("part", "controllers"), flowcontrol.New(producer, consumer))
	})
	run("pvc-protection-controller", func(c *client.Client, _ record.EventRecorder) *controller.Controller {
		return storageprotection.NewClaims(c)
	})
	run("pv-protection-controller", func(c *client.Client, _ record.EventRecorder) *controller.Controller {
		return storageprotection.NewVolumes(c)
	})
	run("volumeattributesclass-protection-controller", func(c *client.Client, _ record.EventRecorder) *controller.Controller {
		return storageprotection.NewClasses(c)
	})
	run("tokens-controller", func(c *client.Client, _ record.EventRecorder) *controller.Controller {
		return tokens.New(c, m.api.Tokens, m.bundle)
	})
	return group.Wait()
}
