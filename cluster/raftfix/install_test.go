package raftfix

import (
	"errors"
	"testing"

	"github.com/hashicorp/raft"
)

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

// TestWhatASnapshotHasIsNotAskedOfTheLog: requests that begin before the log, with entries that the newest snapshot contains.
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
