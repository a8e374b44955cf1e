// Package controller runs the controllers on the leader. Each lives in a folder of its own and declares what it needs;
// none imports another, and all reach the cluster through api/client alone.
//
// A controller is a reconciler of keys: what it watches tells it which keys to look at, and looking at a key brings the
// world one step nearer to what the objects ask for, from the state as it is now. It keeps no state that it could not
// rebuild, so that a new leader simply begins.
//
//	changes of the store -> Enqueue(event) -> work queue (deduplicated, rate-limited) -> Reconcile(view, key)
//
// There are no informers and no expectations: the view that a reconciler reads is the leader's own state machine, which
// shows a write as soon as it is acknowledged. So a controller never acts twice on what it has just done itself.
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

// Key names an object, or whatever else a controller works on.
type Key struct{ Namespace, Name string }

// KeyOf is the key of an object.
func KeyOf(obj client.Object) Key { return Key{obj.GetNamespace(), obj.GetName()} }

func (k Key) String() string {
	if k.Namespace == "" {
		return k.Name
	}
	return k.Namespace + "/" + k.Name
}

// Result is what a reconciliation asks for besides: to be looked at again after a while (0 is not).
type Result struct{ After time.Duration }

// Controller reconciles keys. Reconcile is called by several goroutines, but never for one key by two at a time.
type Controller struct {
	Name string
	// Watches are the kinds whose changes matter, as empty objects.
	Watches []client.Object
	// Start answers the keys to look at first, from a view of everything: at the beginning, and whenever the history was
	// left behind.
	Start func(v client.View, enqueue func(Key))
	// Enqueue answers the keys that a change concerns. v is no older than the change.
	Enqueue func(v client.View, event client.Event, enqueue func(Key))
	// Reconcile looks at a key. v is no older than what made the key be enqueued. An error makes it be tried again later.
	Reconcile func(ctx context.Context, v client.View, key Key) (Result, error)
	// Source enqueues keys for what happens outside of the store, until the context ends; nil if nothing does. Its error
	// ends the controller.
	Source func(ctx context.Context, enqueue func(Key)) error
	// Workers is how many keys are looked at at a time; 0 is 4.
	Workers int
}

// A key that fails is tried again after 5 ms, then twice as long each time, up to 30 s.
const (
	firstRetry   = 5 * time.Millisecond
	longestRetry = 30 * time.Second
)

// Run runs a controller until the context ends, and returns once no reconciliation is under way.
func Run(ctx context.Context, c *client.Client, ctl *Controller, log *slog.Logger) error {
	queue := workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[Key](firstRetry, longestRetry),
		workqueue.TypedRateLimitingQueueConfig[Key]{Name: ctl.Name})
	log = log.With("controller", ctl.Name)
	workers := ctl.Workers
	if workers == 0 {
		workers = 4
	}
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		defer queue.ShutDown()
		return c.ViewAndWatch(ctx, ctl.Watches,
			func(v client.View) error {
				return contain.Run(func() error {
					ctl.Start(v, queue.Add)
					return nil
				})
			},
			func(events []client.Event) error {
				v := c.View()
				for _, event := range events {
					enqueue(v, ctl, event, queue, log)
				}
				return nil
			})
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
	err := contain.Run(func() (err error) { // one object's panic does not stop the others
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
		// A conflict says that somebody else was faster: the next look sees what they did.
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

// enqueue finds the keys that a change concerns. A change that cannot be looked at is left out, and said.
func enqueue(v client.View, ctl *Controller, event client.Event, queue workqueue.TypedRateLimitingInterface[Key], log *slog.Logger) {
	err := contain.Run(func() error {
		ctl.Enqueue(v, event, queue.Add)
		return nil
	})
	if err != nil {
		log.Error("a change made the controller panic and was left out", "key", KeyOf(event.Object()), "error", err, "stack", contain.Stack(err))
	}
}

// RunAll runs controllers until the context ends. One that fails or panics is started again, and the others go on.
func RunAll(ctx context.Context, c *client.Client, log *slog.Logger, controllers ...*Controller) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, ctl := range controllers {
		group.Go(func() error {
			return Keep(ctx, ctl.Name, log, func(ctx context.Context) error { return Run(ctx, c, ctl, log) })
		})
	}
	return group.Wait()
}

// What fails is started again after a pause that doubles, unless it ran well for a while.
const (
	firstRestart, longestRestart = 100 * time.Millisecond, time.Minute
	ranWell                      = 5 * time.Minute
)

// Keep runs something until the context ends, and starts it again when it ends before, in whatever way. It must not leave
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
		log.Error("it ended and is started again", "controller", name, "after", wait, "error", err, "stack", contain.Stack(err))
		if !pause.For(ctx, wait) {
			return ctx.Err()
		}
		wait = min(2*wait, longestRestart)
	}
}

// Each calls do for every item, a few at a time, and answers the first error once all are done. It is how controllers
// write many objects: concurrent writes share raft batches.
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
