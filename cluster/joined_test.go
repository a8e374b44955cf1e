package cluster

import (
	"context"
	"testing"
	"time"

	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/worker"
)

// runningWorker is a worker of a test: its identity, kept up to date, and its part in gossip.
type runningWorker struct {
	*worker.Identity
	t    testing.TB
	cfg  worker.Config
	stop func()
}

func joinConfig(t testing.TB, name, token string, m *masters) worker.Config {
	t.Helper()
	var addresses []string
	for _, n := range m.nodes {
		if n.c != nil {
			addresses = append(addresses, n.c.Address())
		}
	}
	return worker.Config{Name: name, Dir: t.TempDir(), Join: addresses, Token: token, Addresses: []string{"127.0.0.1"}, Logger: testLog(t)}
}

func joinWorker(t testing.TB, cfg worker.Config) *runningWorker {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w, err := worker.Join(ctx, cfg)
	if err != nil {
		t.Fatalf("worker %s: %v", cfg.Name, err)
	}
	return &runningWorker{Identity: w, t: t, cfg: cfg}
}

// run follows the masters, and gossips, until stop or the end of the test.
func (w *runningWorker) run() {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	go func() { done <- w.Run(ctx) }()
	go func() {
		done <- w.RunGossip(ctx, gossip.Config{
			Name: w.Name, Role: mtls.RoleWorker, Address: "127.0.0.1", Version: "test", BindAddress: "127.0.0.1:0", Timings: gossip.Local, Logger: testLog(w.t),
		})
	}()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		for range 2 {
			select {
			case err := <-done:
				if err != nil {
					w.t.Errorf("the worker %s ended with %v", w.Name, err)
				}
			case <-time.After(patience):
				w.t.Errorf("the worker %s does not stop", w.Name)
			}
		}
	}
	w.t.Cleanup(w.stop)
}

func workerToken(t testing.TB, m *masters) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	token, err := m.leader().c.CreateToken(ctx, mtls.RoleWorker, time.Hour, "test")
	if err != nil {
		t.Fatal(err)
	}
	return token
}
