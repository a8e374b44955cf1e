package raftfix

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// What raft leaves undone when a follower installs a snapshot. Its log may hold entries of an old leader that were never
// committed, at and beyond the snapshot's last index. The paper (Ongaro and Ousterhout 2014, figure 13, InstallSnapshot, 6 and 7)
// has the follower discard its log unless the entry at that index has the snapshot's term. hashicorp/raft v1.8.0 keeps the
// entries and the belief in them: it refuses what follows the snapshot, is sent the snapshot again, and so on for ever; and
// with a log store that calls itself monotonic it panics (hashicorp/raft#697, #704). So the transport looks at each
// snapshot that comes in, and, once it is installed, gives raft an AppendEntries with one entry that takes the place of the
// conflicting one: that is how raft gives up a log's end. The entry is never applied, since the snapshot has what it stands
// for, and never sent, since the one before it is gone: who needs it gets a snapshot.
//
// A log may also begin right after the newest snapshot: after an install, or after a compaction while more than TrailingLogs
// entries were not committed. A leader whose entries differ from the log's first ones on then asks whether the log matches at the
// snapshot's last entry. It does, but raft looks for that entry in the log only, and refuses (hashicorp/raft#86, #205): the
// follower gets nothing until the leader has taken a newer snapshot. So the transport compares such a request with the snapshot,
// and tells raft that nothing is to be compared. The same goes for a leader that begins further back, because it has not heard what
// the follower has: the follower's snapshot has what it is asked for, and raft refuses until the leader is at the beginning of its own
// log, sends a snapshot, and begins where that ends, again and again.
//
// A snapshot that comes late, when the follower has applied what it has, is not installed: raft would go back to it, with a log that
// begins after it or beyond it holds what was acknowledged, and crash with "log not found" at the next commit. And a
// snapshot that the follower began by itself and that its disk holds up may end after an install: it does not count then.

// installLog is raft's log store as raft sees it. It is not monotonic: raft would empty it at an install and go on to believe
// in its end.
type installLog struct {
	raft.LogStore
	// absent is an index whose entry raft shall find, and find in conflict, though it is compacted away.
	absent atomic.Uint64
	// newest is the end of the newest snapshot on disk; nil for none.
	newest atomic.Pointer[position]
	node   atomic.Pointer[raft.Raft] // nil until raft has started
}

// position is an entry of the log of all.
type position struct{ index, term uint64 }

// GetLog implements raft.LogStore.
func (l *installLog) GetLog(index uint64, entry *raft.Log) error {
	err := l.LogStore.GetLog(index, entry)
	if err != nil && index != 0 && index == l.absent.Load() {
		*entry = raft.Log{Index: index}
		return nil
	}
	return err
}

// conflicts says whether the log has another entry at the index than the one of that term, or none while it goes on beyond.
func (l *installLog) conflicts(index, term uint64) bool {
	last, err := l.LastIndex()
	if err != nil || last < index {
		return false
	}
	var entry raft.Log
	return l.LogStore.GetLog(index, &entry) != nil || entry.Term != term
}

// covers says whether a snapshot brings nothing: what it has is applied here, or in a newer snapshot.
func (l *installLog) covers(index, term uint64) bool {
	if node := l.node.Load(); node != nil && index <= node.AppliedIndex() {
		return true
	}
	newest := l.newest.Load()
	return newest != nil && (index < newest.index || index == newest.index && term == newest.term)
}

// matched answers a request whose previous entry is not in the log, because the newest snapshot has it, as one without a previous
// entry and without the entries that the snapshot has: raft compares nothing then. What a snapshot has is committed, so every
// leader has it. What follows is committed no further than the request shows (figure 2, AppendEntries, 5): raft would believe in
// the rest of its own log.
func (l *installLog) matched(request *raft.AppendEntriesRequest) *raft.AppendEntriesRequest {
	newest := l.newest.Load()
	switch previous := request.PrevLogEntry; {
	case newest == nil, previous > newest.index, previous == newest.index && request.PrevLogTerm != newest.term:
		return request
	case previous == 0 && len(request.Entries) == 0: // a heartbeat
		return request
	}
	first, err := l.FirstIndex()
	if err != nil {
		return request
	}
	last, err := l.LastIndex()
	if err != nil || first != 0 && first <= request.PrevLogEntry && request.PrevLogEntry <= last || last <= newest.index && request.PrevLogEntry == newest.index {
		return request // raft finds it
	}
	rest := *request
	rest.PrevLogEntry, rest.PrevLogTerm = 0, 0
	for len(rest.Entries) > 0 && rest.Entries[0].Index <= newest.index {
		rest.Entries = rest.Entries[1:]
	}
	rest.LeaderCommitIndex = min(request.LeaderCommitIndex, newest.index+uint64(len(rest.Entries)))
	return &rest
}

// installSnapshots keeps installLog.newest.
type installSnapshots struct {
	raft.SnapshotStore
	logs *installLog
}

func (s installSnapshots) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration, configurationIndex uint64, transport raft.Transport) (raft.SnapshotSink, error) {
	sink, err := s.SnapshotStore.Create(version, index, term, configuration, configurationIndex, transport)
	if err != nil {
		return nil, err
	}
	return installSink{sink, s.logs, position{index, term}}, nil
}

type installSink struct {
	raft.SnapshotSink
	logs *installLog
	end  position
}

// errOvertaken is of a snapshot whose disk was slow: a newer one was installed meanwhile. Raft would take it for the newest.
var errOvertaken = errors.New("a newer snapshot was installed meanwhile")

