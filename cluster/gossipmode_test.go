package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kontiki/kontiki/cluster/errclass"
	"github.com/kontiki/kontiki/cluster/gossip"
	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/cluster/worker"
	"github.com/kontiki/kontiki/test/await"
)

func TestUnknownGossipModesAreRefused(t *testing.T) {
	for _, mode := range []string{"some", "auto"} {
		cfg := testConfig(t, "master-1")
		cfg.Bootstrap, cfg.GossipMode = true, mode
		if _, err := Open(context.Background(), cfg); err == nil || !strings.Contains(err.Error(), "use all or masters") {
			t.Errorf("opened with gossip among %s: %v", mode, err)
		}
	}
}

// gossiping are the workers that a master's gossip sees alive.
func gossiping(n *node) (names []string) {
	for _, m := range n.c.Members() {
		if m.Role == mtls.RoleWorker && m.State == gossip.Alive {
			names = append(names, m.Name)
		}
	}
	return names
}

// TestWorkersLeaveGossipWhenTheMastersSaySo sees workers leave gossip when the masters are started with another mode, and come back; masters
// gossip on, a worker that restarts knows what to do, and nobody is let in under a name in use.
func TestWorkersLeaveGossipWhenTheMastersSaySo(t *testing.T) {
	m := startMasters(t, 2)
	restart := func(mode string) {
		for _, n := range m.nodes {
			n.stop()
			n.cfg.GossipMode = mode
			n.start()
		}
		for _, n := range m.nodes {
			n.waitReady()
		}
	}
	var workers []*runningWorker
	expect := func(what string, want int) {
		t.Helper()
		await.That(t, what, func() error {
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
	}
	expect("all workers in gossip", 3)
	restart("masters")
	expect("no worker in gossip", 0)
	for _, n := range m.nodes {
		for _, other := range m.nodes {
			n.expectMember(mtls.RoleMaster, other.cfg.Name, gossip.Alive)
		}
	}
	await.That(t, "the workers to have it on disk", func() error {
		for _, w := range workers {
			if doc, err := worker.Load(w.cfg.Dir); err != nil || !doc.MastersGossip {
				return fmt.Errorf("%s: %v", w.Name, err)
			}
		}
		return nil
	})
	taken := joinConfig(t, "worker-1", workerToken(t, m), m)
	taken.Addresses = []string{"127.0.0.9"}
	if _, err := worker.Join(context.Background(), taken); !errors.Is(err, errclass.ErrNameTaken) {
		t.Errorf("a second worker-1: %v", err)
	}
	workers[1].stop()
	workers[2].stop()
	restart("all")
	expect("the last worker in gossip again", 1)
}

func TestMastersGossip(t *testing.T) {
	m := startMasters(t, 3)
	for _, n := range m.nodes {
		for i := 1; i <= 3; i++ {
			n.expectMember(mtls.RoleMaster, fmt.Sprintf("master-%d", i), gossip.Alive)
		}
		if got := len(n.c.MasterAddresses()); got != 3 {
			t.Errorf("%s knows %d masters' addresses", n.cfg.Name, got)
		}
	}
	start := time.Now()
	m.nodes[2].stop()
	m.nodes[0].expectMember(mtls.RoleMaster, "master-3", gossip.Left)
	t.Logf("stopped in %s", time.Since(start).Round(time.Millisecond))
}

// startGossip starts a host that gossips and does nothing else.
func startGossip(t testing.TB, name string, key []byte, seed string) *gossip.Gossip {
	t.Helper()
	g, err := gossip.Start(gossip.Config{
		Name: name, Role: mtls.RoleWorker, Address: "10.0.0.1:6444", BindAddress: "127.0.0.1:0", Keys: [][]byte{key},
		Seeds: func() []string { return []string{seed} }, Timings: gossip.Local, Logger: testLog(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Abandon)
	return g
}

func expectMember(t testing.TB, g *gossip.Gossip, role pki.Role, name string, want gossip.State) {
	t.Helper()
	await.That(t, fmt.Sprintf("%s to be %s", name, want), func() error {
		for _, m := range g.Members() {
			if m.Name == name && m.Role == role && m.State == want {
				return nil
			}
		}
		return fmt.Errorf("the members are %+v", g.Members())
	})
}

func (n *node) expectMember(role pki.Role, name string, want gossip.State) {
	n.t.Helper()
	expectMember(n.t, n.c.Gossip(), role, name, want)
}
