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

// What follows handles defects of raft's installation of snapshots on followers. A follower's log may contain entries of an old
// leader that were never committed, at and after the snapshot's last index. According to the paper (Ongaro and Ousterhout 2014,
// figure 13, InstallSnapshot, 6 and 7), the follower discards its log unless the entry at that index has the snapshot's term.
// hashicorp/raft v1.8.0 keeps these entries and trusts them: it refuses the entries that follow the snapshot, is sent the snapshot
// again, and so on forever; and with a log store that reports to be monotonic it panics (hashicorp/raft#697, #704). So the
// transport examines each snapshot that arrives and, once it is installed, passes raft an AppendEntries with one entry that
// replaces the conflicting one: that makes raft discard the log's end. This entry is never applied, since the snapshot contains its
// effect, and never sent, since the entry before it has been deleted: a follower that needs it gets a snapshot.
//
// A log may also begin right after the newest snapshot: after an install, or after a compaction while more than TrailingLogs
// entries were not committed. A leader whose entries differ from the log's first one on then asks whether the log matches at the
// snapshot's last entry. It does, but raft looks for that entry in the log only, and refuses (hashicorp/raft#86, #205): the
// follower gets nothing until the leader has taken a newer snapshot. So the transport compares such a request with the snapshot,
// and passes it to raft without a previous entry to compare. The same happens with a leader that begins further back, because it
// does not know what the follower has: the follower's snapshot contains the requested entry, but raft refuses until the leader
// reaches the beginning of its own log, sends a snapshot, and begins where that ends, again and again.
//
// A snapshot that arrives late, when the follower has already applied its entries, must not be installed: raft would go back to it,
// while the log that begins after it, or entries beyond it, contain acknowledged writes, and crash with "log not found" at the next
// commit. And a snapshot that the follower began by itself and that its slow disk delays may end after an install: then it must not
// count as the newest.

// installLog is raft's log store as raft sees it. It does not report to be monotonic: then raft would empty it at an install and
// still trust its end.
type installLog struct {
	raft.LogStore
	// absent is an index at which raft must find a conflicting entry, although the entry has been compacted.
	absent atomic.Uint64
	// newest is the end of the newest snapshot on disk; nil means none.
	newest atomic.Pointer[position]
	node   atomic.Pointer[raft.Raft] // nil until raft has started
}

// position identifies an entry of the replicated log.
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

// conflicts says whether the log has an entry at the index with another term, or has no entry there but entries after it.
func (l *installLog) conflicts(index, term uint64) bool {
	last, err := l.LastIndex()
	if err != nil || last < index {
		return false
	}
	var entry raft.Log
	return l.LogStore.GetLog(index, &entry) != nil || entry.Term != term
}

// covers says whether a snapshot contains nothing new: its entries have been applied here, or are in a newer snapshot.
func (l *installLog) covers(index, term uint64) bool {
	if node := l.node.Load(); node != nil && index <= node.AppliedIndex() {
		return true
	}
	newest := l.newest.Load()
	return newest != nil && (index < newest.index || index == newest.index && term == newest.term)
}

// matched changes a request whose previous entry is not in the log, because the newest snapshot contains it, to one without a
// previous entry and without the entries that the snapshot contains: then raft compares nothing. A snapshot contains only committed
// entries, so every leader has them. The commit index is limited to the last entry of the request (figure 2, AppendEntries, 5),
// because raft would otherwise consider the rest of its own log committed.
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

// installSnapshots is a snapshot store that updates installLog.newest.
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

// errOvertaken is returned for a snapshot that took so long that a newer one was installed meanwhile. Raft would take it for the
// newest.
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

// dropConflicting discards a log that conflicts with the newest snapshot: there was a crash before an install was complete.
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

// incoming passes the calls of other masters to raft, and completes installs of snapshots.
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
					in.install(rpc, request) // no other call may come between the snapshot and the truncation of the log
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

// settled waits until raft has processed the calls passed to it before, so that its applied index is known. It sends raft a call of
// a past term, which raft ignores.
func (in *incoming) settled(header raft.RPCHeader) bool {
	_, ok := in.call(raft.RPC{Command: &raft.AppendEntriesRequest{RPCHeader: header}})
	return ok
}

// skip responds that a snapshot is installed, since its content is already here.
func (in *incoming) skip(rpc raft.RPC, request *raft.InstallSnapshotRequest) {
	_, err := io.Copy(io.Discard, rpc.Reader) // the next bytes of the connection are another call
	rpc.Respond(&raft.InstallSnapshotResponse{RPCHeader: request.RPCHeader, Term: request.Term, Success: err == nil}, err)
}

// install passes a snapshot to raft, and responds once the log's end has been discarded.
func (in *incoming) install(rpc raft.RPC, request *raft.InstallSnapshotRequest) {
	answer, ok := in.call(raft.RPC{Command: request, Reader: rpc.Reader})
	if !ok {
		return // raft is shutting down: the caller's connection ends
	}
	if response, is := answer.Response.(*raft.InstallSnapshotResponse); is && answer.Error == nil && response.Success {
		if err := in.giveUp(request); err != nil {
			in.log.Error("the end of the log conflicts with the installed snapshot, and could not be discarded", "error", err)
		}
	}
	rpc.RespChan <- answer // has capacity
}

// giveUp makes the snapshot's last entry the last one of the log.
func (in *incoming) giveUp(request *raft.InstallSnapshotRequest) error {
	index := request.LastLogIndex
	in.log.Warn("the log contains entries that were never committed and conflict with the snapshot: discarding them", "snapshot", index, "term", request.LastLogTerm)
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
		return fmt.Errorf("raft refused: %+v", answer.Response) // a newer term: its leader will send a snapshot again
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
