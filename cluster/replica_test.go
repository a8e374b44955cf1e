package cluster

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/hashicorp/raft"
)

func TestRaftSettingsThatMustNotChange(t *testing.T) {
	m := startMasters(t, 1)
	r := m.nodes[0].c.consensus.Internals()
	if r.Config.RestoreCommittedLogs {
		t.Error("RestoreCommittedLogs hangs NewRaft on a long log")
	}
	if r.Config.PreVoteDisabled {
		t.Error("pre-vote is off")
	}
	if _, ok := any(r.Transport).(raft.WithPreVote); !ok {
		t.Error("the transport does not do pre-votes, so raft would not")
	}
	if r.Config.NotifyCh != nil {
		t.Error("NotifyCh blocks raft")
	}
}

// With RestoreCommittedLogs a log longer than raft's queue to the state machine hangs at the start.
func TestALongLogIsReplayedAtTheStart(t *testing.T) {
	m := startMasters(t, 1)
	n := m.nodes[0]
	const entries = 9000
	var wg sync.WaitGroup
	for w := range 300 {
		wg.Go(func() {
			for i := range entries / 300 {
				if _, err := n.c.Propose(context.Background(), put(fmt.Sprintf("/t/w/%d/%d", w, i), "x")); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	n.stop()
	n.start()
	n.waitReady()
	if got := n.c.View().Count("/t/", "/t0"); got != entries {
		t.Errorf("%d keys after a restart, %d were written", got, entries)
	}
}

// No-ops, barriers and configuration changes never reach the state machine: who waits for raft's commit index hangs.
func TestTheStateMachinesIndexIsTheLastCommands(t *testing.T) {
	m := startMasters(t, 2)
	leader := m.leader()
	leader.put("/t/a/b/c", "x")
	applied := leader.c.store.AppliedIndex()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := leader.c.consensus.Barrier(ctx); err != nil {
		t.Fatal(err)
	}
	if commit := leader.c.consensus.CommitIndex(); commit <= applied || leader.c.store.AppliedIndex() != applied {
		t.Fatalf("commit index %d, applied %d, before %d", commit, leader.c.store.AppliedIndex(), applied)
	}
	for _, n := range m.nodes { // and yet nobody hangs
		if got := n.get("/t/a/b/c"); got != "x" {
			t.Errorf("%s reads %q", n.cfg.Name, got)
		}
	}
}

func TestTornSnapshotsAreRemoved(t *testing.T) {
	m := startMasters(t, 1)
	n := m.nodes[0]
	n.put("/t/a/b/c", "x")
	n.stop()
	snapshots := filepath.Join(n.cfg.DataDir, "raft", "snapshots")
	torn := filepath.Join(snapshots, "2-99-1700000000000.tmp")
	if err := os.MkdirAll(torn, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(torn, "state.bin"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.start()
	n.waitReady()
	if _, err := os.Stat(torn); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unfinished snapshot is still there: %v", err)
	}
	if got := n.get("/t/a/b/c"); got != "x" {
		t.Errorf("read %q", got)
	}
}
