package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"

	"github.com/kontiki/kontiki/fsm"
)

// TestAFollowerWhoseLogConflictsWithASnapshot: a leader that was cut off has a long log that was never committed. When it is back,
// the others have cut their logs, and send a snapshot that ends in the middle of it. It must follow, and also after a
// restart; raft by itself refuses what comes after the snapshot and is sent it again for ever, or panics.
func TestAFollowerWhoseLogConflictsWithASnapshot(t *testing.T) {
	for _, beyond := range []int{0, 1, 30} { // entries that its log has beyond the snapshot's last one
		for _, crash := range []bool{false, true} {
			t.Run(fmt.Sprintf("beyond=%d,crash=%v", beyond, crash), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) { conflictingInstall(t, beyond, crash) })
			})
		}
	}
}

func conflictingInstall(t *testing.T, beyond int, crash bool) {
	s := &simulation{t: t, net: newMemNet(1)}
	s.start(t, func(cfg *Config) { cfg.Timings.TrailingLogs, cfg.Timings.SnapshotThreshold = 1, 1_000_000 })
	old := s.masters.leader()
	old.put("/t/things/ns/0", "committed")
	for _, n := range s.masters.nodes {
		n.get("/t/things/ns/0")
	}
	i := s.leader()
	s.isolate(i, true, true)
	// What it takes meanwhile is never committed.
	ctx, cancel := context.WithCancel(context.Background())
	var proposals sync.WaitGroup
	propose := func(n int) {
		for k := range n {
			command := put("/t/things/ns/1", fmt.Sprintf("lost %d", k))
			command.Since = 1
			data, err := fsm.EncodeCommand(command)
			if err != nil {
				t.Fatal(err)
			}
			proposals.Go(func() { old.c.applyAll(ctx, [][]byte{data}) })
		}
		synctest.Wait()
	}
	before := old.c.replica.raft.LastIndex()
	propose(40)
	if grown := old.c.replica.raft.LastIndex(); grown != before+40 {
		t.Fatalf("the log of the leader that is cut off grew from %d to %d", before, grown)
	}
	var other *node
	eventually(t, "another leader", func() error {
		for j, n := range s.masters.nodes {
			if j != i && n.c.IsLeader() {
				other = n
				return nil
			}
		}
		return errors.New("nobody leads")
	})
	// The others' snapshot ends so many entries before the end of that log.
	for other.c.replica.raft.LastIndex() < before+40-uint64(beyond) {
		other.put("/t/things/ns/0", "later")
	}
	for _, n := range s.masters.nodes {
		if n == old {
			continue
		}
		n.get("/t/things/ns/0")
		if err := n.c.replica.await(context.Background(), func() raft.Future { return n.c.replica.raft.Snapshot() }); err != nil {
			t.Fatal(err)
		}
	}
	cancel()
	proposals.Wait()
	if crash {
		s.down(i, killed)
	}
	s.net.mend()
	if crash {
		s.up(i)
	}
	other.put("/t/things/ns/2", "after")
	eventually(t, "the old leader to follow", func() error {
		v, ok := old.c.store.View().Get("/t/things/ns/2")
		if !ok || string(v.Value) != "after" {
			return errors.New("it does not have what came after")
		}
		return nil
	})
	if v, ok := old.c.store.View().Get("/t/things/ns/1"); ok {
		t.Errorf("it has what was never committed: %q", v.Value)
	}
	// Also as a leader, and after a restart.
	s.masters.lead(old)
	old.put("/t/things/ns/3", "led")
	s.down(i, killed)
	s.up(i)
	for _, n := range s.masters.nodes {
		n.waitReady()
		if got := n.get("/t/things/ns/3"); got != "led" {
			t.Errorf("%s reads %q", n.cfg.Name, got)
		}
	}
	s.equal()
	time.Sleep(time.Second) // virtual
}

// TestAFollowerWhoseLogBeginsAfterItsSnapshot: its log holds what was never committed, from right after its snapshot on, as after
// an install, an election won and lost. It must follow; raft by itself refuses whatever it is sent until there is a newer snapshot.
func TestAFollowerWhoseLogBeginsAfterItsSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSchedule(1, simBugs{})
		s.assemble()
		defer s.disassemble()
		s.awaitLeader()
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		write := func(m *simMaster, value string) {
			t.Helper()
			if _, err := m.life.Load().c.Propose(ctx, put("/t/things/ns/0", value)); err != nil {
				t.Fatalf("write %q: %v", value, err)
			}
		}
		behind := s.masters[2]
		for i := range 5 {
			write(behind, fmt.Sprint(i))
		}
		s.snapshot(2)
		for _, m := range s.masters {
			m.kill(false)
		}
		s.ending.Wait()
		// The one that was elected in a term of its own took entries that nobody else has.
		end := behind.platter.snapshots[0].meta
		const own = 100
		behind.platter.first, behind.platter.entries = end.Index+1, nil
		for i := range uint64(40) {
			behind.platter.entries = append(behind.platter.entries, &raft.Log{Index: end.Index + 1 + i, Term: own, Type: raft.LogNoop})
		}
		for _, m := range s.masters {
			m.platter.stable = [][2]string{{"CurrentTerm", fmt.Sprint(own)}}
		}
		for _, m := range s.masters[:2] { // who lead in a later term
			m.start()
		}
		s.awaitLeader()
		write(s.masters[0], "after")
		behind.start()
		eventually(t, "it to follow", s.diverged)
		if v, ok := behind.life.Load().c.View().Get("/t/things/ns/0"); !ok || string(v.Value) != "after" {
			t.Errorf("it has %v", v)
		}
		if n := s.happened["a snapshot was installed"]; n != 0 {
			t.Errorf("%d snapshots were needed", n)
		}
	})
}
