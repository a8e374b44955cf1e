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

func TestWhatConflictsWithASnapshot(t *testing.T) {
	logs := &installLog{LogStore: raft.NewInmemStore()}
	if logs.conflicts(5, 2) {
		t.Error("an empty log conflicts")
	}
	for i := uint64(3); i <= 8; i++ {
		if err := logs.StoreLog(&raft.Log{Index: i, Term: 2}); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range []struct {
		index, term uint64
		want        bool
	}{{8, 2, false}, {8, 3, true}, {5, 2, false}, {5, 1, true}, {9, 9, false}, {2, 2, true}} {
		if got := logs.conflicts(x.index, x.term); got != x.want {
			t.Errorf("index %d, term %d: %v", x.index, x.term, got)
		}
	}
	var entry raft.Log
	logs.absent.Store(2)
	if err := logs.GetLog(2, &entry); err != nil || entry.Index != 2 || entry.Term != 0 {
		t.Errorf("an absent entry: %+v, %v", entry, err)
	}
	logs.absent.Store(0)
	if err := logs.GetLog(2, &entry); !errors.Is(err, raft.ErrLogNotFound) {
		t.Errorf("a missing entry: %v", err)
	}
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

func TestASnapshotThatComesLate(t *testing.T) {
	logs := &installLog{LogStore: raft.NewInmemStore()}
	snapshots := installSnapshots{raft.NewInmemSnapshotStore(), logs}
	if logs.covers(3, 1) {
		t.Error("a snapshot is covered by none")
	}
	sink, err := snapshots.Create(1, 19, 2, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := sink.Close(); err != nil {
		t.Fatal(err)
	}
	older, err := snapshots.Create(1, 15, 2, raft.Configuration{}, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := older.Close(); !errors.Is(err, errOvertaken) || logs.newest.Load().index != 19 {
		t.Errorf("the newest snapshot ends at %+v, %v", logs.newest.Load(), err)
	}
	if !logs.covers(15, 2) {
		t.Error("an older snapshot brings nothing to an empty log either")
	}
	for i := uint64(20); i <= 30; i++ {
		if err := logs.StoreLog(&raft.Log{Index: i, Term: 2}); err != nil {
			t.Fatal(err)
		}
	}
	for _, x := range []struct {
		index, term uint64
		want        bool
	}{{15, 1, true}, {19, 2, true}, {19, 3, false}, {20, 2, false}, {25, 2, false}} {
		if got := logs.covers(x.index, x.term); got != x.want {
			t.Errorf("a snapshot to index %d, term %d, is covered: %v", x.index, x.term, got)
		}
	}
	entries := []*raft.Log{{Index: 20, Term: 3}, {Index: 21, Term: 3}}
	for _, x := range []struct {
		index, term, commit uint64
		want                uint64 // the previous entry that raft is to compare
		committed           uint64
	}{{19, 2, 40, 0, 21}, {19, 2, 20, 0, 20}, {19, 3, 40, 19, 40}, {18, 2, 40, 0, 21}, {20, 2, 40, 20, 40}} {
		request := &raft.AppendEntriesRequest{PrevLogEntry: x.index, PrevLogTerm: x.term, LeaderCommitIndex: x.commit, Entries: entries}
		if got := logs.matched(request); got.PrevLogEntry != x.want || got.LeaderCommitIndex != x.committed {
			t.Errorf("after index %d, term %d, commit index %d: raft is asked after index %d, commit index %d", x.index, x.term, x.commit, got.PrevLogEntry, got.LeaderCommitIndex)
		}
		if request.PrevLogEntry != x.index || request.LeaderCommitIndex != x.commit {
			t.Error("the request itself was changed")
		}
	}
}

// TestWhatASnapshotHasIsNotAskedOfTheLog: requests that begin before what the log holds, because the newest snapshot has it.
func TestWhatASnapshotHasIsNotAskedOfTheLog(t *testing.T) {
	const end = 19 // of the snapshot
	for name, x := range map[string]struct {
		first, last           uint64 // of the log; 0 for an empty one
		previous, from, to    uint64 // of the request; no entries without from
		wantPrevious, wantOne uint64 // what raft is to compare, and the first entry that it is given
		commit                uint64
	}{
		"the leader begins further back":                        {15, 19, 10, 11, 22, 0, 20, 22},
		"it does, and sends nothing that is new":                {15, 19, 10, 11, 19, 0, 0, 19},
		"it does, and sends less than the snapshot has":         {15, 19, 10, 11, 13, 0, 0, 19},
		"it does, and the log goes on":                          {15, 25, 10, 11, 22, 0, 20, 22},
		"it does, and the log begins after the snapshot":        {20, 25, 10, 11, 22, 0, 20, 22},
		"it does, and the log is empty":                         {0, 0, 10, 11, 22, 0, 20, 22},
		"it begins with its first entry":                        {15, 19, 0, 1, 22, 0, 20, 22},
		"it asks where it is":                                   {15, 19, 10, 0, 0, 0, 0, 19},
		"the log has the entry before":                          {15, 25, 16, 17, 22, 16, 17, 40},
		"the log has the entry before, which is the first":      {15, 25, 15, 16, 22, 15, 16, 40},
		"the log is empty, and the snapshot ends at that entry": {0, 0, 19, 20, 22, 19, 20, 40},
		"the log ends before the snapshot":                      {5, 12, 15, 16, 22, 0, 20, 22},
		"a heartbeat":                                           {15, 19, 0, 0, 0, 0, 0, 40},
	} {
		logs := &installLog{LogStore: raft.NewInmemStore()}
		logs.newest.Store(&position{end, 2})
		for i := x.first; i > 0 && i <= x.last; i++ {
			if err := logs.StoreLog(&raft.Log{Index: i, Term: 2}); err != nil {
				t.Fatal(err)
			}
		}
		request := &raft.AppendEntriesRequest{PrevLogEntry: x.previous, PrevLogTerm: 2, LeaderCommitIndex: 40}
		for i := x.from; i > 0 && i <= x.to; i++ {
			request.Entries = append(request.Entries, &raft.Log{Index: i, Term: 2})
		}
		got, one := logs.matched(request), uint64(0)
		if len(got.Entries) > 0 {
			one = got.Entries[0].Index
		}
		if got.PrevLogEntry != x.wantPrevious || one != x.wantOne || got.LeaderCommitIndex != x.commit {
			t.Errorf("%s: raft is asked after %d, given entries from %d on, commit index %d", name, got.PrevLogEntry, one, got.LeaderCommitIndex)
		}
	}
}
