// Package controller runs the controllers on the leader. Each has its own folder and declares what it needs; none imports another,
// and all access the cluster only through api/client.
//
// A controller is a reconciler of keys: its watches determine which keys to reconcile, and reconciling a key brings the cluster one
// step closer to what the objects specify, starting from the present state. A controller keeps no state that it could not rebuild,
// so a new leader's controllers start at once.
//
//	changes of the store -> Enqueue(event) -> work queue (deduplicated, rate-limited) -> Reconcile(view, key)
//
// There are no informers and no expectations: the view that a reconciler reads is that of the leader's own state machine, which
// shows a write as soon as it is acknowledged. So a controller never repeats what it has just done.
package controller

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/util/workqueue"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/internal/contain"
	"github.com/kontiki/kontiki/internal/pause"
)

// Key identifies an object, or whatever else a controller works on.
type Key struct{ Namespace, Name string }

// KeyOf returns the key of an object.
func KeyOf(obj client.Object) Key { return Key{obj.GetNamespace(), obj.GetName()} }

func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// Result is the result of a reconciliation: After, if not 0, is when to reconcile the key again.
type Result struct{ After time.Duration }

// Controller reconciles keys. Reconcile is called by several goroutines, but never concurrently for the same key.
type Controller struct {
	Name string
	// Watches are the kinds whose changes are passed to Enqueue, as empty objects.
	Watches []client.Object
	// WatchAll is for controllers of objects of all kinds, instead of Watches: it selects the kinds, and events have *client.Metadata.
	WatchAll func(*client.Kind) bool
	// Start enqueues the keys to reconcile first, given a view of everything: at the start, and whenever the watch fell behind the
	// history.
	Start func(v client.View, enqueue func(Key))
	// Enqueue enqueues the keys that a change concerns. v is at least as new as the change.
	Enqueue func(v client.View, event client.Event, enqueue func(Key))
	// Reconcile reconciles a key. v is at least as new as the change that enqueued the key. After an error the key is retried
	// later.
	Reconcile func(ctx context.Context, v client.View, key Key) (Result, error)
	// Source enqueues keys for events outside of the store, until the context ends; nil if there are none. If it returns an error,
	// the controller ends.
	Source func(ctx context.Context, enqueue func(Key)) error
	// Workers is the number of keys that are reconciled concurrently; 0 means 4.
	Workers int
}

// A key that fails is retried after 5 ms, then after twice as long each time, up to 30 s.
const (
	firstRetry   = 5 * time.Millisecond
	longestRetry = 30 * time.Second
)

// Run runs a controller until the context ends, and returns when no reconciliation is running any more.
func Run(ctx context.Context, c *client.Client, ctl *Controller, log *slog.Logger) error {
	defer queues.forget(ctl.Name)
	queue := workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[Key](firstRetry, longestRetry),
		workqueue.TypedRateLimitingQueueConfig[Key]{Name: ctl.Name, MetricsProvider: queues, Clock: alignedClock{}})
	log = log.With("controller", ctl.Name)
	workers := ctl.Workers
	if workers == 0 {
		workers = 4
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer queue.ShutDown()
		start := func(v client.View) error {
			return contain.Run(func() error {
				ctl.Start(v, queue.Add)
				return nil
			})
		}
		more := func(events []client.Event) error {
			v := c.View()
			for _, event := range events {
				enqueue(v, ctl, event, queue, log)
			}
			return nil
		}
		if ctl.WatchAll != nil {
			return c.WatchAll(ctx, ctl.WatchAll, start, more)
		}
		return c.ViewAndWatch(ctx, ctl.Watches, start, more)
	})
	if ctl.Source != nil {
		group.Go(func() error { return contain.Run(func() error { return ctl.Source(ctx, queue.Add) }) })
	}
	for range workers {
		group.Go(func() error {
			for work(ctx, c, ctl, queue, log) {
			}
			return nil
		})
	}
	return group.Wait()
}

func work(ctx context.Context, c *client.Client, ctl *Controller, queue workqueue.TypedRateLimitingInterface[Key], log *slog.Logger) bool {
	key, shutdown := queue.Get()
	if shutdown {
		return false
	}
	defer queue.Done(key)
	if ctx.Err() != nil {
		return true
	}
	var result Result
	err := contain.Run(func() (err error) { // a panic for one object does not stop the others
		result, err = ctl.Reconcile(ctx, c.View(), key)
		return err
	})
	switch {
	case err == nil:
		queue.Forget(key)
		if result.After > 0 {
			queue.AddAfter(key, result.After)
		}
	case ctx.Err() != nil:
	default:
		// A conflict means that another writer was faster: the retry will see its change.
		level := slog.LevelWarn
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			level = slog.LevelDebug
		}
		if stack := contain.Stack(err); stack != "" {
			log.Error("reconciliation panicked, trying again", "key", key, "error", err, "stack", stack)
		} else {
			log.Log(ctx, level, "reconciliation failed, trying again", "key", key, "error", err)
		}
		queue.AddRateLimited(key)
	}
	return true
}

// enqueue calls Enqueue for a change. If that panics, the change is skipped and an error logged.
func enqueue(v client.View, ctl *Controller, event client.Event, queue workqueue.TypedRateLimitingInterface[Key], log *slog.Logger) {
	err := contain.Run(func() error {
		ctl.Enqueue(v, event, queue.Add)
		return nil
	})
	if err != nil {
		log.Error("a change made the controller panic and was skipped", "key", KeyOf(event.Object()), "error", err, "stack", contain.Stack(err))
	}
}

// RunAll runs controllers until the context ends. One that fails or panics is restarted, and the others continue.
func RunAll(ctx context.Context, c *client.Client, log *slog.Logger, controllers ...*Controller) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, ctl := range controllers {
		group.Go(func() error {
			return Keep(ctx, ctl.Name, log, func(ctx context.Context) error { return Run(ctx, c, ctl, log) })
		})
	}
	return group.Wait()
}

// A controller that failed is restarted after a pause that doubles, unless it had run well for a while.
const (
	firstRestart, longestRestart = 100 * time.Millisecond, time.Minute
	ranWell                      = 5 * time.Minute
)

// Keep runs a function until the context ends, and restarts it whenever it returns or panics before. The function must not leave
// goroutines behind.
func Keep(ctx context.Context, name string, log *slog.Logger, run func(context.Context) error) error {
	wait := firstRestart
	for {
		began := time.Now()
		err := contain.Run(func() error { return run(ctx) })
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if time.Since(began) > ranWell {
			wait = firstRestart
		}
		log.Error("the controller ended and is restarted", "controller", name, "after", wait, "error", err, "stack", contain.Stack(err))
		if !pause.For(ctx, wait) {
			return ctx.Err()
		}
		wait = min(2*wait, longestRestart)
	}
}

// Each calls do for every item, a few concurrently, and returns the first error once all are done. Controllers use it to write many
// objects: concurrent writes share raft batches.
func Each[T any](items []T, do func(T) error) error {
	const width = 16
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex
		first error
		slots = make(chan struct{}, width)
	)
	for _, item := range items {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := contain.Run(func() error { return do(item) }); err != nil {
				mu.Lock()
				defer mu.Unlock()
				if first == nil {
					first = err
				}
			}
		})
	}
	wg.Wait()
	return first
}
