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

	"github.com/kontiki/kontiki/cluster/mtls"
	"github.com/kontiki/kontiki/fsm"
)

func TestRaftSettingsThatMustNotChange(t *testing.T) {
	m := startMasters(t, 1)
	r := m.nodes[0].c.replica
	if r.config.RestoreCommittedLogs {
		t.Error("RestoreCommittedLogs hangs NewRaft on a long log")
	}
	if r.config.PreVoteDisabled {
		t.Error("pre-vote is off")
	}
	if _, ok := any(r.transport).(raft.WithPreVote); !ok {
		t.Error("the transport does not do pre-votes, so raft would not")
	}
	if r.config.NotifyCh != nil {
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
	if err := leader.c.replica.barrier(ctx); err != nil {
		t.Fatal(err)
	}
	if commit := leader.c.replica.raft.CommitIndex(); commit <= applied || leader.c.store.AppliedIndex() != applied {
		t.Fatalf("commit index %d, applied %d, before %d", commit, leader.c.store.AppliedIndex(), applied)
	}
	for _, n := range m.nodes { // and yet nobody hangs
		if got := n.get("/t/a/b/c"); got != "x" {
			t.Errorf("%s reads %q", n.cfg.Name, got)
		}
	}
}

func TestApplyAndApplyBatchBehaveAlike(t *testing.T) {
	entry := func(index uint64, key string) *raft.Log {
		data, err := fsm.EncodeCommand(put(key, "x"))
		if err != nil {
			t.Fatal(err)
		}
		return &raft.Log{Index: index, Term: 1, Type: raft.LogCommand, Data: data}
	}
	told, reconfigured := 0, 0
	one, batch := fsm.New(fsm.Options{}), fsm.New(fsm.Options{})
	single := newApplier(one, func() {}, func() {})
	batched := newApplier(batch, func() { told++ }, func() { reconfigured++ })
	entries := []*raft.Log{
		{Index: 1, Type: raft.LogConfiguration}, entry(2, "/a/a/a/a"), {Index: 3, Type: raft.LogConfiguration}, entry(4, "/a/a/a/b"),
		{Index: 5, Type: raft.LogCommand, Data: []byte("garbage")}, {Index: 6, Type: raft.LogConfiguration},
	}
	answers := batched.ApplyBatch(entries)
	if len(answers) != len(entries) {
		t.Fatalf("%d answers for %d entries", len(answers), len(entries))
	}
	for i, e := range entries {
		if e.Type != raft.LogCommand {
			if answers[i] != nil {
				t.Errorf("entry %d is no command and got %v", e.Index, answers[i])
			}
			continue
		}
		want, got := single.Apply(e).(fsm.Outcome), answers[i].(fsm.Outcome)
		if want.Result.Revision != got.Result.Revision || (want.Err == nil) != (got.Err == nil) {
			t.Errorf("entry %d: %+v alone, %+v in a batch", e.Index, want, got)
		}
	}
	if one.AppliedIndex() != batch.AppliedIndex() || one.AppliedIndex() != 5 || told != 1 {
		t.Errorf("applied %d and %d, told %d times", one.AppliedIndex(), batch.AppliedIndex(), told)
	}
	if answers := batched.ApplyBatch([]*raft.Log{{Index: 7, Type: raft.LogConfiguration}}); len(answers) != 1 || told != 1 || reconfigured != 2 {
		t.Errorf("a batch without commands: %v, told %d times", answers, told)
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

func TestRoundsAreSharedAndNeverOlderThanTheirCallers(t *testing.T) {
	var tasks tasks
	var clock, runs int
	var mu sync.Mutex
	release := make(chan struct{})
	entered := make(chan struct{}, 16)
	r := round[int]{tasks: &tasks, run: func() (int, error) {
		mu.Lock()
		runs++
		now := clock
		mu.Unlock()
		entered <- struct{}{}
		<-release
		return now, nil
	}}
	first := make(chan int, 1)
	go func() { v, _ := r.do(context.Background()); first <- v }()
	<-entered
	mu.Lock()
	clock = 1 // what a later caller must see
	mu.Unlock()
	const late = 50
	results := make(chan int, late)
	var joined sync.WaitGroup
	for range late {
		joined.Add(1)
		go func() {
			joined.Done()
			v, _ := r.do(context.Background())
			results <- v
		}()
	}
	joined.Wait()
	eventually(t, "a second round being asked for", func() error {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.next == nil {
			return errors.New("nobody waits")
		}
		return nil
	})
	close(release)
	if v := <-first; v != 0 {
		t.Errorf("the first caller got %d", v)
	}
	for range late {
		if v := <-results; v != 1 {
			t.Errorf("a caller got a result from before it asked")
		}
	}
	mu.Lock()
	if runs > 10 {
		t.Errorf("%d callers took %d rounds", late+1, runs)
	}
	mu.Unlock()
	tasks.close()
	if _, err := r.do(context.Background()); !errors.Is(err, mtls.ErrClosed) {
		t.Errorf("after close: %v", err)
	}
}
