package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"testing"
	"time"
)

func startGossip(t *testing.T, name string, role Peer, key []byte, seeds ...string) *Gossip {
	t.Helper()
	g, err := StartGossip(GossipConfig{
		Name: name, Role: role.Role, Address: "10.0.0.1:6444", Version: "test", BindAddress: "127.0.0.1:0", Keys: [][]byte{key},
		Seeds: func() []string { return seeds }, Timings: GossipLocal, Logger: testLog(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.abandon)
	return g
}

func expectState(t *testing.T, g *Gossip, role Peer, want MemberState) {
	t.Helper()
	eventually(t, fmt.Sprintf("%s to be %s", role.Name, want), func() error {
		for _, m := range g.Members() {
			if m.Name == role.Name && m.Role == role.Role {
				if m.State != want {
					return fmt.Errorf("it is %s", m.State)
				}
				return nil
			}
		}
		return errors.New("it is not known")
	})
}

func TestGossipTellsLeavingFromDying(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	master, worker, sameHost := Peer{Role: RoleMaster, Name: "a"}, Peer{Role: RoleWorker, Name: "b"}, Peer{Role: RoleWorker, Name: "a"}
	ga := startGossip(t, "a", master, key)
	events := ga.Events()
	defer events.Close()
	gb := startGossip(t, "b", worker, key, ga.Address())
	gc := startGossip(t, "a", sameHost, key, ga.Address())
	for _, g := range []*Gossip{ga, gb, gc} {
		for _, p := range []Peer{master, worker, sameHost} {
			expectState(t, g, p, MemberAlive)
		}
	}
	if err := gb.Close(); err != nil {
		t.Fatal(err)
	}
	expectState(t, ga, worker, MemberLeft)
	gc.abandon()
	expectState(t, ga, sameHost, MemberDead)

	// The stream ends with the members as they are.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	last := map[Peer]MemberState{}
	for last[worker] != MemberLeft || last[sameHost] != MemberDead || last[master] != MemberAlive {
		m, err := events.Next(ctx)
		if err != nil {
			t.Fatalf("the stream ended with %v, it told %v", err, last)
		}
		if m.Address != "10.0.0.1:6444" || m.Version != "test" {
			t.Errorf("member %+v", m)
		}
		last[Peer{Role: m.Role, Name: m.Name}] = m.State
	}

	// A host that comes back, at another address, is alive again.
	startGossip(t, "b", worker, key, ga.Address())
	expectState(t, ga, worker, MemberAlive)
	ga.abandon()
	for {
		if _, err := events.Next(ctx); errors.Is(err, net.ErrClosed) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
}

func TestGossipSuspectsBeforeItBuries(t *testing.T) {
	key := bytes.Repeat([]byte{7}, 32)
	a, b := Peer{Role: RoleMaster, Name: "a"}, Peer{Role: RoleWorker, Name: "b"}
	ga := startGossip(t, "a", a, key)
	gb := startGossip(t, "b", b, key, ga.Address())
	expectState(t, ga, b, MemberAlive)
	events := ga.Events()
	defer events.Close()
	gb.abandon()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var states []MemberState
	for len(states) == 0 || states[len(states)-1] != MemberDead {
		m, err := events.Next(ctx)
		if err != nil {
			t.Fatalf("%v after %v", err, states)
		}
		if m.Name == "b" {
			states = append(states, m.State)
		}
	}
	suspected := false
	for _, s := range states {
		suspected = suspected || s == MemberSuspect
	}
	if !suspected {
		t.Errorf("b was %v, never suspect: does memberlist word its log otherwise now?", states)
	}
}

func TestGossipNeedsTheKey(t *testing.T) {
	ga := startGossip(t, "a", Peer{Role: RoleMaster}, bytes.Repeat([]byte{7}, 32))
	gb := startGossip(t, "b", Peer{Role: RoleWorker}, bytes.Repeat([]byte{8}, 32))
	if n, err := gb.list.Join([]string{ga.Address()}); err == nil || n != 0 {
		t.Errorf("joined %d hosts with another key: %v", n, err)
	}
	if members := ga.Members(); len(members) != 1 {
		t.Errorf("members: %+v", members)
	}
}

func TestMastersGossip(t *testing.T) {
	m := startMasters(t, 3)
	for _, n := range m.nodes {
		for i := 1; i <= 3; i++ {
			expectState(t, n.c.Gossip(), Peer{Role: RoleMaster, Name: fmt.Sprintf("master-%d", i)}, MemberAlive)
		}
		if got := len(n.c.MasterAddresses()); got != 3 {
			t.Errorf("%s knows %d masters' addresses", n.cfg.Name, got)
		}
	}
	start := time.Now()
	m.nodes[2].stop()
	expectState(t, m.nodes[0].c.Gossip(), Peer{Role: RoleMaster, Name: "master-3"}, MemberLeft)
	t.Logf("stopped in %s", time.Since(start).Round(time.Millisecond))
}

// TestAllHostsThatAreMissingAreTried: however many are missing, each has its turn.
func TestAllHostsThatAreMissingAreTried(t *testing.T) {
	var seeds []string
	for i := range 3*rejoinAtOnce + 1 {
		seeds = append(seeds, fmt.Sprintf("10.1.0.%d:7946", i+1))
	}
	g := &Gossip{members: map[string]*Member{}, config: GossipConfig{Seeds: func() []string { return seeds }}}
	tried := map[string]bool{}
	for round := range 4 {
		missing := g.missing(round)
		if len(missing) != rejoinAtOnce {
			t.Fatalf("round %d tries %v", round, missing)
		}
		for _, address := range missing {
			tried[address] = true
		}
	}
	if len(tried) != len(seeds) {
		t.Errorf("%d of %d were tried", len(tried), len(seeds))
	}
}
