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

func TestASourceEnqueuesAndItsErrorEndsAll(t *testing.T) {
	h := harness.New(t)
	broken := errors.New("broken")
	seen := make(chan controller.Key, 1)
	ctl := following(func(_ context.Context, _ client.View, key controller.Key) (controller.Result, error) {
		seen <- key
		return controller.Result{}, nil
	})
	again := make(chan struct{})
	ctl.Source = func(_ context.Context, enqueue func(controller.Key)) error {
		enqueue(controller.Key{Name: "from outside"})
		<-again
		return broken
	}
	done := make(chan error, 1)
	go func() {
		done <- controller.RunAll(context.Background(), h.Client, slog.New(slog.DiscardHandler), ctl, following(func(context.Context, client.View, controller.Key) (controller.Result, error) {
			return controller.Result{}, nil
		}))
	}()
	if key := <-seen; key.Name != "from outside" {
		t.Errorf("key %s", key)
	}
	close(again)
	if err := <-done; !errors.Is(err, broken) {
		t.Errorf("ended with %v", err)
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
