// Package controllertest has what tests of controllers share: running them, waiting for a state by following changes, an event
// recorder that never blocks, and a kubelet that needs no containers. It works with any client, usually a harness's.
package controllertest

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
)

// patience limits how long a test waits for something that must happen. It is not a performance requirement.
const patience = 30 * time.Second

// Go runs a function until the test ends, and fails the test if it returns before, or with an error other than the context's. The
// returned function ends it early.
func Go(t testing.TB, name string, run func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("%s ended with %v", name, err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// Run runs controllers until the test ends, or until the returned function is called.
func Run(t testing.TB, c *client.Client, controllers ...*controller.Controller) (stop func()) {
	t.Helper()
	return Go(t, "a controller", func(ctx context.Context) error {
		return controller.RunAll(ctx, c, slog.New(slog.DiscardHandler), controllers...)
	})
}

var errFound = errors.New("found")

// AwaitView follows the changes of the kinds until holds returns "" for a view, and returns that view. Any other result of holds
// says what is still missing, and is printed on a timeout.
func AwaitView(t testing.TB, c *client.Client, kinds []client.Object, holds func(client.View) string) client.View {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var last string
	var found client.View
	look := func(v client.View) error {
		if last = holds(v); last == "" {
			found = v
			return errFound
		}
		return nil
	}
	err := c.ViewAndWatch(ctx, kinds, look, func([]client.Event) error { return look(c.View()) })
	if !errors.Is(err, errFound) {
		t.Fatalf("waited in vain (%v): %s", err, last)
	}
	return found
}

// Await waits until an object exists and satisfies the condition.
func Await[T client.Object](t testing.TB, c *client.Client, namespace, name, what string, holds func(T) bool) T {
	t.Helper()
	var last T
	var empty T
	AwaitView(t, c, []client.Object{newOf(empty)}, func(v client.View) string {
		obj, ok := client.Get[T](v, namespace, name)
		if !ok {
			return fmt.Sprintf("%T %s/%s: %s: it does not exist", empty, namespace, name, what)
		}
		if last = obj; holds(obj) {
			return ""
		}
		return fmt.Sprintf("%T %s/%s: %s: %+v", empty, namespace, name, what, obj)
	})
	return last
}

// AwaitGone waits until an object does not exist.
func AwaitGone[T client.Object](t testing.TB, c *client.Client, namespace, name string) {
	t.Helper()
	var empty T
	AwaitView(t, c, []client.Object{newOf(empty)}, func(v client.View) string {
		if obj, ok := client.Get[T](v, namespace, name); ok {
			return fmt.Sprintf("%T %s/%s is still there: %+v", empty, namespace, name, obj)
		}
		return ""
	})
}

// Follow calls look for every command, from now until the test ends or the returned function is called, so that an invariant can be
// checked at every revision. look gets the events of one command in each call, and a view at or after them.
func Follow(t testing.TB, c *client.Client, kinds []client.Object, start func(client.View), look func([]client.Event)) (stop func()) {
	t.Helper()
	began := make(chan struct{})
	stop = Go(t, "a follower", func(ctx context.Context) error {
		return c.ViewAndWatch(ctx, kinds, func(v client.View) error {
			start(v)
			close(began)
			return nil
		}, func(events []client.Event) error {
			look(events)
			return nil
		})
	})
	<-began
	return stop
}

// Create creates an object or fails the test.
func Create[T client.Object](t testing.TB, c *client.Client, obj T) T {
	t.Helper()
	made, err := client.Create(context.Background(), c, obj)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

// Change changes an object, and retries on conflicts.
func Change[T client.Object](t testing.TB, c *client.Client, namespace, name string, change func(T)) T {
	t.Helper()
	return changeWith(t, c, namespace, name, change, client.Update[T])
}

// ChangeStatus changes an object's status.
func ChangeStatus[T client.Object](t testing.TB, c *client.Client, namespace, name string, change func(T)) T {
	t.Helper()
	return changeWith(t, c, namespace, name, change, client.UpdateStatus[T])
}

// Recorder keeps events in memory, as "Warning Reason message".
type Recorder struct {
	mu     sync.Mutex
	events []string
	wake   chan struct{}
}

// NewRecorder returns an empty recorder.
func NewRecorder() *Recorder { return &Recorder{wake: make(chan struct{}, 1)} }

// Event implements record.EventRecorder.
func (r *Recorder) Event(_ runtime.Object, kind, reason, message string) {
	r.mu.Lock()
	r.events = append(r.events, kind+" "+reason+" "+message)
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// Eventf implements record.EventRecorder.
func (r *Recorder) Eventf(obj runtime.Object, kind, reason, format string, args ...any) {
	r.Event(obj, kind, reason, fmt.Sprintf(format, args...))
}

// AnnotatedEventf implements record.EventRecorder.
func (r *Recorder) AnnotatedEventf(obj runtime.Object, _ map[string]string, kind, reason, format string, args ...any) {
	r.Eventf(obj, kind, reason, format, args...)
}

// Events returns the events so far that begin with a prefix.
func (r *Recorder) Events(prefix string) (out []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, e := range r.events {
		if strings.HasPrefix(e, prefix) {
			out = append(out, e)
		}
	}
	return out
}

// Await waits for an event that begins with a prefix. One goroutine may wait at a time.
func (r *Recorder) Await(t testing.TB, prefix string) {
	t.Helper()
	r.AwaitN(t, prefix, 1)
}

// AwaitN waits until there are at least n such events.
func (r *Recorder) AwaitN(t testing.TB, prefix string, n int) {
	t.Helper()
	deadline := time.After(patience)
	for len(r.Events(prefix)) < n {
		select {
		case <-r.wake:
		case <-deadline:
			t.Fatalf("no event %q; there were %q", prefix, r.Events(""))
		}
	}
}
