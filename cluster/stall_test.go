package cluster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/test/await"
	"github.com/kontiki/kontiki/test/robustness/faultfs"
)

// TestDisksThatStallForTenSeconds stalls disks under writes, with the timings of production. The clusters live side by side, as they
// mostly wait.
func TestDisksThatStallForTenSeconds(t *testing.T) {
	t.Parallel()
	var all sync.WaitGroup
	defer all.Wait()
	for _, c := range []struct {
		name  string
		which func(*masters) []*node // the first of them has something to write, and so must notice
		// goesOn says that writes are acknowledged meanwhile.
		goesOn bool
	}{
		{"Leader", func(m *masters) []*node { return []*node{m.leader()} }, true},
		{"Follower", func(m *masters) []*node { return m.followers()[:1] }, true},
		{"All", func(m *masters) []*node { return append([]*node{m.leader()}, m.followers()...) }, false},
	} {
		all.Go(func() {
			t.Run(c.name, func(t *testing.T) { stallForTenSeconds(t, c.which, c.goesOn) })
		})
	}
}

func stallForTenSeconds(t *testing.T, which func(*masters) []*node, goesOn bool) {
	m, disks := onDisks(t, 3, func(cfg *Config) { cfg.Timings = Timings{Gossip: gossip.Local} })
	m.leader().put("/t/first", "x")
	w := startWriters(m)
	w.progress(t)
	stalled := which(m)
	for _, n := range stalled {
		disks[n.cfg.Name].Stall(faultfs.Write, faultfs.Sync)
	}
	before := w.acknowledged()
	<-time.After(10 * time.Second) // it is the stall that is tested
	await.That(t, stalled[0].cfg.Name+" to notice", func() error {
		if !stalled[0].c.consensus.DiskHealth().Stalled {
			return errors.New("it does not")
		}
		return nil
	})
	if goesOn {
		await.That(t, "writes to be acknowledged during the stall", func() error {
			if n := w.acknowledged() - before; n < 10 {
				return fmt.Errorf("%d were", n)
			}
			return nil
		})
	} else if n := w.acknowledged() - before; n > len(m.nodes) { // each writer's that was under way
		t.Errorf("%d writes were acknowledged while no disk moved", n)
	}
	if counts := disks[stalled[0].cfg.Name].Counts(); counts["stalled write"]+counts["stalled sync"] == 0 {
		t.Error("no disk stalled")
	}
	for _, n := range stalled {
		disks[n.cfg.Name].Resume(faultfs.Write, faultfs.Sync)
	}
	for _, n := range m.nodes {
		m.health(n.cfg.Name, HealthOK)
	}
	w.progress(t)
	w.check(t)
	m.run()
}

// writers write on all masters, each keys of its own that count up.
type writers struct {
	m    *masters
	stop context.CancelFunc
	wg   sync.WaitGroup
	mu   sync.Mutex
	last []int // of each writer, the last that was acknowledged
}

func startWriters(m *masters) *writers {
	ctx, stop := context.WithCancel(context.Background())
	w := &writers{m: m, stop: stop, last: make([]int, len(m.nodes))}
	m.t.Cleanup(func() { stop(); w.wg.Wait() })
	for i, n := range m.nodes {
		w.wg.Go(func() {
			for k := 1; ctx.Err() == nil; k++ {
				one, cancel := context.WithTimeout(ctx, patience)
				_, err := n.c.Propose(one, put(fmt.Sprintf("/t/w/%d/%06d", i, k), "x"))
				cancel()
				if err == nil {
					w.mu.Lock()
					w.last[i] = k
					w.mu.Unlock()
				}
			}
		})
	}
	return w
}

// acknowledged is how many writes were, of all writers.
func (w *writers) acknowledged() (sum int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range w.last {
		sum += k
	}
	return sum
}

// progress waits until each writer has had some more writes acknowledged.
func (w *writers) progress(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	before := slices.Clone(w.last)
	w.mu.Unlock()
	await.That(t, "all masters to take writes", func() error {
		w.mu.Lock()
		defer w.mu.Unlock()
		for i, k := range w.last {
			if k < before[i]+5 {
				return fmt.Errorf("%s has taken %d", w.m.nodes[i].cfg.Name, k-before[i])
			}
		}
		return nil
	})
}

// check ends the writers, and looks for each one's last write on every master.
func (w *writers) check(t *testing.T) {
	t.Helper()
	w.stop()
	w.wg.Wait()
	for i, k := range w.last {
		for _, n := range w.m.nodes {
			if got := n.get(fmt.Sprintf("/t/w/%d/%06d", i, k)); got != "x" {
				t.Errorf("%s does not have write %d of writer %d", n.cfg.Name, k, i)
			}
		}
	}
}
