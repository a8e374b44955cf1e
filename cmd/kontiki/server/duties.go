package server

import (
	"context"
	"net/netip"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/api/registry"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/apiservices"
	"github.com/kontiki/kontiki/controller/bootstrap"
	"github.com/kontiki/kontiki/controller/flowcontrol"
	"github.com/kontiki/kontiki/controller/rbac"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/scheduler"
	"github.com/kontiki/kontiki/scheduler/rebalance"
)

// addDuties registers the leader's duties, but for those that --duties leaves to other programs. A duty that fails or panics is
// restarted here: another leader would not do better, and handing over leadership would disturb all the others.
func (m *master) addDuties() {
	duties := map[string]func(context.Context) error{"bootstrap": m.bootstrap, "controllers": m.control, "mark": m.mark, "encryption": m.encrypt,
		"deleted objects": m.trimDeleted}
	if m.options.duties.has(schedulerDuty) {
		duties["scheduler"] = m.schedule
	}
	if m.options.rebalance {
		duties["rebalancer"] = m.balance
	}
	for name, run := range duties {
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
		return controller.RunAll(ctx, c, log, rbac.NewDefaults(c, log), bootstrap.NewPriorityClasses(c), bootstrap.NewStorageClass(c))
	})
	group.Go(func() error {
		return controller.RunAll(ctx, c, log, apiservices.New(apiservices.Config{Client: c, Served: m.served, Check: m.api.Aggregated.Check, Authentication: m.extensionAuthentication})...)
	})
	group.Go(func() error {
		producer := client.New(m.api.Objects, "system:apiserver", flowcontrol.Producer)
		consumer := client.New(m.api.Objects, "system:apiserver", flowcontrol.Consumer)
		return controller.RunAll(ctx, producer, log, flowcontrol.New(producer, consumer))
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

// schedulerMetrics are counted in by all schedulers that this process runs, one after the other.
var schedulerMetrics = scheduler.NewMetrics()

func (m *master) schedule(ctx context.Context) error {
	service, err := m.api.Objects.Fence(ctx, "scheduler")
	if err != nil {
		return err
	}
	c := client.New(service, "system:kube-scheduler", "kube-scheduler")
	return m.recording(ctx, c, corev1.DefaultSchedulerName, func(recorder record.EventRecorder) error {
		return scheduler.New(scheduler.Config{
			Client: c, Recorder: recorder, Log: m.log.With("part", "scheduler"), Configuration: m.options.scheduling.Config, Metrics: schedulerMetrics, Timeline: m.timeline,
		}).Run(ctx)
	})
}

// balance moves pods to other nodes.
func (m *master) balance(ctx context.Context) error {
	service, err := m.api.Objects.Fence(ctx, "rebalancer")
	if err != nil {
		return err
	}
	c := client.New(service, "system:kube-scheduler", "kontiki-rebalancer")
	return m.recording(ctx, c, "kontiki-rebalancer", func(recorder record.EventRecorder) error {
		return rebalance.New(rebalance.Config{
			Client: c, Recorder: recorder, Log: m.log.With("part", "rebalancer"), Configuration: m.options.scheduling.Config,
		}).Run(ctx)
	})
}

func (m *master) mark(ctx context.Context) error {
	return m.api.Objects.Mark(ctx, m.log.With("part", "duties"))
}

// trimDeleted drops copies of deleted objects that are too old or too many.
func (m *master) trimDeleted(ctx context.Context) error {
	return m.api.Objects.TrimDeleted(ctx, m.log.With("part", "duties"))
}

// encrypt keeps everything that is encrypted under the present key.
func (m *master) encrypt(ctx context.Context) error {
	return m.api.Objects.Reseal(ctx, m.log.With("part", "duties"))
}
