package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"testing"
	"time"

	"github.com/kontiki/kontiki/cluster/pki"
	"github.com/kontiki/kontiki/test/await"
)

const patience = 30 * time.Second

// host is an expected host.
type host struct {
	Role pki.Role
	Name string
}

func startGossip(t *testing.T, name string, role host, key []byte, seeds ...string) *Gossip {
	t.Helper()
	g, err := Start(Config{
		Name: name, Role: role.Role, Address: "10.0.0.1:6444", Version: "test", BindAddress: "127.0.0.1:0", Keys: [][]byte{key},
		Seeds: func() []string { return seeds }, Timings: Local, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(g.Abandon)
	return g
}

func expectState(t *testing.T, g *Gossip, role host, want State) {
	t.Helper()
	await.That(t, fmt.Sprintf("%s to be %s", role.Name, want), func() error {
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
	master, worker, sameHost := host{Role: pki.RoleMaster, Name: "a"}, host{Role: pki.RoleWorker, Name: "b"}, host{Role: pki.RoleWorker, Name: "a"}
	ga := startGossip(t, "a", master, key)
	events := ga.Events()
	defer events.Close()
	gb := startGossip(t, "b", worker, key, ga.Address())
	gc := startGossip(t, "a", sameHost, key, ga.Address())
	for _, g := range []*Gossip{ga, gb, gc} {
		for _, p := range []host{master, worker, sameHost} {
			expectState(t, g, p, Alive)
		}
	}
	if err := gb.Close(); err != nil {
		t.Fatal(err)
	}
	expectState(t, ga, worker, Left)
	gc.Abandon()
	expectState(t, ga, sameHost, Dead)

	// The stream ends with the present members.
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	last := map[host]State{}
	for last[worker] != Left || last[sameHost] != Dead || last[master] != Alive {
		m, err := events.Next(ctx)
		if err != nil {
			t.Fatalf("the stream ended with %v, it told %v", err, last)
		}
		if m.Address != "10.0.0.1:6444" || m.Version != "test" {
			t.Errorf("member %+v", m)
		}
		last[host{Role: m.Role, Name: m.Name}] = m.State
	}

	// A host that returns, at another address, is alive again.
	startGossip(t, "b", worker, key, ga.Address())
	expectState(t, ga, worker, Alive)
	ga.Abandon()
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
	a, b := host{Role: pki.RoleMaster, Name: "a"}, host{Role: pki.RoleWorker, Name: "b"}
	ga := startGossip(t, "a", a, key)
	gb := startGossip(t, "b", b, key, ga.Address())
	expectState(t, ga, b, Alive)
	events := ga.Events()
	defer events.Close()
	gb.Abandon()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	var states []State
	for len(states) == 0 || states[len(states)-1] != Dead {
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
		suspected = suspected || s == Suspect
	}
	if !suspected {
		t.Errorf("b was %v, never suspect: does memberlist word its log otherwise now?", states)
	}
}

func TestGossipNeedsTheKey(t *testing.T) {
	ga := startGossip(t, "a", host{Role: pki.RoleMaster}, bytes.Repeat([]byte{7}, 32))
	gb := startGossip(t, "b", host{Role: pki.RoleWorker}, bytes.Repeat([]byte{8}, 32))
	if n, err := gb.list.Join([]string{ga.Address()}); err == nil || n != 0 {
		t.Errorf("joined %d hosts with another key: %v", n, err)
	}
	if members := ga.Members(); len(members) != 1 {
		t.Errorf("members: %+v", members)
	}
}

// TestAllHostsThatAreMissingAreTried: however many are missing, each is tried in turn.
func TestAllHostsThatAreMissingAreTried(t *testing.T) {
	var seeds []string
	for i := range 3*rejoinAtOnce + 1 {
		seeds = append(seeds, fmt.Sprintf("10.1.0.%d:7946", i+1))
	}
	g := &Gossip{members: map[string]*Member{}, config: Config{Seeds: func() []string { return seeds }}}
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
