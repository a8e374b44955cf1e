package cluster

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestAPlannedStopHandsLeadershipOver: a leader that is stopped under writes hands leadership over first. An election would come
// after five seconds of silence at the earliest here; no write waits that long, and the term grows by one.
func TestAPlannedStopHandsLeadershipOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &simulation{t: t, net: newMemNet(1)}
		s.start(t, func(cfg *Config) { cfg.Timings.Heartbeat, cfg.Timings.Election = 5*time.Second, 5*time.Second })
		leader := s.leader()
		old := s.masters.nodes[leader]
		term := old.c.consensus.Term()

		ctx, stop := context.WithCancel(context.Background())
		var writers sync.WaitGroup
		var written [3]atomic.Int64 // how many writes of each master's client were acknowledged
		for i, n := range s.masters.nodes {
			if i == leader {
				continue
			}
			writers.Go(func() {
				for ctx.Err() == nil {
					one, cancel := context.WithTimeout(ctx, 2*time.Second) // virtual
					_, err := n.c.Propose(one, put(fmt.Sprintf("/t/things/ns/%d-%d", i, written[i].Load()), "x"))
					cancel()
					if err != nil && ctx.Err() == nil {
						t.Errorf("a write on %s waited for an election: %v", n.cfg.Name, err)
						return
					}
					if err == nil {
						written[i].Add(1)
					}
				}
			})
		}
		time.Sleep(time.Second) // virtual: writes flow
		s.down(leader, (*node).stop)
		var during [3]int64
		for i := range written {
			during[i] = written[i].Load()
		}
		time.Sleep(time.Second) // virtual: and flow on
		stop()
		writers.Wait()
		next := s.leader()
		if next < 0 || next == leader {
			t.Fatalf("after the stop %d leads", next)
		}
		if now := s.masters.nodes[next].c.consensus.Term(); now != term+1 {
			t.Errorf("the term grew from %d to %d", term, now)
		}
		s.up(leader)
		old.waitReady()
		view, err := old.c.Consistent(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		for i := range written {
			if i != leader && written[i].Load() <= during[i] {
				t.Errorf("no write on %s was acknowledged after the stop", s.masters.nodes[i].cfg.Name)
			}
			for k := range written[i].Load() {
				if _, ok := view.Get(fmt.Sprintf("/t/things/ns/%d-%d", i, k)); !ok {
					t.Errorf("the acknowledged write %d on %s is lost", k, s.masters.nodes[i].cfg.Name)
				}
			}
		}
	})
}