func (s installSink) Close() error {
	if err := s.SnapshotSink.Close(); err != nil {
		return err
	}
	for {
		newest := s.logs.newest.Load()
		if newest != nil && newest.index > s.end.index {
			return errOvertaken
		}
		if s.logs.newest.CompareAndSwap(newest, &s.end) {
			return nil
		}
	}
}

// dropConflicting discards a log that conflicts with the newest snapshot: a crash came between an install and its end.
func (l *installLog) dropConflicting(snapshots raft.SnapshotStore, log *slog.Logger) error {
	list, err := snapshots.List()
	if err != nil || len(list) == 0 {
		return err
	}
	first, err := l.FirstIndex()
	if err != nil {
		return err
	}
	last, err := l.LastIndex()
	if err != nil {
		return err
	}
	newest := list[0]
	l.newest.Store(&position{newest.Index, newest.Term})
	if first == 0 || first > newest.Index || !l.conflicts(newest.Index, newest.Term) {
		return nil
	}
	log.Warn("the log conflicts with the snapshot that was installed last: dropping the log", "snapshot", newest.Index, "term", newest.Term, "first", first, "last", last)
	if err := l.DeleteRange(first, last); err != nil {
		return fmt.Errorf("drop a log that conflicts with a snapshot: %w", err)
	}
	return nil
}

// incoming hands raft the calls of others, and ends what raft leaves undone at an install.
type incoming struct {
	from <-chan raft.RPC
	to   chan raft.RPC
	logs *installLog
	log  *slog.Logger
	done chan struct{}
	once sync.Once
	life sync.WaitGroup
}

func newIncoming(from <-chan raft.RPC, logs *installLog, log *slog.Logger) *incoming {
	in := &incoming{from: from, to: make(chan raft.RPC), logs: logs, log: log, done: make(chan struct{})}
	in.life.Go(in.run)
	return in
}

func (in *incoming) run() {
	for {
		select {
		case rpc := <-in.from:
			switch request := rpc.Command.(type) {
			case *raft.AppendEntriesRequest:
				rpc.Command = in.logs.matched(request)
			case *raft.InstallSnapshotRequest:
				if !in.settled(request.RPCHeader) {
					return
				}
				if in.logs.covers(request.LastLogIndex, request.LastLogTerm) {
					in.life.Go(func() { in.skip(rpc, request) })
					continue
				}
				if in.logs.conflicts(request.LastLogIndex, request.LastLogTerm) {
					in.install(rpc, request) // nothing comes between the snapshot and the end of the log
					continue
				}
			}
			select {
			case in.to <- rpc:
			case <-in.done:
				return
			}
		case <-in.done:
			return
		}
	}
}

// settled waits until raft has done what it was handed, so that what it has applied is known. What it answers to is a call of a term
// that is over, which it ignores.
func (in *incoming) settled(header raft.RPCHeader) bool {
	_, ok := in.call(raft.RPC{Command: &raft.AppendEntriesRequest{RPCHeader: header}})
	return ok
}

// skip answers that a snapshot is here, which it is.
func (in *incoming) skip(rpc raft.RPC, request *raft.InstallSnapshotRequest) {
	_, err := io.Copy(io.Discard, rpc.Reader) // what follows it on the connection is another call
	rpc.Respond(&raft.InstallSnapshotResponse{RPCHeader: request.RPCHeader, Term: request.Term, Success: err == nil}, err)
}

// install passes a snapshot on, and answers once the end of the log is given up.
func (in *incoming) install(rpc raft.RPC, request *raft.InstallSnapshotRequest) {
	answer, ok := in.call(raft.RPC{Command: request, Reader: rpc.Reader})
	if !ok {
		return // raft is shutting down: the caller's connection ends
	}
	if response, is := answer.Response.(*raft.InstallSnapshotResponse); is && answer.Error == nil && response.Success {
		if err := in.giveUp(request); err != nil {
			in.log.Error("the end of the log conflicts with the snapshot that was installed, and could not be given up", "error", err)
		}
	}
	rpc.RespChan <- answer // has room
}

// giveUp makes the snapshot's last entry the last one of the log.
func (in *incoming) giveUp(request *raft.InstallSnapshotRequest) error {
	index := request.LastLogIndex
	in.log.Warn("the log holds entries that were never committed and conflict with the snapshot: giving them up", "snapshot", index, "term", request.LastLogTerm)
	in.logs.absent.Store(index)
	defer in.logs.absent.Store(0)
	answer, ok := in.call(raft.RPC{Command: &raft.AppendEntriesRequest{
		RPCHeader: request.RPCHeader, Term: request.Term,
		Entries: []*raft.Log{{Index: index, Term: request.LastLogTerm, Type: raft.LogNoop}},
	}})
	switch response, is := answer.Response.(*raft.AppendEntriesResponse); {
	case !ok:
		return raft.ErrRaftShutdown
	case answer.Error != nil:
		return answer.Error
	case !is || !response.Success:
		return fmt.Errorf("raft refused: %+v", answer.Response) // a newer term: its leader sends a snapshot again
	}
	first, err := in.logs.FirstIndex()
	if err != nil {
		return err
	}
	if first == 0 || first >= index {
		return nil
	}
	return in.logs.DeleteRange(first, index-1) // they may be of the old leader too
}

func (in *incoming) call(rpc raft.RPC) (raft.RPCResponse, bool) {
	answers := make(chan raft.RPCResponse, 1)
	rpc.RespChan = answers
	select {
	case in.to <- rpc:
	case <-in.done:
		return raft.RPCResponse{}, false
	}
	select {
	case answer := <-answers:
		return answer, true
	case <-in.done:
		return raft.RPCResponse{}, false
	}
}

func (in *incoming) close() {
	in.once.Do(func() { close(in.done) })
	in.life.Wait()
}
