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
	clusterv1 "github.com/kontiki/kontiki/proto/kontiki/cluster/v1"
	"github.com/kontiki/kontiki/test/await"
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
			proposals.Go(func() { old.c.consensus.ServePropose(ctx, &clusterv1.ProposeRequest{Commands: [][]byte{data}}) })
		}
		synctest.Wait()
	}
	before := old.c.consensus.Internals().Raft.LastIndex()
	propose(40)
	if grown := old.c.consensus.Internals().Raft.LastIndex(); grown != before+40 {
		t.Fatalf("the log of the leader that is cut off grew from %d to %d", before, grown)
	}
	var other *node
	await.That(t, "another leader", func() error {
		for j, n := range s.masters.nodes {
			if j != i && n.c.IsLeader() {
				other = n
				return nil
			}
		}
		return errors.New("nobody leads")
	})
	// The others' snapshot ends so many entries before the end of that log.
	for other.c.consensus.Internals().Raft.LastIndex() < before+40-uint64(beyond) {
		other.put("/t/things/ns/0", "later")
	}
	for _, n := range s.masters.nodes {
		if n == old {
			continue
		}
		n.get("/t/things/ns/0")
		if err := n.c.consensus.Await(context.Background(), func() raft.Future { return n.c.consensus.Internals().Raft.Snapshot() }); err != nil {
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
	await.That(t, "the old leader to follow", func() error {
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
