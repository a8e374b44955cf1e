package controller_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/controller/controllertest"
	"github.com/kontiki/kontiki/test/harness"
)

// following is a controller of ConfigMaps of the namespace default.
func following(reconcile func(ctx context.Context, v client.View, key controller.Key) (controller.Result, error)) *controller.Controller {
	return &controller.Controller{
		Name: "test", Watches: []client.Object{&corev1.ConfigMap{}}, Reconcile: reconcile,
		Start: func(v client.View, enqueue func(controller.Key)) {
			client.Each(v, "default", func(cm *corev1.ConfigMap) bool { enqueue(controller.KeyOf(cm)); return true })
		},
		Enqueue: func(_ client.View, e client.Event, enqueue func(controller.Key)) {
			enqueue(controller.KeyOf(e.Object()))
		},
	}
}

func cm(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}}
}

func TestKeysAreReconciledUntilTheySucceedAndOneAtATime(t *testing.T) {
	h := harness.New(t)
	controllertest.Create(t, h.Client, cm("before"))
	var mu sync.Mutex
	tries, inside := map[string]int{}, map[string]bool{}
	done := make(chan string, 100)
	controllertest.Run(t, h.Client, following(func(_ context.Context, v client.View, key controller.Key) (controller.Result, error) {
		mu.Lock()
		if inside[key.Name] {
			t.Errorf("%s is reconciled twice at a time", key)
		}
		inside[key.Name] = true
		tries[key.Name]++
		n := tries[key.Name]
		mu.Unlock()
		defer func() {
			mu.Lock()
			inside[key.Name] = false
			mu.Unlock()
		}()
		if _, ok := client.Get[*corev1.ConfigMap](v, key.Namespace, key.Name); !ok {
			t.Errorf("the view is older than what enqueued %s", key)
		}
		switch n {
		case 1:
			return controller.Result{}, errors.New("not yet")
		case 2:
			panic("one object's panic stops nobody else")
		case 3:
			return controller.Result{After: 1}, nil
		}
		done <- key.Name
		return controller.Result{}, nil
	}))
	for i := range 10 {
		controllertest.Create(t, h.Client, cm(fmt.Sprint("c", i)))
	}
	seen := map[string]bool{}
	for len(seen) < 11 {
		seen[<-done] = true
	}
	if !seen["before"] {
		t.Error("what was there before was not looked at")
	}
}

func TestRunEndsWhenTheWorkHasEnded(t *testing.T) {
	h := harness.New(t)
	entered := make(chan struct{})
	var ended atomic.Bool
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- controller.Run(ctx, h.Client, following(func(ctx context.Context, _ client.View, _ controller.Key) (controller.Result, error) {
			close(entered)
			<-ctx.Done()
			ended.Store(true)
			return controller.Result{}, ctx.Err()
		}), slog.New(slog.DiscardHandler))
	}()
	controllertest.Create(t, h.Client, cm("c"))
	<-entered
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) || !ended.Load() {
		t.Errorf("ended with %v, the reconciliation had ended: %v", err, ended.Load())
	}
}

// A controller that fails, in whatever way, is restarted and continues; the other controllers are not affected.
func TestAControllerThatEndsIsStartedAgain(t *testing.T) {
	for name, end := range map[string]func() error{
		"its source fails": func() error { return errors.New("broken") },
		"its source panics": func() error {
			panic("something is wrong")
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := harness.New(t)
			seen := make(chan controller.Key, 10)
			ctl := following(func(_ context.Context, _ client.View, key controller.Key) (controller.Result, error) {
				seen <- key
				return controller.Result{}, nil
			})
			var starts atomic.Int32
			ctl.Source = func(ctx context.Context, enqueue func(controller.Key)) error {
				enqueue(controller.Key{Name: fmt.Sprint("start ", starts.Add(1))})
				if starts.Load() < 3 {
					return end()
				}
				<-ctx.Done()
				return ctx.Err()
			}
			others := make(chan controller.Key, 10)
			other := following(func(_ context.Context, _ client.View, key controller.Key) (controller.Result, error) {
				others <- key
				return controller.Result{}, nil
			})
			controllertest.Run(t, h.Client, ctl, other)
			for key := range seen {
				if key.Name == "start 3" {
					break
				}
			}
			controllertest.Create(t, h.Client, cm("later"))
			for _, keys := range []chan controller.Key{seen, others} {
				for (<-keys).Name != "later" {
				}
			}
		})
	}
}

func TestAChangeThatPanicsIsLeftOut(t *testing.T) {
	h := harness.New(t)
	seen := make(chan controller.Key, 10)
	ctl := following(func(_ context.Context, _ client.View, key controller.Key) (controller.Result, error) {
		seen <- key
		return controller.Result{}, nil
	})
	good := ctl.Enqueue
	ctl.Enqueue = func(v client.View, e client.Event, enqueue func(controller.Key)) {
		if e.Object().GetName() == "bad" {
			panic("cannot be looked at")
		}
		good(v, e, enqueue)
	}
	controllertest.Create(t, h.Client, cm("first"))
	controllertest.Run(t, h.Client, ctl)
	<-seen
	controllertest.Create(t, h.Client, cm("bad"))
	controllertest.Create(t, h.Client, cm("good"))
	for key := range seen {
		if key.Name == "bad" {
			t.Error("the bad one came through")
		}
		if key.Name == "good" {
			break
		}
	}
}

func TestEachAnswersTheFirstErrorAfterAll(t *testing.T) {
	var count atomic.Int32
	wrong := errors.New("wrong")
	err := controller.Each(make([]int, 100), func(int) error {
		if count.Add(1) == 50 {
			return wrong
		}
		return nil
	})
	if !errors.Is(err, wrong) || count.Load() != 100 {
		t.Errorf("%v after %d", err, count.Load())
	}
}

func TestEachContainsPanics(t *testing.T) {
	err := controller.Each([]int{0, 1}, func(i int) error {
		if i == 0 {
			panic("one item")
		}
		return nil
	})
	if err == nil || err.Error() != "panic: one item" {
		t.Errorf("%v", err)
	}
}
