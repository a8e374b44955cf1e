package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestWhoShouldGossip(t *testing.T) {
	for _, test := range []struct {
		mode, present string
		limit, count  int
		want          string
	}{
		{"", gossipAll, 0, 2000, gossipAll},
		{"auto", gossipAll, 0, 2001, gossipMastersOnly},
		{"auto", gossipMastersOnly, 0, 1501, gossipMastersOnly}, // no to and fro at the limit
		{"auto", gossipMastersOnly, 0, 1500, gossipAll},
		{"auto", gossipAll, 10, 11, gossipMastersOnly},
		{"all", gossipMastersOnly, 10, 5000, gossipAll},
		{"masters", gossipAll, 0, 0, gossipMastersOnly},
	} {
		cfg := Config{GossipMode: test.mode, GossipLimit: test.limit}
		if got := cfg.wantedGossip(test.present, test.count); got != test.want {
			t.Errorf("%+v: %s", test, got)
		}
	}
	cfg := testConfig(t, "master-1")
	cfg.Bootstrap, cfg.GossipMode = true, "some"
	if _, err := Open(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "all, masters or auto") {
		t.Errorf("opened with gossip among some: %v", err)
	}
}

// gossiping are the workers that a master's gossip sees alive.
func gossiping(n *node) (names []string) {
	for _, m := range n.c.Members() {
		if m.Role == RoleWorker && m.State == MemberAlive {
			names = append(names, m.Name)
		}
	}
	return names
}

// TestWorkersLeaveGossipWhenThereAreMany sees workers leave gossip when the third one comes, and come back when two of the
// three have gone; masters gossip on, a worker that restarts knows what to do, and nobody is let in under a name in use.
func TestWorkersLeaveGossipWhenThereAreMany(t *testing.T) {
	m := startMasters(t, 2, func(cfg *Config) { cfg.GossipLimit = 2 })
	var workers []*runningWorker
	expect := func(what string, want int) {
		t.Helper()
		eventually(t, what, func() error {
			for _, n := range m.nodes {
				if names := gossiping(n); len(names) != want || n.c.WorkersGossip() != (want > 0) {
					return fmt.Errorf("%s sees %v gossip, workers gossip: %v", n.cfg.Name, names, n.c.WorkersGossip())
				}
			}
			return nil
		})
	}
	for i := range 3 {
		w := joinWorker(t, joinConfig(t, fmt.Sprintf("worker-%d", i+1), workerToken(t, m), m))
		w.run()
		workers = append(workers, w)
		if i == 1 {
			expect("two workers in gossip", 2)
		}
	}
	expect("no worker in gossip", 0)
	for _, n := range m.nodes {
		for _, other := range m.nodes {
			expectState(t, n.c.Gossip(), Peer{Role: RoleMaster, Name: other.cfg.Name}, MemberAlive)
		}
	}
	eventually(t, "the workers to have it on disk", func() error {
		for _, w := range workers {
			if doc, err := loadWorker(w.cfg.Dir); err != nil || !doc.MastersGossip {
				return fmt.Errorf("%s: %v", w.Name, err)
			}
		}
		return nil
	})
	taken := joinConfig(t, "worker-1", workerToken(t, m), m)
	taken.Addresses = []string{"127.0.0.9"}
	if _, err := JoinWorker(context.Background(), taken); !errors.Is(err, ErrNameTaken) {
		t.Errorf("a second worker-1: %v", err)
	}
	workers[1].stop()
	workers[2].stop()
	expect("the last worker in gossip again", 1)
}
