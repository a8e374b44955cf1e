package scheduler

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/timeline"
	"github.com/kontiki/kontiki/scheduler/config"
	"github.com/kontiki/kontiki/scheduler/devices"
	"github.com/kontiki/kontiki/scheduler/framework"
	"github.com/kontiki/kontiki/scheduler/plugins"
	"github.com/kontiki/kontiki/scheduler/queue"
)

// Config has the parameters of a Scheduler.
type Config struct {
	Client   *client.Client
	Recorder record.EventRecorder
	Log      *slog.Logger
	// Configuration has the profiles; nil stands for the default one.
	Configuration *config.Config
	// Metrics are counted in; nil stands for some that nobody collects.
	Metrics *Metrics
	// Timeline keeps how long pods waited, and how long it took to place and to bind them; nil keeps nothing.
	Timeline *timeline.Recorder
}

// Scheduler schedules while Run runs.
type Scheduler struct {
	Config
	now func() time.Time

	// profiles are the plugins by scheduler name.
	profiles map[string]*framework.Profile
	volumes  *plugins.Volumes
	devices  *devices.State
	inbox    *inbox
	binder   *binder
	reporter *reporter
	// writes are those of goroutines that the loop starts: preemptions, and what precedes a binding.
	writes sync.WaitGroup

	// What follows belongs to the loop.
	cluster *framework.Cluster
	queue   *queue.Queue
	kept    framework.Kept
	// assumed are the placed pods whose binding has not arrived as an event yet.
	assumed map[types.UID]*assumption
	gangs   gangs
	// searches is kept when everything else is cleared.
	searches searches
	// gangsDue is when the timeout of a gang passes next.
	gangsDue time.Time
	// preemptions are those in progress, and preempting the pods that they make room for.
	preemptions map[*preemption]bool
	preempting  map[types.UID]bool
}

// New creates a Scheduler.
func New(c Config) *Scheduler {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	s := &Scheduler{Config: c, now: time.Now, inbox: newInbox(), searches: searches{}}
	if c.Configuration == nil {
		s.Configuration = config.Default()
	}
	if c.Metrics == nil {
		s.Metrics = NewMetrics()
	}
	s.volumes = plugins.NewVolumes(c.Client)
	s.devices = devices.NewState(c.Client, c.Recorder)
	s.devices.Freed = func(old, now *resourcev1.ResourceClaim) {
		s.happened(framework.ResourceClaim, framework.Update, old, now)
	}
	s.profiles = s.Configuration.Profiles(config.Handle{View: s.view, Volumes: s.volumes, Devices: s.devices})
	s.binder, s.reporter = newBinder(s), newReporter(s)
	s.clear()
	return s
}

func (s *Scheduler) view() client.View { return s.Client.View() }

// clear forgets all that is known.
func (s *Scheduler) clear() {
	s.cluster = framework.NewCluster(s.namespaceLabels)
	s.queue = queue.New(queue.Config{
		FirstBackoff: s.Configuration.FirstBackoff, LongestBackoff: s.Configuration.LongestBackoff,
		Hints: func(p *framework.PodInfo, plugin string) []framework.Hint {
			if profile := s.profiles[p.Spec.SchedulerName]; profile != nil {
				return profile.Hints[plugin]
			}
			return nil
		},
		SeveralProfiles: len(s.profiles) > 1,
		Incoming:        func(queue, event string) { s.Metrics.incoming.WithLabelValues(queue, event).Inc() },
		Awaited:         func(uid types.UID) bool { return s.cluster.NominatedNode(uid) != "" },
	})
	s.kept = framework.Kept{}
	s.gangs, s.gangsDue = gangs{}, time.Time{}
	s.assumed = map[types.UID]*assumption{}
	s.preemptions, s.preempting = map[*preemption]bool{}, map[types.UID]bool{}
}

func (s *Scheduler) namespaceLabels(name string) labels.Set {
	namespace, ok := client.Get[*corev1.Namespace](s.Client.View(), "", name)
	if !ok {
		return nil
	}
	return namespace.Labels
}

// Run schedules until the context ends, and returns when no write is in flight any more.
func (s *Scheduler) Run(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	run := func(f func(context.Context) error) {
		group.Go(func() error { return contain.Run(func() error { return f(ctx) }) })
	}
	run(func(ctx context.Context) error { return s.Client.ViewAndWatch(ctx, watched, s.start, s.observe) })
	run(s.loop)
	for range bindingWorkers {
		run(s.binder.run)
	}
	for range reportWorkers {
		run(s.reporter.run)
	}
	err := group.Wait()
	s.writes.Wait()
	return err
}

// loop applies what comes in, and decides in between.
func (s *Scheduler) loop(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	defer s.Metrics.clear()
	for {
		for _, work := range s.inbox.take() {
			work()
		}
		s.Metrics.waiting(s.queue)
		late := s.tellLate(s.now())
		next := s.queue.Due(s.now()) // pods whose back-off has ended take part now, however many others there are
		if ctx.Err() == nil && s.binder.hasRoom() && s.scheduleOne(ctx) {
			continue
		}
		if !late.IsZero() && (next.IsZero() || late.Before(next)) {
			next = late
		}
		if !next.IsZero() {
			timer.Reset(max(next.Sub(s.now()), time.Millisecond))
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.inbox.signal:
		case <-timer.C:
		}
	}
}
