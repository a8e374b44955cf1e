package controller_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/api/client"
	"github.com/kontiki/kontiki/controller"
	"github.com/kontiki/kontiki/test/gathered"
	"github.com/kontiki/kontiki/test/harness"
)

// TestQueuesAreMeasured: by upstream's names, and with the name of the controller; what is at present is told only while it runs.
func TestQueuesAreMeasured(t *testing.T) {
	name := fmt.Sprint("measured-", time.Now().UnixNano()) // the counters stay, for the next run of the test
	h := harness.New(t)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	tries := 0
	seen := map[string]bool{}
	ctl := &controller.Controller{
		Name: name, Workers: 1,
		Start:   func(_ client.View, enqueue func(controller.Key)) { enqueue(controller.Key{Name: "one"}) },
		Enqueue: func(client.View, client.Event, func(controller.Key)) {},
		Reconcile: func(context.Context, client.View, controller.Key) (controller.Result, error) {
			if tries++; tries == 1 {
				return controller.Result{}, errors.New("not yet")
			}
			for key := range measured(t, name) {
				seen[key] = true
			}
			cancel()
			return controller.Result{}, nil
		},
	}
	if err := controller.Run(ctx, h.Client, ctl, slog.New(slog.DiscardHandler)); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if !seen["workqueue_depth"] || !seen["workqueue_unfinished_work_seconds"] || !seen["workqueue_longest_running_processor_seconds"] {
		t.Errorf("while it ran there was %v", seen)
	}
	now := measured(t, name)
	for metric, want := range map[string]float64{
		"workqueue_adds_total": 2, "workqueue_retries_total": 1, "workqueue_queue_duration_seconds": 2, "workqueue_work_duration_seconds": 2,
	} {
		if now[metric] != want {
			t.Errorf("%s is %v, want %v", metric, now[metric], want)
		}
	}
	if _, ok := now["workqueue_depth"]; ok {
		t.Error("a controller that has ended tells the depth of its queue")
	}
}

// measured returns the values of the queue of a name, by the names of the metrics.
func measured(t *testing.T, name string) map[string]float64 {
	t.Helper()
	values := map[string]float64{}
	for key, value := range gathered.Values(t, controller.Metrics()) {
		if metric, ok := strings.CutSuffix(key, fmt.Sprintf("{name=%q}", name)); ok {
			values[metric] = value
		}
	}
	return values
}
